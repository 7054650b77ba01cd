"""Training runs: optimiser, schedule, exact resume, logs.

A run directory holds `logs/` (CSV and TensorBoard), `last.ckpt` (everything a resume needs:
weights, optimiser, step, torch's random state) and, at the end, `model/` (a `Checkpoint`). Batches
are functions of the step (`data.py`), so a resumed run continues with the same data.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from genobird.checkpoint import Checkpoint
from genobird.errors import UsageError
from genobird.tasks.data import Steps

logger = logging.getLogger(__name__)


class FitSettings(BaseModel):
    """How a run trains; optimiser and schedule as in the paper unless set (table 21)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1_000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of Adam.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="Decay to zero.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; biases and norms have none.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    seed: int = Field(0, ge=0, description="Key of every random draw.")
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="bf16 runs matrix products in bfloat16 (CPUs with AVX512-BF16 or AMX).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")
    workers: int = Field(0, ge=0, description="Processes that make batches.")
    log_every: int = Field(20, ge=1, description="Steps between log lines.")
    validate_every: int = Field(500, ge=1, description="Steps between validations.")
    save_every: int = Field(200, ge=1, description="Steps between saves of the run's state.")


class Task(pl.LightningModule):
    """What pretraining and fine-tuning share; a task adds `model_step(batch) -> metrics`."""

    def __init__(self, checkpoint: Checkpoint, settings: FitSettings) -> None:
        super().__init__()
        self.checkpoint, self.settings = checkpoint, settings
        self.parts = nn.ModuleDict(checkpoint.modules())
        self._rng: dict[str, Any] | None = None

    def model_step(self, batch: Any) -> dict[str, Tensor]:
        """Return `loss` (a mean) and what else is logged, and `weight`, what the means are over."""
        raise NotImplementedError

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Train on a batch."""
        metrics = self.model_step(batch)
        self._log("train", metrics)
        return metrics["loss"]

    def validation_step(self, batch: Any, index: int) -> None:
        """Measure a batch."""
        self._log("validation", self.model_step(batch))

    def _log(self, stage: str, metrics: dict[str, Tensor]) -> None:
        weight = int(metrics.pop("weight"))
        for name, value in metrics.items():
            self.log(f"{stage}/{name}", value.detach(), batch_size=weight, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and decay."""
        settings = self.settings
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))

        def factor(step: int) -> float:
            if step < settings.warmup_steps:
                return (step + 1) / settings.warmup_steps
            done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
            if settings.schedule == "linear":
                return max(0.0, 1.0 - done)
            return 0.5 * (1 + float(torch.cos(torch.tensor(min(done, 1.0) * torch.pi))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep torch's random state: dropout continues where it was."""
        checkpoint["rng"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["rng"]["cuda"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state until training starts."""
        self._rng = checkpoint["rng"]

    def on_train_start(self) -> None:
        """Set the random state."""
        if self._rng is None:
            torch.manual_seed(self.settings.seed)
            return
        torch.set_rng_state(self._rng["cpu"])
        if "cuda" in self._rng and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(self._rng["cuda"])


class _Batches(pl.LightningDataModule):
    """Training continues at the trainer's step, which is known only after the state is restored."""

    def __init__(
        self,
        train: Callable[[int], Any],
        validation: Callable[[int], Any] | None,
        validations: int,
        settings: FitSettings,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.validations = train, validation, validations
        self.settings = settings

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        steps = Steps(self.train, self.settings.steps, self.trainer.global_step)
        return self._loader(steps, self.settings.workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.validation is None:
            return []
        return self._loader(Steps(self.validation, self.validations), 0)

    @staticmethod
    def _loader(steps: Steps[Any], workers: int) -> DataLoader[Any]:
        # With a generator of its own, a loader leaves torch's random state to dropout, however
        # often it is started.
        return DataLoader(steps, None, num_workers=workers, generator=torch.Generator())


class _State(pl.Callback):
    """Saves the run's state under a temporary name and renames it, so that a kill loses nothing."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save now."""
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        os.replace(part, self.path)


class _Interrupt(pl.Callback):
    """Ctrl-C ends the run after the step under way and saves its state; a second one at once."""

    def __init__(self, state: _State) -> None:
        self.state, self.asked = state, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle Ctrl-C; other threads than the main one have no say in signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, *_: Any) -> None:
        logger.warning("stopping after this step; press Ctrl-C again to stop at once")
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.asked:
            self.state.save(trainer)
            raise KeyboardInterrupt


class _LogLines(pl.Callback):
    """One log line every so many steps: for terminals and for files alike."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.since, self.at = time.monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.since, self.at = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
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
        logger.info("step %d, validation: %s", trainer.global_step, _shown(trainer, "validation"))


def _shown(trainer: pl.Trainer, stage: str) -> str:
    metrics = {k.partition("/")[2]: v for k, v in trainer.callback_metrics.items() if stage in k}
    return ", ".join(f"{name} {float(value):.4f}" for name, value in metrics.items())


def fit(
    task: Task,
    train: Callable[[int], Any],
    output: Path,
    *,
    validation: Callable[[int], Any] | None = None,
    validations: int = 0,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Train a task; its checkpoint's parts are trained in place.

    Args:
        task: model and loss.
        train: makes the batch of a step.
        output: run directory.
        validation: makes the validation batch of an index.
        validations: number of validation batches.
        resume: continue from `output/last.ckpt` where there is one.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Raises:
        UsageError: there is a state in `output` and `resume` is not given.
    """
    settings = task.settings
    state = output / "last.ckpt"
    if state.exists() and not resume:
        raise UsageError(
            f"{output} holds an unfinished run; pass --resume, or --force to restart it"
        )
    output.mkdir(parents=True, exist_ok=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    saver = _State(state, settings.save_every)
    interrupt = _Interrupt(saver)
    task.train()
    with warnings.catch_warnings():
        # Lightning advises more workers and warns of its own deprecated calls: not our user's.
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[settings.device],
            devices=1,  # `Steps` knows no ranks: several devices would all see the same batches
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_steps=settings.steps,
            max_epochs=-1,
            gradient_clip_val=settings.clip,
            val_check_interval=min(settings.validate_every, settings.steps),
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if validation else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=settings.log_every,
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=_loggers(output),
            callbacks=[saver, _LogLines(settings.log_every), *callbacks, interrupt],
        )
        batches = _Batches(train, validation, validations, settings)
        with interrupt.listening():
            try:
                trainer.fit(task, batches, ckpt_path=state if state.exists() else None)
            except SystemExit as stop:  # Lightning turns Ctrl-C into an exit
                if isinstance(stop.__context__, KeyboardInterrupt):
                    raise KeyboardInterrupt from stop
                raise
    task.eval()


def _loggers(output: Path) -> list[Logger]:
    metrics = output / "logs" / "metrics.csv"
    if metrics.exists():  # Lightning would delete what the run wrote before it was resumed
        parts = len(list(metrics.parent.glob("metrics.*.csv")))
        metrics.rename(metrics.with_name(f"metrics.{parts}.csv"))
    return [
        CSVLogger(output, "logs", "", flush_logs_every_n_steps=1),
        TensorBoardLogger(output, "logs", ""),
    ]
