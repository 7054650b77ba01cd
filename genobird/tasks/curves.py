"""ROC and precision-recall curves, small enough to be kept with the figures.

A curve is its heights on one grid from 0 to 1. That of a class of features is the mean of its
features' curves at each point of the grid, so that a common feature weighs no more than a rare one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

POINTS = 51
GRID: Floats = np.linspace(0, 1, POINTS)


def roc(labels: Array, scores: Array) -> Floats:
    """Return the true-positive rate at each false-positive rate of `GRID`; NaN with one class only.

    It is the highest rate that a threshold with at most that many false positives reaches.

    Args:
        labels: 0 or 1, [N].
        scores: Logits or probabilities, [N].
    """
    if not labels.any() or labels.all():
        return np.full(POINTS, np.nan)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return np.asarray(true[np.searchsorted(false, GRID, side="right") - 1], dtype=np.float64)


def precision_recall(labels: Array, scores: Array) -> Floats:
    """Return the precision at each recall of `GRID`; NaN without positives.

    It is that of the highest threshold whose recall is at least so large; arguments as `roc`.
    """
    if not labels.any():
        return np.full(POINTS, np.nan)
    precision, recall, _ = precision_recall_curve(labels, scores)
    least = np.maximum(GRID - 1e-12, 1e-12)  # a positive has to be found, also at a recall of 0
    first = np.searchsorted(recall[::-1], least)
    return np.asarray(precision[::-1][first], dtype=np.float64)


def curves_of(labels: Array, scores: Array) -> dict[str, Floats]:
    """Return the curves `roc` and `precision_recall` of each feature, [F, POINTS].

    Args:
        labels: 0 or 1, [N, F].
        scores: Logits or probabilities, [N, F].
    """
    columns = list(zip(labels.T, scores.T, strict=True))
    return {
        "roc": np.array([roc(*column) for column in columns]),
        "precision_recall": np.array([precision_recall(*column) for column in columns]),
    }


def mean_curves(curves: dict[str, Floats]) -> dict[str, list[float]] | None:
    """Average each kind of curve over the features that have it; None without any.

    Args:
        curves: heights of each feature by kind, [F, POINTS].

    Returns:
        `POINTS` heights by kind.
    """
    known = {kind: heights[~np.isnan(heights).any(axis=1)] for kind, heights in curves.items()}
    if not all(map(len, known.values())):
        return None
    return {kind: heights.mean(axis=0).round(4).tolist() for kind, heights in known.items()}
