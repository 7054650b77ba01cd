"""What happens beside a run's steps: state saved, Ctrl-C heard, weights averaged, figures told."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.throughput import get_available_flops
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

from genobird.attention.layout import BlockLayout
from genobird.errors import UsageError
from genobird.files import Draft
from genobird.runs import tell_kept
from genobird.tasks import ranks
from genobird.tasks.run_folder import LOGS
from genobird.tasks.settings import LoggerName
from genobird.tasks.task import Task, average_norms
from genobird.tokenizer import PAD

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

    From one saving to the next there are at most `every` steps and, by the first process's clock,
    about `minutes`.
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


@dataclass
class _Mark:
    """How far a run was at some time; seconds of training, without validation."""

    seconds: float
    step: int
    tokens: int
    bases: int


class Progress(AfterSteps):
    """One log line every so many steps, and the same figures for bar and loggers.

    Speeds are those since the last line, over all devices, without the time of validations. Beside
    the metrics of the step: `speed/tokens_per_second`, `speed/bases_per_second`,
    `speed/steps_per_second`, `speed/memory_gb` (the most so far: of the GPU, else of the process),
    `speed/minutes_left`, and `speed/mfu`, the share of what the GPUs can multiply at most, where
    that is known.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._last = _Mark(0.0, 0, 0, 0)
        self._paused, self._pause_began = 0.0, 0.0
        self._flops_per_token: float | None = None
        self._peak: float | None = None

    def on_train_start(self, trainer: pl.Trainer, *given: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer)
        self._paused = 0.0
        self._peak = peak_flops(trainer)
        self._last = self._mark(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, *_: Any) -> None:
        """Count what a token costs, once, where that can be compared with anything."""
        if self._peak and self._flops_per_token is None:
            self._flops_per_token = flops_per_token(task, batch)
            self._last = self._mark(trainer)

    def _mark(self, trainer: pl.Trainer) -> _Mark:
        task = trainer.lightning_module
        assert isinstance(task, Task)
        seconds = time.monotonic() - self._paused
        return _Mark(seconds, trainer.global_step, task.tokens, task.bases)

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        self._pause_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Log what was measured, and go on with the clock."""
        self._paused += time.monotonic() - self._pause_began
        logger.info("step %d, validation: %s", trainer.global_step, _shown(trainer, "validation/"))

    def after_step(self, trainer: pl.Trainer) -> None:
        """Log a line now and then."""
        step = trainer.global_step
        if step % self.every:
            return
        speed = self._speed(trainer)
        for name, value in speed.items():
            bar = name in ("tokens_per_second", "minutes_left")
            trainer.lightning_module.log(f"speed/{name}", value, prog_bar=bar)
        rates = [speed[f"{unit}_per_second"] for unit in ("tokens", "bases")]
        facts = [f"step {step} of {trainer.max_steps}", _shown(trainer, "train/")]
        facts.append(f"{speed['steps_per_second']:.2f} steps/s")
        if rates[0]:
            facts.append("{:,.0f} tokens/s, {:,.0f} bases/s".format(*rates))
        if "mfu" in speed:
            facts.append(f"MFU {speed['mfu']:.1%}")
        left = _duration(speed["minutes_left"])
        facts += [f"{speed['memory_gb']:.1f} GB", f"{left} left"]
        logger.info("%s", ", ".join(facts))

    def _speed(self, trainer: pl.Trainer) -> dict[str, float]:
        before, now = self._last, self._mark(trainer)
        self._last = now
        seconds = max(1e-9, now.seconds - before.seconds)
        steps = max(1e-9, (now.step - before.step) / seconds)
        tokens = (now.tokens - before.tokens) / seconds
        speed = {
            "tokens_per_second": tokens,
            "bases_per_second": (now.bases - before.bases) / seconds,
            "steps_per_second": steps,
            "memory_gb": memory_gb(trainer.strategy.root_device),
            "minutes_left": (trainer.max_steps - now.step) / steps / 60,
        }
        if self._peak and self._flops_per_token:
            speed["mfu"] = tokens * self._flops_per_token / (self._peak * trainer.world_size)
        return speed


class Bar(RichProgressBar):
    """Lightning's bar, on standard error and without epochs: a run has one, of all its batches."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})

    def _get_train_description(self, _: int) -> str:
        return self.train_description

    def get_metrics(self, *given: Any) -> Any:
        """Return what is shown beside the bar, without Lightning's number of the run."""
        return {
            name: value for name, value in super().get_metrics(*given).items() if name != "v_num"
        }


def _shown(trainer: pl.Trainer, stage: str) -> str:
    metrics = trainer.callback_metrics
    return ", ".join(
        f"{name.removeprefix(stage)} {float(value):.4g}"
        for name, value in metrics.items()
        if name.startswith(stage)
    )


def _duration(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 180 else f"{minutes / 60:.1f} h"


def memory_gb(device: torch.device) -> float:
    """Return the most memory in use so far, in 10^9 bytes: of a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def peak_flops(trainer: pl.Trainer) -> float | None:
    """Return what a device of the run can do per second by its data sheet; None if unknown."""
    task = trainer.lightning_module
    assert isinstance(task, Task)
    dtype = torch.bfloat16 if task.settings.precision == "bf16" else torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_available_flops(trainer.strategy.root_device, dtype)


def flops_per_token(task: Task, batch: Any) -> float | None:
    """Return what training needs per token of a batch; None where it has none.

    A backward pass costs two forward passes. What is computed again to spare memory is not counted.
    """
    ids = getattr(batch, "read", None)
    if ids is None or not len(ids):
        return None
    attention = dict.fromkeys(
        (torch.ops.genobird.sparse_attention, torch.ops.genobird.blocked_attention), _attention
    )
    training = task.training
    task.eval()
    with FlopCounterMode(display=False, custom_mapping=attention) as counter, torch.no_grad():
        task.model_step(batch)
    task.train(training)
    flops: float = 3 * counter.get_total_flops() / int((ids != PAD).sum())
    return flops


def _attention(q: torch.Size, k: Any, v: Any, layout: int, *_: Any, **__: Any) -> int:
    """Return what block-sparse attention computes; `q` is the shape [T, H, D]."""
    return BlockLayout.of_handle(layout).flops(q[-1])


def loggers(output: Path, names: Sequence[LoggerName]) -> list[Logger]:
    """Return what keeps a run's metrics, all in `output/logs`.

    Raises:
        UsageError: one that is not installed.
    """
    for name in names:
        if name in ("wandb", "mlflow") and find_spec(name) is None:
            raise UsageError(
                f"fit.loggers names {name}, which is not installed; install it with `pip install "
                f"{name}`, or leave it out"
            )
    folder = output / LOGS
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    made: list[Logger] = []
    if "csv" in names:
        _keep_earlier(folder / "metrics.csv")
        made.append(CSVLogger(output, LOGS, "", flush_logs_every_n_steps=1))
    if "tensorboard" in names:
        made.append(TensorBoardLogger(output, LOGS, ""))
    if "wandb" in names:
        made.append(WandbLogger(output.name, folder, project="genobird", offline=True))
    if "mlflow" in names:
        place = folder.resolve()
        database, artifacts = f"sqlite:///{place / 'mlflow.db'}", str(place / "mlflow")
        made.append(
            MLFlowLogger(
                "genobird", output.name, tracking_uri=database, artifact_location=artifacts
            )
        )
    return made


def _keep_earlier(metrics: Path) -> None:
    """Rename what a run wrote before it was resumed: Lightning would delete it."""
    if metrics.exists():
        parts = len(list(metrics.parent.glob("metrics.*.csv")))
        metrics.rename(metrics.with_name(f"metrics.{parts}.csv"))
