"""What a trained baseline can do, whatever it is inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    def predict_bins(
        self,
        dataset: ChromatinDataset,
        contigs: NDArray[np.str_],
        bins: NDArray[np.int64],
        precision: str,
    ) -> Logits:
        """Return the logits of N bins, [N, F]; `contigs` and `bins` are ascending."""

    @abstractmethod
    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, as a bin is centred on it, [S, F]."""


class PromoterModel(Fitted):
    """One that predicts promoter windows."""

    @abstractmethod
    def predict_promoters(self, table: pd.DataFrame, precision: str) -> Logits:
        """Return the logits of N promoter windows, [N]."""


def contig_runs(contigs: NDArray[np.str_]) -> list[slice]:
    """Cut N places into runs of one contig."""
    edges = [0, *(np.flatnonzero(contigs[1:] != contigs[:-1]) + 1).tolist(), len(contigs)]
    return [slice(a, b) for a, b in pairwise(edges)]


def training_bins(
    dataset: ChromatinDataset, most: int, rng: np.random.Generator
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Draw usable bins of the training split without replacement, in the order of the genome."""
    intervals = dataset.intervals("train")
    found = [dataset.usable_bins(interval) for interval in intervals]
    names = np.array([interval.contig for interval in intervals], dtype=np.str_)
    contigs, bins = np.repeat(names, [len(part) for part in found]), np.concatenate(found)
    if len(bins) > most:
        rows = np.sort(rng.choice(len(bins), most, replace=False))
        contigs, bins = contigs[rows], bins[rows]
    return contigs, bins


def labels_of(
    dataset: ChromatinDataset, contigs: NDArray[np.str_], bins: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the labels of bins, [N, F]."""
    return np.concatenate(
        [dataset.labels(str(contigs[r.start]), bins[r]) for r in contig_runs(contigs)]
    )
