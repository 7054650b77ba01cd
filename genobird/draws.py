"""Random draws by key: what is drawn depends on the numbers that say what for, on nothing else.

Data are visited in epochs: each is an order of all there is, and the epochs lie end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def generator(*key: int) -> np.random.Generator:
    """Return a generator that depends on the key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@lru_cache(maxsize=8)
def visiting_order(items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits its items, a permutation [items]."""
    return generator(seed, 0, epoch).permutation(items)


def visited(
    first: int, count: int, visits: int, order: Callable[[int], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return which items the visits from `first` on meet, all epochs counted, int64 [count].

    An epoch is `visits` long, and `order` returns its items as they are visited, [visits];
    `count` is at least 1.
    """
    epochs, places = np.divmod(np.arange(first, first + count), visits)
    parts = [order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(parts)
