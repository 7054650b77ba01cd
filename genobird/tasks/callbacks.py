"""What happens beside a run's steps: state saved, Ctrl-C heard, progress logged, memory freed."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

logger = logging.getLogger(__name__)


class AfterSteps(pl.Callback):
    """Does something after each step, however many batches it takes."""

    _done = 0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Begin where the run does."""
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Call `after_step` if this was the step's last batch."""
        if trainer.global_step != self._done:
            self._done = trainer.global_step
            self.after_step(trainer)

    def after_step(self, trainer: pl.Trainer) -> None:
        """Do it."""
        raise NotImplementedError


class SaveState(AfterSteps):
    """Saves the run's state under a temporary name and renames it, so that a kill loses nothing."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def after_step(self, trainer: pl.Trainer) -> None:
        """Save now and then, and at the end."""
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save now."""
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        os.replace(part, self.path)


class Interrupt(AfterSteps):
    """Ctrl-C or SIGTERM ends the run after the step under way and saves its state.

    A second one ends it at once. SIGTERM is what `kill`, `timeout` and cluster schedulers send.
    """

    SIGNALS = signal.SIGINT, signal.SIGTERM

    def __init__(self, state: SaveState) -> None:
        self.state = state
        self.asked: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals; other threads than the main one have no say in them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _: Any) -> None:
        again = "press Ctrl-C again" if number == signal.SIGINT else "send SIGTERM again"
        logger.warning("stopping after this step; %s to stop at once", again)
        self.asked = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def after_step(self, trainer: pl.Trainer) -> None:
        """Save and leave, if asked to."""
        if self.asked is None:
            return
        self.state.save(trainer)
        logger.warning("step %d is saved; --resume goes on", trainer.global_step)
        if self.asked == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)  # as shells say it
        raise KeyboardInterrupt


class ReturnMemory(AfterSteps):
    """Gives free memory back to the system every few steps.

    Tensors of a step have other sizes than those of the one before. What they leave in glibc's heap
    is seldom reused: 10 MB a step were lost on a CPU, 12 GB in 1,200 steps.
    """

    EVERY = 10

    def after_step(self, trainer: pl.Trainer) -> None:
        """Give back now and then."""
        if trainer.global_step % self.EVERY == 0:
            return_memory()


def return_memory() -> None:
    """Give free memory back; a C library that is not glibc needs no asking, and is not asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class LogLines(AfterSteps):
    """One log line every so many steps: for terminals and for files alike."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.since, self.at = time.monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer)
        self.since, self.at = time.monotonic(), trainer.global_step

    def after_step(self, trainer: pl.Trainer) -> None:
        """Log a line now and then."""
        step = trainer.global_step
        if step % self.every:
            return
        rate = (step - self.at) / max(1e-9, time.monotonic() - self.since)
        left = ((trainer.max_steps or 0) - step) / max(rate, 1e-9)
        logger.info(
            "step %d of %d, %s, %.2f steps/s, %.0f min left",
            step, trainer.max_steps, _shown(trainer, "train"), rate, left / 60,
        )  # fmt: skip

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Log what was measured."""
        logger.info("step %d, validation: %s", trainer.global_step, _shown(trainer, "validation"))


def _shown(trainer: pl.Trainer, stage: str) -> str:
    metrics = {k.partition("/")[2]: v for k, v in trainer.callback_metrics.items() if stage in k}
    return ", ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
