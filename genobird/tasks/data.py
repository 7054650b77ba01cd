"""What a training step sees: batches that depend on (seed, number) alone, masked or labelled.

Every dataset here makes a batch from its number (that of the step, where a step takes one), with a
counter-based generator. A run that stops and resumes therefore sees exactly the batches it would
have seen, with any number of workers, and nothing about the data order has to be stored.

Chromatin is read densely: one long window gives a loss for every bin of it that has `margin_bp` of
context on both sides, instead of one bin per window.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from genobird.batch import LabelledBatch, PackedBatch, Places, add_specials, pack
from genobird.config import Strict
from genobird.datasets import UPSTREAM_BP, ChromatinDataset
from genobird.draws import Epochs, generator, visiting_order
from genobird.errors import InputError, UsageError
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.heads import HeadConfig
from genobird.places import pack_places
from genobird.shards import Shards
from genobird.tokenizer import MASK, N_SPECIAL, PAD, Tokenizer

Batch = TypeVar("Batch")
UInt16Array = NDArray[np.uint16]


class Steps(IterableDataset[Batch], Generic[Batch]):
    """Of the batches `start` to `stop` every `world`-th, from the `rank`-th on.

    Workers take turns, so the order never changes. The length is that of the largest share of
    0 to `stop`.
    """

    def __init__(
        self, make: Callable[[int], Batch], stop: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.make, self.start, self.stop = make, start, stop
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return -(-self.stop // self.world)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.start + self.rank + self.world * number
        for step in range(first, self.stop, self.world * workers):
            yield self.make(step)


@dataclass(frozen=True, eq=False)
class MaskedBatch:
    """A batch for masked language modelling.

    Attributes:
        batch: ids with masks in.
        targets: int64 [M], tokens whose piece is asked for.
        labels: int64 [M], their true pieces.
        follows: int64 [S], 1 where segment B follows segment A in its document; empty without NSP.
    """

    batch: PackedBatch
    targets: Tensor
    labels: Tensor
    follows: Tensor

    @property
    def read(self) -> Tensor:
        """What stands there, nothing hidden, int64 [T]."""
        return self.batch.ids.index_copy(0, self.targets, self.labels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MaskedBatch:
        """Return the batch on a device."""
        moved = (x.to(device) for x in (self.targets, self.labels, self.follows))
        return MaskedBatch(self.batch.to(device), *moved)


class PretrainDataSettings(Strict):
    """What pretraining reads. Defaults are the paper's (appendix F.1, table 21)."""

    max_tokens: int = Field(4096, ge=16, description="Tokens per sequence, specials included.")
    sequences: int = Field(4, ge=1, description="Sequences per batch.")
    mask_rate: float = Field(0.15, gt=0, lt=1, description="Share of tokens that are predicted.")


def mask_tokens(
    ids: Tensor, rate: float, vocab_size: int, rng: np.random.Generator, *, hide_all: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Hide tokens as BERT does: 80 % become [MASK], 10 % a random piece, 10 % stay.

    To measure, all must become [MASK]: a model that sees pieces learns at once to repeat those that
    stay, which lowers bits per base by a twentieth and says nothing of DNA.

    Args:
        ids: int64 [T].
        rate: share of the tokens that are asked for; special tokens never are.
        vocab_size: random pieces are drawn from all but the specials.
        rng: generator.
        hide_all: every token that is asked for becomes [MASK]; which these are does not change.

    Returns:
        Ids with masks [T], asked-for tokens [M] in ascending order, and their true pieces [M]; M is
        0 only where all tokens are special.
    """
    candidates = np.flatnonzero(ids.numpy() >= N_SPECIAL)
    count = min(len(candidates), max(1, round(rate * len(candidates))))
    targets = np.sort(rng.choice(candidates, size=count, replace=False))
    fate = rng.random(count)
    pieces = rng.integers(N_SPECIAL, vocab_size, size=count)
    masked = ids.numpy().copy()
    hidden, swapped = (fate < 1, fate >= 1) if hide_all else (fate < 0.8, fate >= 0.9)
    masked[targets[hidden]] = MASK
    masked[targets[swapped]] = pieces[swapped]
    where = torch.from_numpy(targets)
    return torch.from_numpy(masked), where, ids[where]


class PretrainBatches:
    """Masked batches from token shards.

    Documents are cut into windows of `max_tokens`; an epoch visits every window once, in an order
    drawn from (seed, epoch). With `nsp`, a sequence is two halves `[CLS] A [SEP] B [SEP]`, where B
    follows A in half of the cases and comes from a random window in the others (paper, appendix
    F.1). `hide_all` is for validation, see `mask_tokens`; `chosen` are the documents that are read,
    all of them if None.
    """

    def __init__(
        self,
        shards: Shards,
        settings: PretrainDataSettings,
        *,
        vocab_size: int,
        block_size: int,
        nsp: bool = False,
        seed: int = 0,
        hide_all: bool = False,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        self.shards, self.settings, self.seed = shards, settings, seed
        self.hide_all = hide_all
        self.vocab_size, self.block_size, self.nsp = vocab_size, block_size, nsp
        self.room = settings.max_tokens - (3 if nsp else 2)
        chosen = np.arange(len(shards)) if chosen is None else chosen
        lengths = np.array([len(shards.document(int(i))) for i in chosen])
        counts = np.maximum(1, np.ceil(lengths / self.room)).astype(np.int64)
        documents = np.repeat(chosen, counts)
        offsets = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.windows = np.stack([documents, offsets * self.room], axis=1)  # [W, 2]

    def __len__(self) -> int:
        """Steps that visit every window once."""
        return -(-len(self.windows) // self.settings.sequences)

    def window(self, index: int) -> UInt16Array:
        """Return the ids of window `index`, no specials, at most `room`."""
        document, offset = self.windows[index]
        return self.shards.document(int(document))[offset : offset + self.room]

    def sequence(self, place: int, rng: np.random.Generator) -> tuple[UInt16Array, int | None]:
        """Make the sequence of a place in the order of all epochs, counted from the run's start.

        Returns:
            Its ids with specials, and whether B follows A; without NSP this is None, and nothing is
            drawn.
        """
        epoch, index = divmod(place, len(self.windows))
        order = visiting_order(len(self.windows), self.seed, epoch)
        ids = self.window(int(order[index]))
        if not self.nsp:
            return add_specials(ids), None
        half = (len(ids) + 1) // 2
        first, second = ids[:half], ids[half:]
        follows = int(rng.random() < 0.5)
        if not follows:
            other = self.window(int(rng.integers(len(self.windows))))
            second = other[: max(1, len(second))]
        return add_specials(first, second), follows

    def __call__(self, step: int) -> MaskedBatch:
        """Make the batch of a step."""
        return self.batch(step, lambda number: (self, number))

    def batch(self, step: int, find: Callable[[int], tuple[PretrainBatches, int]]) -> MaskedBatch:
        """Make the batch of a step from sequences that may be of other corpora.

        `find` returns the corpus of the run's sequence of a number, and its place there.
        """
        rng = generator(self.seed, 1, step)
        count = self.settings.sequences
        places = [find(step * count + slot) for slot in range(count)]
        drawn = [source.sequence(place, rng) for source, place in places]
        batch = pack([ids for ids, _ in drawn], self.block_size)
        masked, targets, labels = mask_tokens(
            batch.ids, self.settings.mask_rate, self.vocab_size, rng, hide_all=self.hide_all
        )
        follows = [follows for _, follows in drawn if follows is not None]
        known = torch.tensor(follows, dtype=torch.int64)
        return MaskedBatch(batch.with_ids(masked), targets, labels, known)


ROUND = 1_000
"""Sequences among which shares are exact, to a sequence."""


class MixedBatches:
    """Masked batches whose sequences come from several corpora, alike in settings and seed.

    Of each 1,000 sequences a corpus gives its share by weight (above 0), in an order drawn from
    (seed, number of the thousand). Each corpus is visited in its own epochs; names of contigs mean
    nothing here.
    """

    def __init__(self, parts: Sequence[PretrainBatches], weights: Sequence[float]) -> None:
        self.parts = tuple(parts)
        self.counts = _shares(weights)

    def place(self, number: int) -> tuple[PretrainBatches, int]:
        """Return the corpus of the run's sequence of a number, and its place there."""
        turn, at = divmod(number, ROUND)
        order = _corpora(self.counts, self.parts[0].seed, turn)
        part = int(order[at])
        before = int((order[:at] == part).sum())
        return self.parts[part], turn * self.counts[part] + before

    def __call__(self, step: int) -> MaskedBatch:
        """Make the batch of a step."""
        return self.parts[0].batch(step, self.place)


def _shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many of 1,000 sequences each corpus gives: by largest remainders, at least 1."""
    exact = ROUND * np.asarray(weights) / sum(weights)
    counts = np.maximum(1, exact.astype(np.int64))
    while counts.sum() > ROUND:
        counts[np.argmax(counts)] -= 1
    while counts.sum() < ROUND:
        counts[np.argmax(exact - counts)] += 1
    return tuple(int(count) for count in counts)


@lru_cache(maxsize=4)
def _corpora(counts: tuple[int, ...], seed: int, turn: int) -> NDArray[np.int64]:
    """Return the corpus of each sequence of a thousand."""
    corpora = np.repeat(np.arange(len(counts)), counts)
    return generator(seed, 3, turn).permutation(corpora)


class Visits(Epochs, ABC):
    """Batches of windows, a function of the step.

    Attributes:
        augment: draw order, place and strand; else every window comes once, as it is.
    """

    def __init__(
        self,
        sequences: int,
        tokenizer: Tokenizer,
        head: HeadConfig,
        block_size: int,
        seed: int,
        augment: bool,
    ) -> None:
        super().__init__(sequences, seed)
        self.tokenizer, self.head, self.block_size = tokenizer, head, block_size
        self.augment = augment

    @abstractmethod
    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step."""

    def _visited(self, step: int) -> NDArray[np.int64]:
        if self.augment:
            return super()._visited(step)
        first = step * self.count  # one visit, no more
        return np.arange(first, min(first + self.count, self.visits))

    def _packed(self, sequences: Sequence[str], centres: Sequence[NDArray[np.int64]]) -> Places:
        return pack_places(sequences, centres, self.tokenizer, self.head, self.block_size)


class ChromatinDataSettings(Strict):
    """How dense training windows are cut."""

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
        return order[kept]

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


class PromoterDataSettings(Strict):
    """How promoter windows are read."""

    sequences: int = Field(16, ge=1, description="Windows per batch.")
    shift_bp: int = Field(
        16, ge=1, description="At random, fewer first bases than this are left out."
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
