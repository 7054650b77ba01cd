"""Training runs: optimiser, schedule, exact resume, logs.

A run directory holds `logs/` (CSV and TensorBoard), `last.ckpt` (everything a resume needs:
weights, optimiser, step, torch's random state, what the run was asked to do) and, at the end,
`model/` (a `Checkpoint`). Batches are functions of their number (`data.py`), so a resumed run
continues with the same data. A step whose loss or gradient is not finite ends the run before it
changes a weight, and leaves its batches in `not-finite.pt`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from genobird.checkpoint import Checkpoint
from genobird.errors import GenobirdError
from genobird.tasks.callbacks import Interrupt, LogLines, ReturnMemory, SaveState
from genobird.tasks.data import Steps
from genobird.tasks.precision import Precision, fastest
from genobird.tasks.state import STATE, SavedRun, identity

BAD_BATCH = "not-finite.pt"
_PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")


class FitSettings(BaseModel):
    """How a run trains; optimiser and schedule as in the paper unless set (table 21)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1_000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of Adam.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="Decay to zero.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; biases and norms have none.")
    accumulate: int = Field(
        1, ge=1, description="Batches a step, their gradients averaged: more than memory holds."
    )
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    seed: int = Field(0, ge=0, description="Key of every random draw.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto",
        description="bf16 runs matrix products in bfloat16; auto does where that is faster.",
    )
    activation_checkpointing: bool = Field(
        False, description="Keep less for the backward pass and compute it again: memory for time."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")
    workers: int = Field(0, ge=0, description="Processes that make batches.")
    log_every: int = Field(20, ge=1, description="Steps between log lines.")
    validate_every: int = Field(500, ge=1, description="Steps between validations.")
    save_every: int = Field(200, ge=1, description="Steps between saves of the run's state.")

    @property
    def batches(self) -> int:
        """Batches of the whole run."""
        return self.steps * self.accumulate


class Task(pl.LightningModule):
    """What pretraining and fine-tuning share; a task adds `model_step(batch) -> metrics`."""

    def __init__(self, checkpoint: Checkpoint, settings: FitSettings) -> None:
        super().__init__()
        self.checkpoint, self.settings = checkpoint, settings
        self.parts = nn.ModuleDict(checkpoint.modules())
        checkpoint.encoder.activation_checkpointing = settings.activation_checkpointing
        self.identity: dict[str, Any] = {}
        """What a resumed run must have been asked to do, too; `fit` fills it."""
        self._rng: dict[str, Any] | None = None
        self._step: list[tuple[Any, dict[str, Tensor]]] = []
        """Batches of the step under way, and what was measured of each."""

    def model_step(self, batch: Any) -> dict[str, Tensor]:
        """Return `loss` (a mean) and what else is logged, and `weight`, what the means are over."""
        raise NotImplementedError

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Train on a batch."""
        metrics = self.model_step(batch)
        self._step.append((batch, {name: value.detach() for name, value in metrics.items()}))
        seen = [found for _, found in self._step]  # the last batch of a step logs those of all
        self.log("train/batch_size", float(sum(found["weight"] for found in seen)))
        self._log("train", _means(seen))
        return metrics["loss"]

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the gradients, and stop the run where they or the loss are not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        batches, seen = zip(*self._step, strict=True)
        self._step = []
        loss = _means(seen)["loss"]
        if not (norm + loss).isfinite():
            raise _NotFinite(batches, self.global_step, float(loss), float(norm))
        self.log("train/gradient_norm", norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

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
        checkpoint["identity"] = self.identity
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


class _NotFinite(Exception):
    """A step that must not be taken."""

    def __init__(self, batches: Sequence[Any], step: int, loss: float, norm: float) -> None:
        super().__init__()
        self.batches, self.step, self.loss, self.norm = batches, step, loss, norm


def _means(seen: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average over the batches of a step, each metric over those that have it."""
    names = dict.fromkeys(name for found in seen for name in found)  # in order, for the log
    return {
        name: torch.stack([found[name].float() for found in seen if name in found]).mean()
        for name in names
    }


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
        each = self.settings.accumulate
        batches = Steps(self.train, self.settings.batches, self.trainer.global_step * each)
        return self._loader(batches, self.settings.workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.validation is None:
            return []
        return self._loader(Steps(self.validation, self.validations), 0)

    @staticmethod
    def _loader(steps: Steps[Any], workers: int) -> DataLoader[Any]:
        # With a generator of its own, a loader leaves torch's random state to dropout, however
        # often it is started.
        return DataLoader(steps, None, num_workers=workers, generator=torch.Generator())


def fit(
    task: Task,
    train: Callable[[int], Any],
    output: Path,
    *,
    validation: Callable[[int], Any] | None = None,
    validations: int = 0,
    facts: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Train a task; its checkpoint's parts are trained in place.

    Args:
        task: model and loss; where its precision is `auto`, `task.settings` says what it became.
        train: makes a batch from its number; a step takes `accumulate` of them.
        output: run directory.
        validation: makes the validation batch of an index.
        validations: number of validation batches.
        facts: what the run is beside its `FitSettings`, by section: settings and hashes of data. A
            resumed run must have the same.
        resume: continue from `output/last.ckpt` where there is one.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Raises:
        UsageError: there is a state in `output`, and `resume` is not given or the state is another
            run's.
        GenobirdError: a loss or gradient that is not finite.
    """
    saved = SavedRun.read(output)
    if saved and not resume:
        saved.refuse_new()
    task.settings = settings = _settled(task.settings, saved)
    task.identity = identity({**(facts or {}), "fit": settings.model_dump()})
    if saved:
        saved.refuse_other(task.identity)
    output.mkdir(parents=True, exist_ok=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    saver, lines = SaveState(output / STATE, settings.save_every), LogLines(settings.log_every)
    interrupt = Interrupt(saver)
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
            accumulate_grad_batches=settings.accumulate,
            val_check_interval=min(settings.validate_every, settings.steps) * settings.accumulate,
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if validation else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=settings.log_every,
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=_loggers(output),
            callbacks=[saver, lines, ReturnMemory(), *callbacks, interrupt],
        )
        batches = _Batches(train, validation, validations, settings)
        with interrupt.listening():
            try:
                trainer.fit(task, batches, ckpt_path=output / STATE if saved else None)
            except _NotFinite as found:
                raise _keep(found, output) from None
            except SystemExit as stop:  # Lightning turns Ctrl-C into an exit
                if isinstance(stop.__context__, KeyboardInterrupt):
                    raise KeyboardInterrupt from stop
                raise
    task.eval()


def measured(task: Task, batches: Callable[[int], Any], count: int) -> dict[str, float]:
    """Measure a task as it is now, on the device and in the precision that it was trained on.

    Args:
        task: one that `fit` has trained; it is left on the CPU, in evaluation.
        batches: makes the batch of an index.
        count: number of batches.

    Returns:
        Each metric's mean over the batches that have it, each as heavy as its `weight`.
    """
    device = _device(task.settings)
    task.to(device).eval()
    found = []
    mixed = torch.autocast(device, torch.bfloat16, enabled=task.settings.precision == "bf16")
    with torch.inference_mode(), mixed:
        for index in range(count):
            metrics = task.model_step(batches(index).to(device))
            if metrics["weight"]:
                found.append({name: float(value) for name, value in metrics.items()})
    task.cpu()
    means = {}
    for name in sorted({name for metrics in found for name in metrics} - {"weight"}):
        having = [metrics for metrics in found if name in metrics]
        total = sum(metrics["weight"] for metrics in having)
        means[name] = sum(metrics[name] * metrics["weight"] for metrics in having) / total
    return means


def settled_precision(asked: str, known: str | None, device: str) -> Precision:
    """Decide on `auto` once a run.

    Args:
        asked: `auto`, or the precision itself.
        known: what the run has had so far, if anything.
        device: `cuda`, or anything else for the CPU.

    Returns:
        What was asked for; for `auto` what is known, or what is fastest here.
    """
    chosen = known if asked == "auto" else asked
    for precision in _PRECISIONS:
        if chosen == precision:
            return precision
    return fastest(device)


def _settled(settings: FitSettings, saved: SavedRun | None) -> FitSettings:
    known = saved.identity.get("fit.precision") if saved else None
    precision = settled_precision(settings.precision, known, _device(settings))
    return settings.model_copy(update={"precision": precision})


def _device(settings: FitSettings) -> str:
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"


def _keep(found: _NotFinite, output: Path) -> GenobirdError:
    """Save the batches of a step that must not be taken; return what to raise."""
    facts = {"step": found.step, "loss": found.loss, "gradient_norm": found.norm}
    part = (output / BAD_BATCH).with_suffix(".part")
    torch.save({**facts, "batches": [_plain(batch) for batch in found.batches]}, part)
    os.replace(part, output / BAD_BATCH)
    return GenobirdError(
        f"step {found.step + 1} has a loss of {found.loss:g} and a gradient norm of "
        f"{found.norm:g}; the run stopped before it, its batches are in {output / BAD_BATCH}; "
        "start again with a lower fit.learning_rate, or with fit.precision float32"
    )


def _plain(value: Any) -> Any:
    """Return a batch as dictionaries of tensors, which torch loads without running code."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value.cpu() if isinstance(value, Tensor) else value


def _loggers(output: Path) -> list[Logger]:
    metrics = output / "logs" / "metrics.csv"
    if metrics.exists():  # Lightning would delete what the run wrote before it was resumed
        parts = len(list(metrics.parent.glob("metrics.*.csv")))
        metrics.rename(metrics.with_name(f"metrics.{parts}.csv"))
    return [
        CSVLogger(output, "logs", "", flush_logs_every_n_steps=1),
        TensorBoardLogger(output, "logs", ""),
    ]
