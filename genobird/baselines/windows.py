"""What networks over bases read: windows of neighbouring bins, and of promoters.

The batch of a step depends on (seed, step) alone, as those of the transformer do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.baselines.network import Batch, UInt8Array
from genobird.datasets import UPSTREAM_BP, ChromatinDataset
from genobird.draws import Epochs, generator
from genobird.enriched import EnrichedBatches
from genobird.errors import InputError
from genobird.genome.sequence import base_codes, complement_codes
from genobird.local import bases_around

Bins = NDArray[np.int64]


def bin_codes(dataset: ChromatinDataset, contig: str, bins: Bins, input_bp: int) -> UInt8Array:
    """Return the base codes around n consecutive bins, N beyond a contig's ends.

    Each bin sees `input_bp` bases, its own in the middle: uint8 [input_bp + 200 (n - 1)].
    """
    flank = (input_bp - dataset.bin_bp) // 2
    first = int(bins[0]) * dataset.bin_bp - flank
    end = int(bins[-1] + 1) * dataset.bin_bp + flank
    return dataset.codes(contig, first, end)


def place_codes(
    sequences: Sequence[str], places: Sequence[int], before: int, after: int
) -> UInt8Array:
    """Return the base codes around one place of each of S sequences, N beyond its ends.

    The bases from the place on are `after`: uint8 [S, before + after].
    """
    return np.concatenate(
        [
            bases_around(sequence, np.array([place]), before, after)
            for sequence, place in zip(sequences, places, strict=True)
        ]
    )


def consecutive(contigs: NDArray[np.str_], bins: Bins, most: int) -> Iterator[slice]:
    """Cut N places into runs of at most `most` consecutive bins of one contig, in order."""
    breaks = np.flatnonzero((np.diff(bins) != 1) | (contigs[1:] != contigs[:-1])) + 1
    for first, end in zip([0, *breaks], [*breaks, len(bins)], strict=True):
        for start in range(first, end, most):
            yield slice(start, min(start + most, end))


class BinBatches(Epochs):
    """Windows of consecutive bins that lie wholly in a split, their 400 bp of flank included.

    An epoch visits every window once, in an order drawn from (seed, epoch); half of them are read
    on the other strand.
    """

    def __init__(
        self,
        dataset: ChromatinDataset,
        split: str,
        *,
        input_bp: int,
        windows: int,
        bins: int,
        seed: int,
    ) -> None:
        super().__init__(windows, seed)
        self.dataset, self.input_bp = dataset, input_bp
        width, flank = dataset.bin_bp, (input_bp - dataset.bin_bp) // 2
        self.windows: list[tuple[str, Bins]] = []
        for interval in dataset.intervals(split):
            first = -(-(interval.start + flank) // width)
            last = (interval.end - flank) // width - bins
            for start in range(first, last + 1, bins):
                at = np.arange(start, start + bins)
                if dataset.usable(interval.contig, at).any():
                    self.windows.append((interval.contig, at))
        if not self.windows:
            raise InputError(
                f"{dataset.path}: split {split} has no {bins} bins in a row with {flank} bp of "
                "flank; choose fewer bins per window"
            )
        self.visits = len(self.windows)

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step: codes [S, L], labels [S, n, F], usable bins [S, n]."""
        strands = generator(self.seed, 1, step).random(self.count) < 0.5
        rows = []
        for window, other_strand in zip(self._visited(step), strands, strict=True):
            contig, bins = self.windows[window]
            codes = bin_codes(self.dataset, contig, bins, self.input_bp)
            labels = self.dataset.labels(contig, bins)
            usable = self.dataset.usable(contig, bins)
            if other_strand:
                codes, labels, usable = complement_codes(codes), labels[::-1], usable[::-1]
            rows.append((codes, labels, usable))
        codes_, labels_, usable_ = (np.stack(part) for part in zip(*rows, strict=True))
        return Batch(codes_, labels_, usable_)


class PlaceBatches:
    """Single places for a network that sees each by itself: enriched bins, and placed sites.

    The first `features` of their labels are to be predicted; those behind are auxiliary, and each
    weighs `auxiliary_weight` beside one of the others.
    """

    def __init__(self, places: EnrichedBatches, features: int, auxiliary_weight: float) -> None:
        self.places, self.features, self.auxiliary_weight = places, features, auxiliary_weight

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.places)

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step, n = 1; the loss is that of `genobird finetune chromatin`."""
        found = self.places(step)
        assert found.bases is not None
        assert found.known is not None
        weights = found.weights[:, None] * found.known
        weights[:, self.features :] *= self.auxiliary_weight
        weights *= weights.shape[1] / self.features
        return Batch(
            found.bases.numpy(),
            found.labels[:, None].numpy().astype(np.uint8),
            np.ones((len(weights), 1), dtype=bool),
            weights[:, None].numpy(),
        )


def promoter_codes(table: pd.DataFrame, input_bp: int, before_bp: int) -> UInt8Array:
    """Return the base codes around each row's transcription start, base 5,000 of its `sequence`.

    `before_bp` of the `input_bp` bases lie before the start: uint8 [N, input_bp].
    """
    first = UPSTREAM_BP - before_bp
    if first < 0:
        raise InputError(
            f"{before_bp} bp before the start are asked for; a window has {UPSTREAM_BP}"
        )
    return np.stack([base_codes(s[first : first + input_bp]) for s in table["sequence"]])


class PromoterBatches(Epochs):
    """Promoters and negatives around their start, moved by a few bases at random."""

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        input_bp: int,
        before_bp: int,
        windows: int,
        jitter_bp: int,
        seed: int,
    ) -> None:
        self.codes = promoter_codes(table, input_bp + 2 * jitter_bp, before_bp + jitter_bp)
        self.labels = table["label"].to_numpy(np.uint8)
        super().__init__(windows, seed)
        self.input_bp, self.jitter_bp, self.visits = input_bp, jitter_bp, len(self.labels)

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step: codes [S, input_bp], labels [S, 1, 1], all counted."""
        moves = generator(self.seed, 1, step).integers(2 * self.jitter_bp + 1, size=self.count)
        rows = self._visited(step)
        codes = np.stack(
            [self.codes[r, m : m + self.input_bp] for r, m in zip(rows, moves, strict=True)]
        )
        return Batch(codes, self.labels[rows][:, None, None], np.ones((self.count, 1), dtype=bool))
