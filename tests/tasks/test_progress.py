import pytest
import torch

from genobird.errors import UsageError
from genobird.tasks import callbacks
from genobird.tasks.callbacks import flops_per_token, loggers
from tests.tasks.runs import rows

SPEED = (
    "tokens_per_second",
    "bases_per_second",
    "steps_per_second",
    "memory_gb",
    "minutes_left",
)


def test_speed_memory_and_time_left_are_told_with_each_line(run, tmp_path, caplog):
    with caplog.at_level("INFO", "genobird.tasks.callbacks"):
        run(steps=2, validate=False)
    for line in (record.getMessage() for record in caplog.records):
        for part in (" tokens/s, ", " bases/s, ", " GB, ", " min left"):
            assert part in line
        assert "MFU" not in line
    found = rows(tmp_path / "run" / "logs" / "metrics.csv")
    assert [float(row["speed/minutes_left"]) > 0 for row in found] == [True, False]
    for name in SPEED[:4]:
        assert all(float(row[f"speed/{name}"]) > 0 for row in found)
    assert "speed/mfu" not in found[0]


def test_tokens_and_bases_are_those_that_were_trained_on(run, batches):
    trained = run(steps=3, validate=False, accumulate=2)
    read = [batches(number) for number in range(6)]
    assert trained.tokens == sum(sum(batch.batch.lengths) for batch in read)
    assert trained.bases == sum(int(trained.lengths[batch.read].sum()) for batch in read)


def test_mfu_is_told_where_the_peak_is_known(run, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(callbacks, "get_available_flops", lambda *_: 1e9)
    with caplog.at_level("INFO", "genobird.tasks.callbacks"):
        trained = run(steps=2, validate=False)
    assert "MFU " in caplog.records[0].getMessage()
    assert trained.training is False
    (first, _) = rows(tmp_path / "run" / "logs" / "metrics.csv")
    rate = float(first["speed/tokens_per_second"])
    assert float(first["speed/mfu"]) > rate * 6 * trained.checkpoint.encoder.config.width / 1e9


def test_a_token_costs_three_times_its_forward_products(task, batches):
    made, batch = task(), batches(0)
    seen = []
    for module in made.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, given, out: seen.append(2 * given[0].numel() * m.out_features)
            )
    found = flops_per_token(made, batch)
    tokens = sum(batch.batch.lengths)
    assert found > 3 * sum(seen) / tokens  # attention and tower come on top
    assert not any(p.grad is not None for p in made.parameters())
    assert flops_per_token(made, object()) is None


def test_loggers_are_those_that_are_named(run, tmp_path):
    run("csv", steps=2, validate=False, loggers=("csv",))
    assert [p.name for p in (tmp_path / "csv" / "logs").iterdir()] == ["metrics.csv"]
    run("none", steps=2, validate=False, loggers=())
    assert not (tmp_path / "none" / "logs").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(callbacks, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=f"fit.loggers names {name}, .* `pip install {name}`"):
        loggers(tmp_path, ("csv", name))
    assert not list(tmp_path.iterdir())
