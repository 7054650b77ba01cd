"""What happens beside a run's steps: state saved, Ctrl-C heard, memory freed, weights averaged."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from genobird.files import Draft
from genobird.runs import tell_kept
from genobird.tasks import ranks
from genobird.tasks.task import average_norms

logger = logging.getLogger(__name__)


class AfterSteps(pl.Callback, ABC):
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

    @abstractmethod
    def after_step(self, trainer: pl.Trainer) -> None:
        """Do it."""


class SaveState(AfterSteps):
    """Saves the run's state under a temporary name and renames it, so that a kill loses nothing.

    Args:
        path: of the state.
        every: steps from one to the next.
        minutes: most minutes from one to the next, by the first process's clock.
    """

    def __init__(self, path: Path, every: int, minutes: float) -> None:
        self.path, self.every, self.seconds = path, every, 60 * minutes

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer)
        self._saved = time.monotonic()

    def after_step(self, trainer: pl.Trainer) -> None:
        """Save now and then, and at the end."""
        late = trainer.is_global_zero and time.monotonic() - self._saved >= self.seconds
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if any_of(trainer, late) or due:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save now; every process takes part, and the first one writes."""
        average_norms(trainer.lightning_module)
        first = trainer.is_global_zero
        with Draft(self.path) if first else nullcontext(self.path) as part:
            trainer.save_checkpoint(part)
        trainer.strategy.barrier()
        self._saved = time.monotonic()


class Interrupt(AfterSteps):
    """Ctrl-C or SIGTERM ends the run after the step under way and saves its state.

    A second one ends it at once. SIGTERM is what `kill`, `timeout` and cluster schedulers send, to
    one process of the run, to all, or twice: by themselves and by torchrun.

    Args:
        state: what saves.
        validations: batches of a validation, over all processes.
    """

    SIGNALS = signal.SIGINT, signal.SIGTERM
    AGAIN_SECONDS = 1.0
    """What comes sooner after the first signal is that signal once more."""

    def __init__(self, state: SaveState, validations: int) -> None:
        self.state, self.validations = state, validations
        self.asked: int | None = None
        self._heard = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals; other threads than the main one have no say in them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: Any) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._heard = number, now
            again = "press Ctrl-C again" if number == signal.SIGINT else "send SIGTERM again"
            logger.warning("stopping after this step; %s to stop at once", again)
        elif now - self._heard >= self.AGAIN_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            os.kill(os.getpid(), number)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Take the signals back: Lightning's handler would end the run without a state."""
        super().on_train_start(trainer)
        if threading.current_thread() is threading.main_thread():
            self._listen()

    def after_step(self, trainer: pl.Trainer) -> None:
        """Save and leave, if any process was asked to."""
        if any_of(trainer, self.asked is not None):
            self.state.save(trainer)
            tell_kept(self.state.path.parent, f"step {trainer.global_step}")
            self.leave()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int, *_: Any
    ) -> None:
        """Do the same within a validation, which a resumed run does again."""
        if index < self.validations // trainer.world_size:  # every process has such a batch
            self.after_step(trainer)

    def leave(self) -> None:
        """End as the signal would have ended the process; the first one speaks for all."""
        if ranks.rank():
            raise SystemExit(0)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)  # as shells report it


def any_of(trainer: pl.Trainer, holds: bool) -> bool:
    """Return whether something holds in any process; every process must ask."""
    return trainer.strategy.reduce_boolean_decision(holds, all=False)


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


class RunningMean(AfterSteps):
    """Averages the parts of a task that train, and stands in for them in validation.

    Lightning's callback of that kind averages integer buffers too (tables of pieces, which then
    lose 1 by rounding), saves the mean for the weights within a validation, and leaves the weights
    of a run that is resumed behind its last step.

    What batch norms have seen is averaged as the weights are. It could be measured again with the
    mean weights, but that is a pass over data before every validation; where the learning rate
    decays to 0, both come to the same.

    Args:
        parts: of the task.
        decay: share of the mean that stays in a step; less in the first steps, so that the mean
            forgets where the run began.
    """

    def __init__(self, parts: nn.ModuleDict, decay: float) -> None:
        trained = {
            name: part
            for name, part in parts.items()
            if any(parameter.requires_grad for parameter in part.parameters())
        }
        self.parts, self.decay = nn.ModuleDict(trained), decay
        self.mean = AveragedModel(self.parts, avg_fn=self._averaged, use_buffers=True)
        self._kept = 0.0
        self._stands_in = False

    def _averaged(self, mean: Tensor, now: Tensor, _: Tensor | int) -> Tensor:
        return torch.lerp(now, mean, self._kept) if mean.is_floating_point() else now

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Follow the task to its device."""
        super().on_train_start(trainer, *args)
        self.mean.to(trainer.lightning_module.device)

    def after_step(self, trainer: pl.Trainer) -> None:
        """Take the step's weights into the mean."""
        self._kept = min(self.decay, trainer.global_step / (9 + trainer.global_step))
        self.mean.update_parameters(self.parts)

    def on_validation_start(self, *_: Any) -> None:
        """Let the mean be validated."""
        self.swap()

    def on_validation_end(self, *_: Any) -> None:
        """Let the weights train on."""
        self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their mean."""
        means, weights = self.mean.module.state_dict(), self.parts.state_dict()
        for name, weight in weights.items():
            kept = weight.clone()
            weight.copy_(means[name])
            means[name].copy_(kept)
        self._stands_in = not self._stands_in

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, and whether it stands in for the weights."""
        average_norms(self.mean)
        return {"mean": self.mean.state_dict(), "stands_in": self._stands_in}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, when the task has its weights again."""
        self.mean.load_state_dict(state_dict["mean"])
        self._stands_in = state_dict["stands_in"]
        if self._stands_in:  # saved within a validation, which is done again
            self.swap()
