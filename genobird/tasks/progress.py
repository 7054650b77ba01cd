"""What a run tells while it trains: log lines, speed, memory and time left, and who keeps them."""

from __future__ import annotations

import logging
import resource
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.throughput import get_available_flops
from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from torch.utils.flop_counter import FlopCounterMode

from genobird.attention.layout import BlockLayout
from genobird.errors import UsageError
from genobird.tasks.callbacks import AfterSteps
from genobird.tasks.run_folder import LOGS
from genobird.tasks.settings import LoggerName
from genobird.tasks.task import Task
from genobird.tokenizer import PAD

logger = logging.getLogger(__name__)


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
