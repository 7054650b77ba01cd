"""A head for a table of one's own: values of regions, or classes that exclude each other.

A region stands for its midpoint, as everywhere in genobird: `window_bp` around it are encoded,
along the region's strand; where it has none both strands are read, one at random in training.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from genobird.batch import LabelledBatch
from genobird.checkpoint import Checkpoint, bundled_model
from genobird.draws import generator
from genobird.files import write_text
from genobird.genome.fasta import Genome
from genobird.heads import Head, HeadConfig
from genobird.inference import Inference, along
from genobird.targets import LONGEST_BP
from genobird.tasks.data import Visits
from genobird.tasks.evaluate import predict_table, window
from genobird.tasks.figures import evaluate_targets
from genobird.tasks.finetune import Finetuning, HeadTraining, encoded_once
from genobird.tasks.fit import FitSettings, Run, fit
from genobird.tasks.label_table import (
    TEST,
    TRAIN,
    VALIDATION,
    Labels,
    LabelTable,
    divided,
    fitted,
    labels_of,
    signals_by_name,
    targets_of,
    warn_of_few,
)
from genobird.tasks.run_folder import ENCODED, REPORT
from genobird.tasks.settings import TableData
from genobird.tasks.task import merge


class TableHead(HeadConfig):
    """Shape of a table head; training fills `outputs`."""

    hidden: int = Field(512, ge=0, description="Width of a hidden layer; 0 for a linear head.")
    pool: Literal["cls", "bin", "cells", "local"] = Field(
        "bin", description="What of the sequence the head reads."
    )


class TableFit(FitSettings):
    """How a table head is trained."""

    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of Adam.")


class TableSettings(HeadTraining):
    """Configuration of `genobird finetune table`."""

    head: TableHead = TableHead()
    window_bp: int = Field(
        2_000, ge=2, le=LONGEST_BP, description="Bases around a region's midpoint that are encoded."
    )
    shift_bp: int = Field(
        16, ge=1, description="In training, fewer first bases than this are left out, at random."
    )
    regions: int = Field(64, ge=2, description="Regions per batch.")
    draws: int = Field(
        2,
        ge=0,
        description="With a frozen encoder and pool = bin or cls: how often each region is encoded "
        "before training, from another base and perhaps on the other strand; 0 encodes in every "
        "step.",
    )
    freeze_encoder: bool = Field(True, description="Train the head alone.")
    fit: TableFit = TableFit()

    @property
    def encodes_once(self) -> bool:
        """Whether regions are encoded before training: what the head pools then has no weights."""
        pools = self.head.pool in ("bin", "cls") and self.head.local is None
        return self.freeze_encoder and self.draws > 0 and pools and self.fit.processes == 1


class TableConfig(TableSettings, TableData):
    """A table of one's own, and how a head is trained on it."""


class TableBatches(Visits):
    """Batches of regions with their values; an epoch visits every region once.

    With `augment`, windows begin elsewhere, and strands are drawn, in an order that is drawn.
    """

    def __init__(
        self,
        labels: Labels,
        genome: Genome,
        settings: TableSettings,
        checkpoint: Checkpoint,
        *,
        augment: bool,
    ) -> None:
        assert checkpoint.table is not None
        super().__init__(
            settings.regions,
            checkpoint.tokenizer,
            checkpoint.table.config,
            checkpoint.encoder.config.block_size,
            settings.fit.seed,
            augment,
        )
        self.labels, self.genome, self.settings = labels, genome, settings
        self.visits = len(labels)
        self.values = labels.targets.standardised(labels.values)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step; its labels are NaN where nothing is known."""
        rng = generator(self.seed, 1, step)
        rows = self._visited(step)
        shifts = rng.integers(self.settings.shift_bp, size=len(rows)) * self.augment
        turned = (rng.random(len(rows)) < 0.5) & self.augment
        read = []
        for row, shift, turn in zip(rows.tolist(), shifts.tolist(), turned, strict=True):
            region = self.labels.regions[row]
            text, place = window(self.genome, region, self.settings.window_bp)
            shift = min(shift, place)
            strand = region.strand if region.strand != "." else "+-"[int(turn)]
            read.append(along(text[shift:], np.array([place - shift], dtype=np.int64), strand))
        texts, at = zip(*read, strict=True)
        places = self._packed(texts, at)
        return LabelledBatch(
            places,
            torch.from_numpy(self.values[rows]),
            torch.ones(len(rows)),
            bases=places.bases if self.head.pool == "local" else None,
        )


class TableTask(Finetuning):
    """Mean squared error of standardised values, or cross-entropy of classes."""

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each label, 0 where it is unknown, [P, O]; [P, 1] of classes."""
        targets = self.checkpoint.targets
        assert targets is not None
        if targets.is_classes:
            return F.cross_entropy(logits, labels[:, 0].long(), reduction="none")[:, None]
        known = labels.isfinite()
        return F.mse_loss(logits, labels.where(known, 0.0), reduction="none") * known


def finetune_table(config: TableConfig, run: Run) -> Checkpoint:
    """Train a head on a table of one's own, and write the model to `output/model`.

    Beside it `held_out.json` gets the figures of the validation and the test regions.

    Raises:
        UsageError: nothing or no single thing is to be predicted, or another run is resumed.
        InputError: the table or a bigWig file cannot be learnt from; see `label_table`.
    """
    torch.manual_seed(config.fit.seed)
    checkpoint = Checkpoint.load(config.model or bundled_model())
    with Genome(config.fasta) as genome:
        labels = _labels(config, genome)
        shape = {**config.head.model_dump(), "outputs": len(labels.targets.names)}
        checkpoint.table = Head(HeadConfig(**shape), checkpoint.encoder.config.width)
        checkpoint.targets = labels.targets
        train, validation = (
            TableBatches(labels.of_split(split), genome, config, checkpoint, augment=augment)
            for split, augment in ((TRAIN, True), (VALIDATION, False))
        )
        task = TableTask(
            checkpoint,
            config.fit,
            "table",
            freeze_encoder=config.freeze_encoder,
            encoder=config.encoder,
        )
        settings = config.model_dump(mode="json", include=set(TableSettings.model_fields))
        data = {
            "sha256": labels.sha256(),
            "targets": labels.targets.columns,
            "regions": {s: int((labels.splits == s).sum()) for s in (TRAIN, VALIDATION, TEST)},
            "contigs": {r.contig: genome.length(r.contig) for r in labels.regions},
        }
        drawn: Any = train
        checked: Any = validation
        if config.encodes_once:
            drawn, checked = encoded_once(
                task,
                train,
                validation,
                run.output / ENCODED,
                draws=config.draws,
                places=config.regions,
                device=config.fit.device,
                facts={
                    "data": data["sha256"],
                    **config.model_dump(include={"window_bp", "shift_bp", "regions"}),
                },
            )
        fit(
            task,
            drawn,
            run,
            validation=checked,
            validations=min(config.validation_batches, len(checked)),
            facts={**settings, "checkpoint": checkpoint.hash, "data": data},
        )
        merge(checkpoint.encoder)
        # In float32, as `score` and `evaluate` compute, whatever the precision of the training.
        inference = Inference(checkpoint, task.settings.device)
        figures = {}
        for split in (VALIDATION, TEST):
            if (labels.splits == split).any():
                part = labels.of_split(split)
                figures[split] = evaluate_targets(part, predict_table(inference, part, genome))
    checkpoint.to("cpu")
    settings["fit"] = task.settings.model_dump(mode="json")
    facts = {"config": settings, "data": data, "figures": figures}
    write_text(run.output / REPORT, json.dumps(figures, indent=2) + "\n")
    run.write_model(checkpoint, "table", facts)
    return checkpoint


def _labels(config: TableConfig, genome: Genome) -> Labels:
    """Read what is learnt."""
    table, signals = LabelTable.read(config.labels, genome), signals_by_name(config.bigwig)
    splits = divided(table, genome, config.validation, config.held_out, config.fit.seed)
    targets = targets_of(table, splits, config.target, config.objective, signals, config.window_bp)
    labels = fitted(labels_of(table, splits, genome, targets, signals))
    warn_of_few(labels)
    return labels
