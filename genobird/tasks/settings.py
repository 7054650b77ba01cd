"""What several trainings and evaluations are asked for: their data, and how a run is done.

`FitSettings` is `fit` in the configuration of each task that trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genobird.config import COMMAS, MOST_SEED, Settings, Strict, argument, option
from genobird.targets import Objective

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]


class LabelledData(Settings):
    """Labelled data, and which part of them is predicted."""

    chromatin: Path | None = option("Chromatin dataset, a directory.")
    promoters: Path | None = option("Promoter windows, a Parquet table.")
    scan: Path | None = option("Promoters among all windows of a scan, a Parquet table.")
    split: str = option("Part of the data that is predicted.", default="test")


class EvaluateData(LabelledData):
    """What a model is measured on, and compared with."""

    shards: Path | None = option("Token shards of held-out sequence, for bits per base.")
    repeats: tuple[Path, ...] = option(
        "BED: also bits per base inside and outside these; repeatable.", default=()
    )
    baselines: tuple[Path, ...] = option(
        "Trained baselines or named evaluations to compare with; repeatable.", default=()
    )
    name: str | None = option(
        "Store the predictions under this name, to compare others with; not those of a table."
    )
    table: Path | None = option("A table with a column split, for a model of finetune table.")
    fasta: Path | None = option("With --table: its genome.", "-f")
    bigwig: tuple[Path, ...] = option(
        "With --table: files of the signals that the model predicts; repeatable.", default=()
    )


class PeakData(Settings):
    """Peak files of one's own, and the model that learns them."""

    peaks: tuple[Path, ...] = option(
        "Your own peak file, BED or narrowPeak; repeatable.", default=()
    )
    name: tuple[str, ...] = option("Name of each peak file; default the file's.", default=())
    fasta: Path | None = option("With --peaks: their genome.", "-f")
    model: Path | None = option("With --peaks: model to start from; default bundled.", "-m")
    regions: Path | None = option("BED: with --peaks, use only these intervals.")
    keep_going: bool = option("Leave out peaks on contigs not in the FASTA.", default=False)


class TableData(Settings):
    """A table of regions with values or classes, and the model that learns them."""

    labels: Path = argument(
        "TSV, CSV or Parquet: chrom start end (0-based half-open), targets, perhaps strand and "
        "split (train, validation, test)."
    )
    fasta: Path = option("Their genome.", "-f", default=...)
    target: Annotated[tuple[str, ...], COMMAS] = option(
        "Columns to predict, separated by commas: numbers, or one column of classes.", default=()
    )
    bigwig: tuple[Path, ...] = option(
        "Instead of --target: predict log1p of this file's mean signal; repeatable.", default=()
    )
    objective: Objective | None = option("What numbers are; text is classes.")
    model: Path | None = option("Model to start from; default bundled.", "-m")
    validation: tuple[str, ...] = option(
        "Without a column split: contig, region or share of megabases to validate on; repeatable; "
        "default 0.1.",
        default=(),
    )
    held_out: tuple[str, ...] = option("The same to test on; default 0.2.", default=())


class FitSettings(Strict):
    """How a run trains; optimiser and schedule as in the paper unless set (table 21)."""

    steps: int = Field(1_000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of Adam.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="Decay to zero.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; biases and norms have none.")
    accumulate: int = Field(
        1, ge=1, description="Batches per step, over all devices; their gradients are averaged."
    )
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a running mean of the weights, which is validated and kept; 0: none.",
    )
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Key of every random draw.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="bf16 runs matrix products in bfloat16; auto does where that is faster."
    )
    activation_checkpointing: bool = Field(
        False, description="Keep less for the backward pass and compute it again: memory for time."
    )
    compile: bool = Field(False, description="Let torch.compile make the encoder's layers faster.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train.")
    devices: int = Field(
        1, ge=1, description="Devices per machine, one process each; accumulate is their multiple."
    )
    nodes: int = Field(1, ge=1, description="Machines; more than one need torchrun or srun.")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="How devices share the work: ddp, each with the whole model."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")
    workers: int = Field(0, ge=0, description="Processes that make batches, per device.")
    loggers: tuple[LoggerName, ...] = Field(
        ("csv", "tensorboard"),
        description="Where metrics are written: csv, tensorboard, wandb (offline), mlflow.",
    )
    log_every: int = Field(20, ge=1, description="Steps between log lines.")
    validate_every: int = Field(500, ge=1, description="Steps between validations.")
    save_every: int = Field(200, ge=1, description="Most steps between saves of the run's state.")
    save_minutes: float = Field(
        10.0, gt=0, description="Most minutes between saves of the run's state, to a step."
    )

    @field_validator("strategy")
    @classmethod
    def _whole_models(cls, value: str) -> str:
        if value == "fsdp":
            raise ValueError(
                "fsdp is not supported: state and norm need whole weights; choose ddp, and for "
                "memory fit.activation_checkpointing and smaller batches with fit.accumulate"
            )
        return value

    @model_validator(mode="after")
    def _shared_evenly(self) -> FitSettings:
        if self.accumulate % self.processes:
            raise ValueError(
                f"accumulate is {self.accumulate}, the batches of a step over all devices, and "
                f"{self.processes} devices (devices x nodes) cannot share them evenly; choose a "
                f"multiple of {self.processes}"
            )
        return self

    @property
    def batches(self) -> int:
        """Batches of the whole run."""
        return self.steps * self.accumulate

    @property
    def processes(self) -> int:
        """Processes of the run, one per device."""
        return self.devices * self.nodes
