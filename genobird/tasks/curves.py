"""ROC and precision-recall curves, small enough to be kept with the figures.

A curve is its heights on one grid from 0 to 1. That of a class of features is the mean of its
features' curves at each point of the grid, so that a common feature weighs no more than a rare one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genobird.tasks.metrics import Ranking

Floats = npt.NDArray[np.float64]

POINTS = 51
GRID: Floats = np.linspace(0, 1, POINTS)


def roc(ranking: Ranking) -> Floats:
    """Return the true-positive rate at each false-positive rate of `GRID`; NaN without positives.

    It is the highest rate that a threshold with at most that many false positives reaches.
    """
    negatives = len(ranking.order) - len(ranking.positive)
    if not len(ranking.positive) or not negatives:
        return np.full(POINTS, np.nan)
    false = (ranking.end - ranking.positive_end) / negatives
    reached = np.searchsorted(false, GRID, side="right")
    found = np.append(0, ranking.positive_end)[reached]
    return np.asarray(found / len(ranking.positive), dtype=np.float64)


def precision_recall(ranking: Ranking) -> Floats:
    """Return the precision at each recall of `GRID`; NaN without positives.

    It is that of the highest threshold whose recall is at least so large.
    """
    if not len(ranking.positive):
        return np.full(POINTS, np.nan)
    recall = ranking.positive_end / len(ranking.positive)
    first = np.searchsorted(recall, GRID - 1e-12)
    return np.asarray((ranking.positive_end / ranking.end)[first], dtype=np.float64)


def mean_curves(rankings: Sequence[Ranking]) -> dict[str, list[float]] | None:
    """Average the curves of features that have positives; None without any.

    Returns:
        `roc` and `precision_recall`, each `POINTS` heights.
    """
    found = {}
    for name, curve in (("roc", roc), ("precision_recall", precision_recall)):
        heights = [curve(ranking) for ranking in rankings]
        known = [one for one in heights if not np.isnan(one).any()]
        if not known:
            return None
        found[name] = np.mean(known, axis=0).round(4).tolist()
    return found
