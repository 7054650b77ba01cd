"""Random draws by key: what is drawn depends on the numbers that say what for, on nothing else.

Data are visited in epochs: each is an order of all there is, and the epochs lie end to end.
"""

from __future__ import annotations

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


class Epochs:
    """Steps that visit items by their number, every item once in an epoch.

    Attributes:
        visits: of an epoch.
        count: visits of a step, at least 1.
        seed: of the orders.
    """

    visits: int

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.visits // self.count)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the items of an epoch as they are visited, [visits]."""
        return visiting_order(self.visits, self.seed, epoch)

    def _visited(self, step: int) -> NDArray[np.int64]:
        """Return the items of a step, [count]."""
        first = step * self.count
        epochs, places = np.divmod(np.arange(first, first + self.count), self.visits)
        parts = [self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)
