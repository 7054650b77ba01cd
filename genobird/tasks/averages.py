"""Means of metrics over batches, and over the processes of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


class Averages:
    """Weighted means of metrics, each over the batches that have it.

    Attributes:
        totals: by name, the sum of weight x value and the sum of weights.
    """

    def __init__(self) -> None:
        self.totals: dict[str, tuple[Tensor | float, float]] = {}

    def add(self, metrics: Mapping[str, Tensor | float], weight: float = 1.0) -> None:
        """Add the metrics of a batch; one of weight 0 adds nothing."""
        if weight:
            self._add({name: (weight * value, weight) for name, value in metrics.items()})

    def _add(self, totals: Mapping[str, tuple[Tensor | float, float]]) -> None:
        for name, (total, weight) in totals.items():
            known, so_far = self.totals.get(name, (0.0, 0.0))
            self.totals[name] = known + total, so_far + weight

    @classmethod
    def joined(cls, parts: Iterable[Mapping[str, tuple[Tensor | float, float]]]) -> Averages:
        """Return the averages over all batches of several; each gives its `totals`."""
        found = cls()
        for part in parts:
            found._add(part)
        return found

    def plain(self) -> dict[str, tuple[float, float]]:
        """Return `totals` without tensors, as other processes can read them."""
        return {name: (float(total), weight) for name, (total, weight) in self.totals.items()}

    def means(self) -> dict[str, float]:
        """Return the mean of each metric."""
        return {name: total / weight for name, (total, weight) in self.plain().items()}
