"""Training batches of labelled places: dense chromatin profiles, and promoter windows.

One long window gives a loss for every bin of it that has `margin_bp` of context on both sides,
instead of one bin per window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from genobird.batch import LabelledBatch, Places
from genobird.datasets import UPSTREAM_BP, ChromatinDataset
from genobird.draws import generator, visited, visiting_order
from genobird.errors import InputError, UsageError
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.heads import HeadConfig
from genobird.places import pack_places
from genobird.tasks.data import mask_tokens
from genobird.tokenizer import PAD, Tokenizer


class Visits:
    """Batches of windows, a function of the step.

    Attributes:
        visits: windows of an epoch.
        sequences: windows per batch.
        augment: draw order, place and strand; else every window comes once, as it is.
    """

    visits: int

    def __init__(
        self,
        sequences: int,
        tokenizer: Tokenizer,
        head: HeadConfig,
        block_size: int,
        seed: int,
        augment: bool,
    ) -> None:
        self.sequences, self.seed, self.augment = sequences, seed, augment
        self.tokenizer, self.head, self.block_size = tokenizer, head, block_size

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.visits // self.sequences)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of an epoch as they are visited, [visits]."""
        return visiting_order(self.visits, self.seed, epoch)

    def _visited(self, step: int) -> NDArray[np.int64]:
        """Return the windows of a step."""
        first = step * self.sequences
        if not self.augment:  # one visit, no more
            return np.arange(first, min(first + self.sequences, self.visits))
        return visited(first, self.sequences, self.visits, self._order)

    def _packed(self, sequences: Sequence[str], centres: Sequence[NDArray[np.int64]]) -> Places:
        return pack_places(sequences, centres, self.tokenizer, self.head, self.block_size)


class ChromatinDataSettings(BaseModel):
    """How dense training windows are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_bp: int = Field(20_000, ge=400, description="Bases of a window.")
    margin_bp: int = Field(
        1_000,
        ge=0,
        description="Least context of a bin that has a loss, but for the jitter of up to 199 bp.",
    )
    sequences: int = Field(4, ge=1, description="Windows per batch.")
    both_strands: bool = Field(True, description="Read every second window on the other strand.")
    poor_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the windows poor in positives that an epoch visits; their loss "
        "counts as many times more.",
    )
    mask_rate: float = Field(
        0.0, ge=0, lt=1, description="Share of tokens hidden in every second window, for the MLM."
    )

    @model_validator(mode="after")
    def _room(self) -> ChromatinDataSettings:
        if self.window_bp % 200 or self.margin_bp % 200:
            raise ValueError("window_bp and margin_bp must be multiples of the bin, 200 bp")
        if self.window_bp <= 2 * self.margin_bp:
            raise ValueError(f"a window of {self.window_bp} bp has no bin inside its margins")
        return self


class ChromatinBatches(Visits):
    """Dense training batches; an epoch visits every usable bin of the split about once.

    With `poor_share` below 1 an epoch leaves out some of the windows that have fewer positive
    labels than the mean window, others each time: most positives lie in a quarter of the windows.
    What is visited of them is weighted, so that the expected loss stays the same.

    `auxiliary` is a dataset of the same bins whose labels are learnt beside.
    """

    def __init__(
        self,
        dataset: ChromatinDataset,
        split: str,
        settings: ChromatinDataSettings,
        *,
        tokenizer: Tokenizer,
        head: HeadConfig,
        block_size: int,
        seed: int = 0,
        augment: bool = True,
        auxiliary: ChromatinDataset | None = None,
    ) -> None:
        super().__init__(settings.sequences, tokenizer, head, block_size, seed, augment)
        if auxiliary is not None:
            _same_bins(dataset, auxiliary)
        self.dataset, self.settings, self.auxiliary = dataset, settings, auxiliary
        stride = settings.window_bp - 2 * settings.margin_bp
        self.windows: list[tuple[Interval, int]] = []
        for interval in dataset.intervals(split):
            last = interval.end - settings.window_bp
            for start in range(interval.start, last + 1, stride):
                if dataset.usable(interval.contig, self._bins(start)).any():
                    self.windows.append((interval, start))
        if not self.windows:
            raise InputError(
                f"{dataset.path}: split {split} has no window of {settings.window_bp} bp with a "
                "usable bin; choose a smaller window_bp"
            )
        self.poor = np.zeros(len(self.windows), dtype=bool)
        if augment and settings.poor_share < 1:
            positives = np.array([self._positives(*window) for window in self.windows])
            self.poor = positives < positives.mean()
        poor = int(self.poor.sum())
        kept = math.ceil(settings.poor_share * poor)
        self.visits = len(self.windows) - poor + kept
        chance = np.where(self.poor, kept / max(poor, 1), 1.0)
        self.weights = self.visits / len(self.windows) / chance
        """Of the loss of each window, [W]; 1 on average over an epoch's visits."""

    def _order(self, epoch: int) -> NDArray[np.int64]:
        order = visiting_order(len(self.windows), self.seed, epoch)
        rich = int((~self.poor).sum())
        # The first of the poor windows in this epoch's order are the ones that it visits.
        kept = ~self.poor[order] | (np.cumsum(self.poor[order]) <= self.visits - rich)
        visits: NDArray[np.int64] = order[kept]
        return visits

    def _positives(self, interval: Interval, start: int) -> int:
        bins = self._bins(start)
        usable = bins[self.dataset.usable(interval.contig, bins)]
        return int(self.dataset.labels(interval.contig, usable).sum())

    def _bins(self, start: int) -> NDArray[np.int64]:
        width, margin = self.dataset.bin_bp, self.settings.margin_bp
        first = -(-(start + margin) // width)
        return np.arange(first, (start + self.settings.window_bp - margin) // width)

    def _window(
        self, index: int, rng: np.random.Generator
    ) -> tuple[str, NDArray[np.int64], NDArray[np.uint8]]:
        """Return the sequence of a window, the centres of its bins and their labels."""
        interval, start = self.windows[index]
        width = self.dataset.bin_bp
        bins = self._bins(start)
        bins = bins[self.dataset.usable(interval.contig, bins)]
        if self.augment:  # tokens then begin elsewhere in each epoch; the bins stay in the window
            jitter = int(rng.integers(min(width, self.settings.margin_bp + 1)))
            start = max(interval.start, start - jitter)
        end = start + self.settings.window_bp
        sequence = self.dataset.sequence(interval.contig, start, end)
        centres = bins * width + width // 2 - start
        if self.augment and self.settings.both_strands and rng.random() < 0.5:
            sequence, centres = reverse_complement(sequence), len(sequence) - centres
        return sequence, centres, self._labels(interval.contig, bins)

    def _labels(self, contig: str, bins: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the labels of bins, [n, F + A]; those of auxiliary features stand behind."""
        labels = self.dataset.labels(contig, bins)
        if self.auxiliary is None:
            return labels
        return np.concatenate([labels, self.auxiliary.labels(contig, bins)], axis=1)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step."""
        rng = generator(self.seed, 1, step)
        windows = self._visited(step)
        found = (self._window(int(index), rng) for index in windows)
        sequences, centres, labels = zip(*found, strict=True)
        weights = torch.from_numpy(self.weights[windows].astype(np.float32))
        weights = weights.repeat_interleave(torch.tensor([len(c) for c in centres]))
        places = self._packed(sequences, centres)
        known = torch.from_numpy(np.concatenate(labels)).float()
        if not (self.augment and self.settings.mask_rate):
            return LabelledBatch(places, known, weights)
        batch = places.batch
        chosen = (batch.sequence + step) % 2 == 0
        masked, targets, pieces = mask_tokens(
            batch.ids.masked_fill(~chosen, PAD),
            self.settings.mask_rate,
            self.tokenizer.vocab_size,
            rng,
        )
        hidden = batch.with_ids(torch.where(chosen, masked, batch.ids))
        return LabelledBatch(
            replace(places, batch=hidden), known, weights, targets=targets, pieces=pieces
        )


class PromoterDataSettings(BaseModel):
    """How promoter windows are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequences: int = Field(16, ge=1, description="Windows per batch.")
    shift_bp: int = Field(
        16, ge=1, description="Fewer than so many first bases are left out, at random."
    )


class PromoterBatches(Visits):
    """Batches of promoters and negatives; an epoch visits every window once."""

    def __init__(
        self,
        table: pd.DataFrame,
        settings: PromoterDataSettings,
        *,
        tokenizer: Tokenizer,
        head: HeadConfig,
        block_size: int,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(settings.sequences, tokenizer, head, block_size, seed, augment)
        self.table, self.settings, self.visits = table, settings, len(table)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step."""
        rng = generator(self.seed, 1, step)
        rows = self._visited(step)
        shifts = rng.integers(self.settings.shift_bp, size=len(rows)) * self.augment
        sequences = [
            str(self.table["sequence"].iloc[row])[shift:]
            for row, shift in zip(rows, shifts, strict=True)
        ]
        starts = [np.array([UPSTREAM_BP - shift], dtype=np.int64) for shift in shifts]
        places = self._packed(sequences, starts)
        labels = torch.tensor(self.table["label"].to_numpy(np.float32)[rows])[:, None]
        return LabelledBatch(places, labels, torch.ones(len(labels)))


def _same_bins(dataset: ChromatinDataset, auxiliary: ChromatinDataset) -> None:
    for key in ("bin_bp", "contigs", "splits"):
        if dataset.index.get(key) != auxiliary.index.get(key):
            raise UsageError(
                f"{auxiliary.path} has other {key} than {dataset.path}; auxiliary labels are for "
                "the same bins: build both from one genome with one split"
            )
