"""What a trained baseline can do, whatever it is inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.datasets import ChromatinDataset, Sites

Logits = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Bins:
    """N bins of a dataset, in the order of its splits.

    Attributes:
        dataset: their sequence and labels.
        contigs: names, str [N].
        numbers: int64 [N]; bin i of a contig starts at base `i * bin_bp` (0-based).
    """

    dataset: ChromatinDataset
    contigs: NDArray[np.str_]
    numbers: NDArray[np.int64]

    @classmethod
    def of_split(cls, dataset: ChromatinDataset, split: str) -> Bins:
        """Return the usable bins of a split."""
        intervals = dataset.intervals(split)
        found = [dataset.usable_bins(interval) for interval in intervals]
        names = np.array([interval.contig for interval in intervals], dtype=np.str_)
        contigs = np.repeat(names, [len(part) for part in found])
        return cls(dataset, contigs, np.concatenate(found))

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: slice | NDArray[np.int64]) -> Bins:
        """Return some of the bins, in their order."""
        return Bins(self.dataset, self.contigs[rows], self.numbers[rows])

    def drawn(self, most: int, rng: np.random.Generator) -> Bins:
        """Draw bins without replacement; all, where there are no more than `most`."""
        if len(self) <= most:
            return self
        return self.take(np.sort(rng.choice(len(self), most, replace=False)))

    def by_contig(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield runs of one contig: its name and the numbers of its bins."""
        edges = [0, *(np.flatnonzero(self.contigs[1:] != self.contigs[:-1]) + 1).tolist()]
        for first, end in pairwise([*edges, len(self)]):
            yield str(self.contigs[first]), self.numbers[first:end]

    def labels(self) -> NDArray[np.uint8]:
        """Return their labels, [N, F]."""
        return np.concatenate([self.dataset.labels(*run) for run in self.by_contig()])


@dataclass(frozen=True)
class BinSource:
    """What a baseline of chromatin is trained on.

    Attributes:
        dataset: bins and their labels.
        sites: placed sites, for networks that are trained on enriched places.
        auxiliary: further labels of the same bins, which such networks learn beside.
        state: file that keeps the unfinished training of a network; None keeps none.
    """

    dataset: ChromatinDataset
    sites: Sites | None = None
    auxiliary: ChromatinDataset | None = None
    state: Path | None = None


class Fitted(ABC):
    """A trained baseline.

    Attributes:
        facts: JSON that is kept with it: sizes, and what `load` needs beside the arrays.
    """

    facts: dict[str, Any]

    @abstractmethod
    def arrays(self) -> Arrays:
        """Return its weights, by name."""


class BinModel(Fitted):
    """One that predicts bins."""

    @abstractmethod
    def predict_bins(self, bins: Bins) -> Logits:
        """Return the logits of N bins, [N, F]."""

    @abstractmethod
    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, as a bin is centred on it, [S, F]."""


class PromoterModel(Fitted):
    """One that predicts promoter windows."""

    @abstractmethod
    def predict_promoters(self, table: pd.DataFrame) -> Logits:
        """Return the logits of N promoter windows, [N]."""
