"""Runs of a few steps, and how their results are compared."""

from __future__ import annotations

import csv

import torch

from genobird.tasks.callbacks import AfterSteps
from genobird.tasks.fit import FitSettings

FIT = {
    "steps": 4, "warmup_steps": 1, "learning_rate": 3e-3, "device": "cpu", "threads": 1,
    "log_every": 1, "save_every": 2, "validate_every": 2, "precision": "float32",
}  # fmt: skip
SETTINGS = FitSettings(**FIT)


class Crash(Exception):
    """What a failing machine does."""


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


def keep_states(output):
    """A callback that keeps the state of each step, as `output/step.ckpt`."""

    class KeepStates(AfterSteps):
        def after_step(self, trainer):
            trainer.save_checkpoint(output / f"{trainer.global_step}.ckpt")

    return KeepStates()
