import os
import signal
from pathlib import Path

import pytest
import torch

from genobird.errors import OutputError, UsageError
from genobird.tasks.callbacks import Interrupt
from genobird.tasks.task import Task
from tests.tasks.runs import Crash, assert_same, at_step, crash, rows


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_four_steps_are_two_a_crash_and_two_more(run, batches, schedule, validate):
    whole = run("whole", schedule=schedule, validate=validate)
    with pytest.raises(Crash):
        run("parts", at_step(batches, 2, crash), schedule=schedule, validate=validate)
    assert_same(run("parts", resume=True, schedule=schedule, validate=validate), whole)


def test_a_crash_within_a_step_of_several_batches_loses_that_step(run, batches):
    whole = run("whole", accumulate=3, save_every=1)
    made = []

    def count(number):
        made.append(number)
        return batches(number)

    with pytest.raises(Crash):
        run("parts", at_step(batches, 7, crash), accumulate=3, save_every=1, validate=False)
    assert_same(run("parts", count, resume=True, accumulate=3, save_every=1, validate=False), whole)
    assert made == [6, 7, 8, 9, 10, 11]


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


def test_a_finished_run_that_is_resumed_stays_as_it_is(run):
    finished = run()
    assert_same(run(resume=True), finished)


def test_resuming_what_was_never_saved_starts_at_the_beginning(run):
    assert_same(run("new", resume=True), run("whole"))


def test_a_state_is_not_overwritten_without_resume(run, batches, tmp_path):
    with pytest.raises(Crash):
        run("run", at_step(batches, 3, crash))
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(UsageError, match=r"run has done \(step 2 of 4\); pass --resume to go on"):
        run()
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_a_run_that_is_through_is_not_called_unfinished(run):
    finished = run(steps=3, save_every=2)  # saved at its end, too
    with pytest.raises(
        UsageError, match=r"has done \(all of its 3 steps, and no model yet\); pass --res"
    ):
        run(steps=3, save_every=2)
    assert_same(run(resume=True, steps=3, save_every=2), finished)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"steps": 9},
            r"run is of another run \(fit\.steps 9, before 4\); give",
        ),
        (
            {"seed": 3, "precision": "bf16"},
            r"fit\.seed 3, before 0; fit\.precision bf16, before float32\);",
        ),
    ],
    ids=["one", "two"],
)
def test_a_run_is_resumed_with_its_own_settings_or_not_at_all(run, tmp_path, changes, message):
    run()
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(UsageError, match=message):
        run(resume=True, **changes)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_a_resumed_run_may_be_watched_and_stored_otherwise(run, batches):
    whole = run("whole")
    with pytest.raises(Crash):
        run("parts", at_step(batches, 3, crash))
    changes = {
        "log_every": 3, "save_every": 1, "validate_every": 4, "workers": 1,
        "activation_checkpointing": True,
    }  # fmt: skip
    assert_same(run("parts", resume=True, **changes), whole)


def test_auto_precision_is_what_is_fastest_and_stays_so(run, batches, monkeypatch):
    monkeypatch.setattr("genobird.inference.fastest", lambda device: "bf16")
    whole = run("whole", precision="auto")
    assert whole.settings.precision == "bf16"
    with pytest.raises(Crash):
        run("parts", at_step(batches, 3, crash), precision="auto")
    monkeypatch.setattr("genobird.inference.fastest", lambda device: "float32")
    assert_same(run("parts", resume=True, precision="auto"), whole)
    assert_same(run("explicit", precision="bf16"), whole)
    assert run("new", precision="auto").settings.precision == "float32"


def test_a_crash_while_saving_leaves_the_last_state(run, batches, monkeypatch):
    whole = run("whole")
    replace, calls = os.replace, []

    def full(source, target):
        calls.extend([target] if Path(target).name == "last.ckpt" else [])
        if len(calls) == 2:
            raise OSError("no space left")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("genobird.files.os.replace", full)
        with pytest.raises(OutputError, match="no space"):
            run("parts")
    assert_same(run("parts", resume=True), whole)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_ctrl_c_ends_the_run_after_its_step_with_a_state_to_resume(run, batches, tmp_path):
    whole = run("whole", save_every=100)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("parts", at_step(batches, 2, interrupt), save_every=100)
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert_same(run("parts", resume=True, save_every=100), whole)


def test_sigterm_does_the_same_and_tells_the_shell(run, batches, tmp_path, caplog):
    whole = run("whole", save_every=100)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as found:
        run("parts", at_step(batches, 2, terminate), save_every=100)
    assert found.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert (
        "parts keeps what is done (step 3); the same command with --resume goes on" in caplog.text
    )
    assert_same(run("parts", resume=True, save_every=100), whole)


def twice():
    interrupt()
    interrupt()


@pytest.mark.parametrize("batch", [6, 7, 8])
def test_sigterm_within_a_step_of_several_batches_ends_it_with_a_state(
    run, batches, tmp_path, batch
):
    whole = run("whole", accumulate=3)
    with pytest.raises(SystemExit) as found:
        run("parts", at_step(batches, batch, terminate), accumulate=3, save_every=100)
    assert found.value.code == 143
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert_same(run("parts", resume=True, accumulate=3), whole)


@pytest.mark.parametrize("batch", [0, 1])
def test_sigterm_within_a_validation_ends_it_with_a_state_and_resume_does_it_again(
    run, batches, tmp_path, batch
):
    asked = []

    def validation(number):
        asked.append(number)
        if asked.count(batch) == 1 and number == batch:
            terminate()
        return batches(number)

    whole = run("whole", steps=6)
    with pytest.raises(SystemExit) as found:
        run("parts", validation=validation, steps=6, save_every=100)
    assert found.value.code == 143
    assert asked[-1] == batch
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert_same(run("parts", resume=True, steps=6), whole)
    for name in ("train/loss", "validation/loss"):
        whole_rows, resumed = (
            [
                (r["step"], r[name])
                for r in rows(tmp_path / part / "logs" / "metrics.csv")
                if r[name]
            ]
            for part in ("whole", "parts")
        )
        assert resumed == whole_rows[2 if name == "train/loss" else 0 :]


def test_sigterm_before_the_first_step_ends_the_run(run, batches, tmp_path, monkeypatch):
    heard = Task.configure_optimizers

    def configure(self):
        terminate()
        return heard(self)

    monkeypatch.setattr(Task, "configure_optimizers", configure)
    with pytest.raises(SystemExit) as found:
        run("parts")
    assert found.value.code == 143


def test_state_is_saved_by_minutes_too(run, batches, tmp_path):
    with pytest.raises(Crash):
        run("parts", at_step(batches, 3, crash), save_every=100, save_minutes=1e-9)
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3


def test_a_second_ctrl_c_ends_the_run_at_once(run, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(Interrupt, "AGAIN_SECONDS", 0)
    whole = run("whole")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("parts", at_step(batches, 3, twice))
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert_same(run("parts", resume=True), whole)


def test_a_signal_that_comes_twice_at_once_is_one(run, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(Interrupt, "AGAIN_SECONDS", 1000)
    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", at_step(batches, 2, twice), save_every=100)
    state = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert_same(run("parts", resume=True), whole)


def test_another_exit_is_not_taken_for_ctrl_c(run, batches):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        run("parts", at_step(batches, 1, leave))
    assert caught.value.code == 3


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
