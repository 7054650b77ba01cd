"""Several corpora in one training, each with its share of the sequences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genobird.draws import generator
from genobird.tasks.data import MaskedBatch, PretrainBatches

ROUND = 1_000
"""Sequences among which shares are exact, to a sequence."""


class MixedBatches:
    """Masked batches whose sequences come from several corpora.

    Of each 1,000 sequences a corpus gives its share, in an order drawn from (seed, number of the
    thousand). Each corpus is visited in its own epochs; names of contigs mean nothing here.

    Args:
        parts: batches of each corpus, alike in settings and seed.
        weights: of each, above 0; shares are their ratios.
    """

    def __init__(self, parts: Sequence[PretrainBatches], weights: Sequence[float]) -> None:
        self.parts = tuple(parts)
        self.counts = _shares(weights)

    def place(self, number: int) -> tuple[PretrainBatches, int]:
        """Return the corpus of the run's sequence of a number, and its place there."""
        turn, at = divmod(number, ROUND)
        order = _order(self.counts, self.parts[0].seed, turn)
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
def _order(counts: tuple[int, ...], seed: int, turn: int) -> NDArray[np.int64]:
    """Return the corpus of each sequence of a thousand."""
    corpora = np.repeat(np.arange(len(counts)), counts)
    return generator(seed, 3, turn).permutation(corpora)
