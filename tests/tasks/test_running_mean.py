from __future__ import annotations

import pytest
import torch

from genobird.tasks.callbacks import AfterSteps
from genobird.tasks.fit import fit, measured
from genobird.tasks.run_folder import Run
from tests.tasks.runs import Crash, assert_same, at_step, crash, rows, weights
from tests.tasks.test_resume import terminate

DECAY = 0.3


class Collect(AfterSteps):
    """The weights after each step."""

    def __init__(self, task):
        self.task, self.found = task, []

    def after_step(self, trainer):
        self.found.append(weights(self.task))


def test_what_a_run_leaves_is_the_mean_of_its_weights(batches, task, tmp_path):
    made = task(average=DECAY)
    collect = Collect(made)
    fit(made, batches, Run(tmp_path / "run", progress=False), callbacks=[collect])
    mean = collect.found[0]
    for step, now in enumerate(collect.found[1:], start=2):
        kept = min(DECAY, step / (9 + step))
        for name, value in now.items():
            whole = not value.is_floating_point()
            mean[name] = value if whole else kept * mean[name] + (1 - kept) * value
    assert len(collect.found) == 4
    for name, value in weights(made).items():
        torch.testing.assert_close(value, mean[name], msg=name)
        if name == "encoder.embedding.weight":
            assert not torch.equal(value, collect.found[-1][name])


def test_the_weights_train_as_without_a_mean(batches, task, tmp_path):
    last = []
    for decay in (0.0, DECAY):
        made = task(average=decay)
        collect = Collect(made)
        fit(
            made,
            batches,
            Run(tmp_path / str(decay), progress=False),
            validation=batches,
            validations=2,
            callbacks=[collect],
        )
        last.append(collect.found[-1])
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_the_mean_is_what_is_validated(run, batches, tmp_path):
    made = run(average=DECAY)
    logged = [row["validation/loss"] for row in rows(tmp_path / "run" / "logs" / "metrics.csv")]
    found = measured(made, batches, 2)["loss"]
    assert float([value for value in logged if value][-1]) == pytest.approx(found, rel=1e-5)


def test_a_stopped_run_goes_on_with_its_mean(run, batches):
    whole = run("whole", average=DECAY)
    with pytest.raises(Crash):
        run("parts", at_step(batches, 3, crash), average=DECAY)
    assert_same(run("parts", resume=True, average=DECAY), whole)
    assert_same(run("whole", resume=True, average=DECAY), whole)


def test_a_run_stopped_within_a_validation_does_not_train_the_mean(run, batches):
    def validation(number):
        if number == 1 and not stopped:
            stopped.append(number)
            terminate()
        return batches(number)

    stopped: list[int] = []
    whole = run("whole", average=DECAY)
    with pytest.raises(SystemExit):
        run("parts", validation=validation, average=DECAY, save_every=100)
    assert_same(run("parts", resume=True, average=DECAY), whole)
