import shutil

import pytest
import torch

from genobird.errors import UsageError
from genobird.tasks import ranks
from genobird.tasks.settings import FitSettings
from tests.tasks.runs import rows
from tests.tasks.worlds import in_world

STEPS = 4
LOGGED = ("train/loss", "train/gradient_norm", "train/batch_size", "train/accuracy")


@pytest.fixture(scope="module")
def train(tiny_shards, tokenizer_path):
    """Train in a world of some size; returns exit codes."""

    def train(size, output, **how):
        return in_world(size, tiny_shards.path, tokenizer_path, output, **how)

    return train


@pytest.fixture(scope="module")
def one(train, tmp_path_factory):
    """A whole run of one process, with the state of each step."""
    output = tmp_path_factory.mktemp("one") / "run"
    assert train(1, output, copies=True) == [0]
    return output


@pytest.fixture(scope="module")
def two(train, tmp_path_factory):
    """The same of two processes."""
    output = tmp_path_factory.mktemp("two") / "run"
    assert train(2, output, copies=True) == [0, 0]
    return output


def assert_close(found, expected):
    found, expected = (torch.load(run / "trained.pt") for run in (found, expected))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if "running" in name:  # each batch counts alike in the one, a later one more in the other
            assert value.isfinite().all()
        elif value.dim() > 1:  # biases before batch norms have no gradient but noise, and drift
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_two_devices_train_as_one_does_with_twice_the_batches(one, two):
    assert_close(two, one)
    logged = [
        [row for row in rows(run / "logs" / "metrics.csv") if row["train/loss"]]
        for run in (one, two)
    ]
    assert [len(found) for found in logged] == [STEPS, STEPS]
    for alone, together in zip(*logged, strict=True):
        for name in LOGGED[:3]:
            assert float(together[name]) == pytest.approx(float(alone[name]), rel=1e-3), name


def test_one_process_logs_and_writes_for_all(two):
    lines = [(two.parent / f"{rank}.log").read_text().splitlines() for rank in range(2)]
    steps = [line for line in lines[0] if " of " in line]
    assert [line.partition(",")[0] for line in steps] == [f"step {i} of 4" for i in range(1, 5)]
    assert not lines[1]
    names = {path.name for path in two.iterdir()}
    copies = {f"{step}.ckpt" for step in range(1, STEPS + 1)}
    assert names == {"last.ckpt", "logs", "trained.pt", *copies}


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_of_one_process_goes_on_in_two(train, one, tmp_path, step):
    (tmp_path / "run").mkdir()
    shutil.copy(one / f"{step}.ckpt", tmp_path / "run" / "last.ckpt")
    assert train(2, tmp_path / "run", resume=True) == [0, 0]
    assert_close(tmp_path / "run", one)


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_of_two_processes_goes_on_in_one(train, two, tmp_path, step):
    (tmp_path / "run").mkdir()
    shutil.copy(two / f"{step}.ckpt", tmp_path / "run" / "last.ckpt")
    assert train(1, tmp_path / "run", resume=True) == [0]
    assert_close(tmp_path / "run", two)


def test_a_killed_process_ends_the_run_with_one_line_and_it_goes_on(train, one, tmp_path):
    codes = train(2, tmp_path / "run", act=("SIGKILL", 1, 2))
    assert codes == [1, -9]
    (line,) = [x for x in (tmp_path / "0.log").read_text().splitlines() if "error" in x]
    assert line.startswith("genobird: error: another process of this run has ended")
    assert "--resume" in line
    assert "Traceback" not in (tmp_path / "0.log").read_text()
    assert train(2, tmp_path / "run", resume=True) == [0, 0]
    assert_close(tmp_path / "run", one)


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_process_ends_all_with_a_state(train, one, tmp_path, rank):
    assert train(2, tmp_path / "run", act=("SIGTERM", rank, 2), save_every=100) == [143, 0]
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert (
        "keeps what is done (step 3); the same command with --resume goes on"
        in (tmp_path / "0.log").read_text()
    )
    assert train(1, tmp_path / "run", resume=True) == [0]
    assert_close(tmp_path / "run", one)


def test_sigterm_within_a_validation_ends_all_with_a_state(train, one, tmp_path):
    act = {"act": ("SIGTERM", 1, 2), "validating": True, "save_every": 100}
    assert train(2, tmp_path / "run", **act) == [143, 0]
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert (state["global_step"], state["validating"]) == (2, True)
    assert train(2, tmp_path / "run", resume=True) == [0, 0]
    assert_close(tmp_path / "run", one)
    logged = [
        row["step"] for row in rows(tmp_path / "run/logs/metrics.csv") if row["validation/loss"]
    ]
    assert logged == ["1", "3"]


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_all_batches(train, tmp_path):
    assert train(2, tmp_path / "run", act=("not finite", 1, 2)) == [1, 0]
    assert "step 3 has a loss of nan" in (tmp_path / "0.log").read_text()
    assert not (tmp_path / "1.log").read_text()
    saved = torch.load(tmp_path / "run" / "not-finite.pt", weights_only=True)
    assert (saved["step"], len(saved["batches"])) == (2, 2)


def test_what_only_some_processes_measured_is_averaged_over_them(one, two):
    alone, together = (rows(run / "logs" / "metrics.csv") for run in (one, two))
    assert len([r for r in together if r["validation/accuracy"]]) == 2
    assert len(alone) == len(together)


STARTERS = {
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "torchrun": ("WORLD_SIZE", "RANK"),
}


@pytest.mark.parametrize("starter", STARTERS)
def test_more_processes_than_the_settings_ask_for_are_refused_by_one_of_them(monkeypatch, starter):
    number, rank = STARTERS[starter]
    if starter == "torchrun":
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv(number, "2")
    monkeypatch.setenv(rank, "0")
    with pytest.raises(UsageError, match=f"{starter} started 2 processes, and fit.devices x fit"):
        ranks.launch(FitSettings())
    monkeypatch.setenv(rank, "1")
    with pytest.raises(SystemExit) as found:
        ranks.launch(FitSettings())
    assert found.value.code == 2


def test_processes_that_cannot_be_started_are_refused(monkeypatch):
    settings = {"device": "cpu", "accumulate": 4}
    with pytest.raises(UsageError, match=r"fit.nodes above 1 needs .* torchrun or by srun"):
        ranks.launch(FitSettings(nodes=2, **settings))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UsageError, match="give srun --ntasks-per-node=2 instead of --ntasks"):
        ranks.launch(FitSettings(devices=2, **settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 2, "accumulate": 3}, "accumulate is 3, the batches of a step over all"),
        ({"devices": 2}, "choose a multiple of 2"),
        ({"strategy": "fsdp"}, "fsdp is not supported: .* choose ddp"),
    ],
)
def test_settings_that_devices_cannot_share_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FitSettings(**changes)
