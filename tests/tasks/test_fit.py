import csv
import os
import signal
import threading

import pytest
import torch

from genobird.errors import UsageError
from genobird.tasks.data import PretrainBatches, PretrainDataSettings
from genobird.tasks.fit import FitSettings, fit
from genobird.tasks.pretrain import Pretraining
from tests.models import tiny_checkpoint

SETTINGS = FitSettings(
    steps=4, learning_rate=3e-3, warmup_steps=1, device="cpu", threads=1, log_every=1, save_every=2,
    validate_every=2,
)  # fmt: skip


class Crash(Exception):
    """What a failing machine does."""


@pytest.fixture
def batches(tiny_shards, tiny_tokenizer):
    settings = PretrainDataSettings(max_tokens=66, sequences=2)
    return PretrainBatches(
        tiny_shards, settings, vocab_size=tiny_tokenizer.vocab_size, block_size=16
    )


@pytest.fixture
def task(tiny_tokenizer):
    def task(**changes):
        checkpoint = tiny_checkpoint(tiny_tokenizer, dropout=0.1)
        return Pretraining(checkpoint, SETTINGS.model_copy(update=changes))

    return task


@pytest.fixture
def run(batches, task, tmp_path):
    """Train in a folder; `train` replaces what makes the batches."""

    def run(name="run", train=batches, *, resume=False, validate=True, **changes):
        trained = task(**changes)
        fit(
            trained, train, tmp_path / name, resume=resume, progress=False,
            validation=batches if validate else None, validations=2,
        )  # fmt: skip
        return trained

    return run


def weights(task):
    return {name: value.clone() for name, value in task.parts.state_dict().items()}


def assert_same(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def at_step(batches, step, act):
    """The same batches, but for what happens while that of `step` is made."""

    def make(current):
        if current == step:
            act()
        return batches(current)

    return make


def crash():
    raise Crash("power cut")


def test_dropout_acts_though_the_model_came_for_use(run, task):
    assert not task().parts["encoder"].training
    one, other = run("one", seed=1, steps=2), run("other", seed=2, steps=2)
    assert not one.training
    assert not torch.equal(one.checkpoint.mlm.bias, other.checkpoint.mlm.bias)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_four_steps_are_two_a_crash_and_two_more(run, batches, schedule, validate):
    whole = run("whole", schedule=schedule, validate=validate)
    with pytest.raises(Crash):
        run("parts", at_step(batches, 2, crash), schedule=schedule, validate=validate)
    assert_same(run("parts", resume=True, schedule=schedule, validate=validate), whole)


def test_a_crash_between_saves_loses_only_the_steps_since(run, batches):
    whole = run("whole", steps=6, save_every=2)
    made = []

    def count(step):
        made.append(step)
        return batches(step)

    with pytest.raises(Crash):
        run("parts", at_step(batches, 5, crash), steps=6, save_every=2)
    assert_same(run("parts", count, resume=True, steps=6, save_every=2), whole)
    assert made == [4, 5]


def test_a_run_may_be_stopped_many_times(run, batches):
    whole = run("whole", save_every=1)
    for step in (1, 2, 3):
        with pytest.raises(Crash):
            run("parts", at_step(batches, step, crash), resume=True, save_every=1)
    assert_same(run("parts", resume=True, save_every=1), whole)


def test_workers_change_nothing(run):
    assert_same(run("workers", workers=2), run("none"))


def test_a_finished_run_that_is_resumed_stays_as_it_is(run):
    finished = run()
    assert_same(run(resume=True), finished)


def test_resuming_what_was_never_saved_starts_at_the_beginning(run):
    assert_same(run("new", resume=True), run("whole"))


def test_a_state_is_not_overwritten_without_resume(run, tmp_path):
    run()
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(UsageError, match="holds an unfinished run; pass --resume, or --force"):
        run()
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_a_crash_while_saving_leaves_the_last_state(run, batches, monkeypatch):
    whole = run("whole")
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError("no space left")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("genobird.tasks.fit.os.replace", full)
        with pytest.raises(OSError, match="no space"):
            run("parts")
    assert_same(run("parts", resume=True), whole)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_the_run_after_its_step_with_a_state_to_resume(run, batches, tmp_path):
    whole = run("whole", save_every=100)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("parts", at_step(batches, 2, interrupt), save_every=100)
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert_same(run("parts", resume=True, save_every=100), whole)


def test_a_second_ctrl_c_ends_the_run_at_once(run, batches, tmp_path):
    def twice():
        interrupt()
        interrupt()

    whole = run("whole")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("parts", at_step(batches, 3, twice))
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert_same(run("parts", resume=True), whole)


def test_a_run_works_outside_of_the_main_thread(run):
    found = []
    thread = threading.Thread(target=lambda: found.append(run("thread")))
    thread.start()
    thread.join()
    assert_same(found[0], run("main"))


def test_another_exit_is_not_taken_for_ctrl_c(run, batches):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        run("parts", at_step(batches, 1, leave))
    assert caught.value.code == 3


def test_logs_are_written_as_csv_and_for_tensorboard(run, tmp_path):
    run()
    found = rows(tmp_path / "run" / "logs" / "metrics.csv")
    losses = [(int(r["step"]), float(r["train/loss"])) for r in found if r["train/loss"]]
    assert [step for step, _ in losses] == [0, 1, 2, 3]
    validated = [(int(r["step"]), r) for r in found if r["validation/loss"]]
    assert [step for step, _ in validated] == [1, 3]
    for name in ("loss", "accuracy", "bits_per_base"):
        assert float(validated[0][1][f"validation/{name}"]) >= 0
    (events,) = (tmp_path / "run" / "logs").glob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
    assert b"validation/bits_per_base" in events.read_bytes()


def test_a_resumed_run_validates_at_the_same_steps_and_keeps_earlier_logs(run, batches, tmp_path):
    run("whole", steps=6, save_every=1, validate_every=2)
    for step in (3, 5):
        with pytest.raises(Crash):
            run(
                "parts", at_step(batches, step, crash), resume=True, steps=6, save_every=1,
                validate_every=2,
            )  # fmt: skip
    run("parts", resume=True, steps=6, save_every=1, validate_every=2)
    logs = tmp_path / "parts" / "logs"
    parts = [*(logs / f"metrics.{i}.csv" for i in range(2)), logs / "metrics.csv"]
    joined = [row for part in parts for row in rows(part)]
    expected = rows(tmp_path / "whole" / "logs" / "metrics.csv")
    for name in ("train/loss", "validation/loss"):
        assert [(r["step"], r[name]) for r in joined if r[name]] == [
            (r["step"], r[name]) for r in expected if r[name]
        ]


def test_log_lines_tell_step_and_metrics(run, caplog):
    with caplog.at_level("INFO", "genobird.tasks.fit"):
        run(log_every=2)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == [
        "step 2 of 4", "step 2", "step 4 of 4", "step 4",
    ]  # fmt: skip
    assert "loss " in lines[0]
    assert "min left" in lines[0]
    assert lines[1].startswith("step 2, validation: loss ")


def test_the_learning_rate_warms_up_and_decays_to_zero(task):
    for schedule, middle in (("linear", 0.5), ("cosine", 0.5)):
        made = task(steps=30, warmup_steps=10, learning_rate=1.0, schedule=schedule)
        (optimiser,), (entry,) = made.configure_optimizers()
        rates = []
        for _ in range(31):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            entry["scheduler"].step()
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert max(rates) == rates[9] == rates[10] == 1.0
        assert rates[20] == pytest.approx(middle)
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[30] == pytest.approx(0, abs=1e-6)


def test_biases_and_norms_do_not_decay(task):
    (optimiser,), _ = task(weight_decay=0.3).configure_optimizers()
    decayed, plain = optimiser.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in plain["params"]} == {1}
    assert min(p.dim() for p in decayed["params"]) == 2


def test_one_batch_can_be_learnt_by_heart(run, batches):
    fixed = batches(0)
    trained = run(
        "heart", lambda step: fixed, validate=False, steps=60, learning_rate=1e-2, warmup_steps=5,
        save_every=1000, log_every=1000,
    )  # fmt: skip
    with torch.no_grad():
        after = trained.model_step(fixed)["loss"]
    assert after < 0.2 * torch.tensor(59.0).log()


def test_bfloat16_trains_and_keeps_float32_weights(run):
    trained = run("bf16", precision="bf16", steps=2)
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in trained.parameters())
    changed = [
        not torch.equal(a, b)
        for a, b in zip(
            weights(trained).values(), weights(run("f32", steps=2)).values(), strict=True
        )
    ]
    assert any(changed)
