"""Final figures of a model, and how sure they are.

Enter labels and scores of all test windows; leave AUROC, AUPRC and the like with bootstrap
confidence intervals, their curves, and how right probabilities are. Neighbouring windows are not
independent, so the bootstrap resamples whole groups of them (megabases). It does so by weights: a
`Ranking` sorts its scores once, and gives its AUROC and AUPRC under any weight of each window
without sorting again.

The figures are those of scikit-learn (`roc_auc_score`, `average_precision_score`), ties included;
one that does not exist (AUROC of a single class) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from genobird.draws import generator
from genobird.errors import InputError
from genobird.heads import probabilities

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Statistic = Callable[[Doubles], float]
"""A figure of N windows as a function of their weights [N]."""
Interval = dict[str, float | None]
"""A figure as JSON: `low`, `point`, `high`; None where it does not exist."""

TAILS = (1 - 0.95) / 2, (1 + 0.95) / 2
"""Quantiles between which a confidence interval lies."""
BINS = 10
"""Of a calibration, equally wide."""
POINTS = 51
GRID: Doubles = np.linspace(0, 1, POINTS)
"""Where curves have their heights: they are small enough to be kept with the figures."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Labels and scores of one output, sorted once by falling score (build it with `of`).

    A block is a run of equal scores; a positive is counted as if it lay at both ends of its block.
    """

    order: npt.NDArray[np.int32]
    """Windows by falling score, [N]."""
    positive: npt.NDArray[np.int32]
    """The positive windows among `order`, [P]."""
    start: npt.NDArray[np.int32]
    """Number of windows that score higher than each positive, [P]."""
    end: npt.NDArray[np.int32]
    """Number of windows that score at least as high as each positive, [P]."""
    positive_end: npt.NDArray[np.int32]
    """Number of positive windows among `end`, [P]."""

    @classmethod
    def of(cls, labels: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
        """Sort labels, 0 or 1, [N], by their scores (logits or probabilities), [N].

        Raises:
            InputError: Shapes differ, a label is neither 0 nor 1, or a score is NaN.
        """
        truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
        if truth.ndim != 1 or truth.shape != values.shape:
            raise InputError(
                f"labels are {list(truth.shape)} and scores {list(values.shape)}; both are [N]"
            )
        if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
            raise InputError(f"labels hold {truth[~np.isin(truth, (0, 1))][0]}; they are 0 or 1")
        missing = int(np.isnan(values).sum())
        if missing:
            raise InputError(f"{missing} of {len(values)} scores are NaN; score every window")
        order = np.argsort(-values, kind="stable")
        descending = values[order]
        is_start = np.ones(len(order), dtype=bool)
        is_start[1:] = descending[1:] != descending[:-1]
        starts = np.flatnonzero(is_start)
        ends = np.append(starts[1:], len(order))
        places = np.flatnonzero(truth[order])
        block = np.cumsum(is_start)[places] - 1
        end = ends[block]
        return cls(
            order=order.astype(np.int32),
            positive=order[places].astype(np.int32),
            start=starts[block].astype(np.int32),
            end=end.astype(np.int32),
            positive_end=np.searchsorted(places, end).astype(np.int32),
        )

    def auroc(self, weights: Doubles | None = None) -> float:
        """Area under the ROC curve, ties counted half; NaN where a class has no weight.

        Weights of the windows, [N], are not negative, and 1 by default.
        """
        total = self._cumulative(weights)
        mine = self._positive_weights(weights)
        positives = float(mine.sum())
        pairs = positives * (float(total[-1]) - positives)
        if not pairs > 0:
            return float("nan")
        # Windows above each positive and half of those beside it, summed over the positives. The
        # positives among them are P^2 / 2: of two, one lies above the other, or each counts half.
        above = float(mine @ (total[self.start] + total[self.end])) / 2 - positives**2 / 2
        return 1.0 - above / pairs

    def auprc(self, weights: Doubles | None = None) -> float:
        """Average precision; NaN where no positive has weight, see `auroc`."""
        total = self._cumulative(weights)[self.end]
        mine = self._positive_weights(weights)
        found = np.concatenate(([0.0], np.cumsum(mine)))
        if not found[-1] > 0:
            return float("nan")
        precision = np.divide(
            found[self.positive_end], total, out=np.zeros_like(total), where=total > 0
        )
        return float(mine @ precision) / float(found[-1])

    def _cumulative(self, weights: Doubles | None) -> Doubles:
        """Weight of the first 0, 1, ... N windows by falling score, [N + 1]."""
        if weights is None:
            return np.arange(len(self.order) + 1, dtype=np.float64)
        cumulative = np.zeros(len(self.order) + 1)
        np.cumsum(weights[self.order], out=cumulative[1:])
        return cumulative

    def _positive_weights(self, weights: Doubles | None) -> Doubles:
        return np.ones(len(self.positive)) if weights is None else weights[self.positive]


def median(values: Doubles) -> float:
    """Median of the values that are not NaN; NaN without any."""
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def correlation(
    of: Callable[[Doubles, Doubles], Any], first: Doubles, second: Doubles
) -> Statistic:
    """Return a correlation of values [N], each taken as often as its weight says.

    It is `pearsonr` or `spearmanr` of scipy, and NaN where one of them is constant.
    """

    def statistic(weights: Doubles) -> float:
        rows = np.repeat(np.arange(len(first)), weights.astype(np.int64))
        drawn = first[rows], second[rows]
        if any(len(np.unique(values)) < 2 for values in drawn):
            return float("nan")
        return float(of(*drawn).statistic)

    return statistic


def mean_of(values: npt.ArrayLike) -> Statistic:
    """Return the mean of values [N] as a function of their weights."""
    numbers = np.asarray(values, dtype=np.float64)
    return lambda weights: float(np.average(numbers, weights=weights))


class Resampling(NamedTuple):
    """How intervals of figures are made.

    Attributes:
        group_bp: width of the stretches of the genome that the bootstrap draws.
        resamples: how often it draws.
        seed: of the draws.
    """

    group_bp: int = 250_000
    resamples: int = 200
    seed: int = 0

    def of(self, groups: Sequence[Hashable] | Array, digits: int | None = None) -> Bootstrap:
        """Return the bootstrap of windows that lie in some stretches, [N]."""
        return Bootstrap(groups, self.resamples, self.seed, digits)


USUAL: Final = Resampling()


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Percentile bootstrap that draws whole groups of windows with replacement, 95 % of it.

    The same seed draws the same groups for any statistic.

    Attributes:
        groups: the group of each window, such as its stretch of the genome `chr20:54`, [N].
        resamples: how often, 1 or more.
        seed: of the draws.
        digits: that figures are rounded to; None is all.

    Raises:
        InputError: there are no groups.
    """

    groups: Sequence[Hashable] | Array
    resamples: int = 200
    seed: int = 0
    digits: int | None = None

    def __post_init__(self) -> None:
        if not len(self.groups):
            raise InputError("no groups to resample; give the group of each window")

    def interval(self, statistic: Statistic) -> Interval:
        """Return the figure of all windows once, between the quantiles of the resamples.

        Resamples where the figure is NaN (no positives were drawn) are left out. One group alone
        tells nothing of chance: then there are no quantiles.

        Args:
            statistic: the figure as a function of the weights of all windows, [N] float64: how
                often the group of each was drawn. For example `Ranking.of(labels, scores).auroc`.
        """
        codes, names = pd.factorize(np.asarray(self.groups))
        rng = generator(self.seed)
        values = np.empty(self.resamples if len(names) > 1 else 0)
        for i in range(len(values)):
            drawn = rng.integers(len(names), size=len(names))
            weights = np.bincount(drawn, minlength=len(names)).astype(np.float64)[codes]
            values[i] = statistic(weights)
        point = statistic(np.ones(len(codes)))
        values = values[~np.isnan(values)]
        ends = np.quantile(values, TAILS) if len(values) else (math.nan, math.nan)
        found = {"low": float(ends[0]), "point": float(point), "high": float(ends[1])}
        return {name: self._plain(value) for name, value in found.items()}

    def _plain(self, value: float) -> float | None:
        if math.isnan(value):
            return None
        return round(value, self.digits) if self.digits else value

    def difference(self, model: Statistic, other: Statistic) -> Interval:
        """Return model minus other, both on the same resamples; both are of the same windows."""
        return self.interval(lambda weights: model(weights) - other(weights))


def calibration(
    labels: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32], positive_weight: float = 1.0
) -> dict[str, Any]:
    """Compare probabilities with what came true, over all labels at once.

    Args:
        labels: 0 or 1, [N, F].
        logits: [N, F].
        positive_weight: w of a loss that weights positives; its logits are ln w too large.

    Returns:
        `error`, the mean of |predicted - observed| over ten bins of equal width, weighted by their
        labels (expected calibration error); `predicted_share` and `observed_share` of positives;
        `table`, one row per bin that has labels: `low`, `high`, `count`, `predicted`, `observed`.
        No interval: resampling makes a sum of sizes larger, so it may exclude the figure itself.
    """
    count, predicted, observed = np.zeros((3, BINS))
    edges = np.linspace(0, 1, BINS + 1)
    for truth, column in zip(labels.T, logits.T, strict=True):
        probability = probabilities(column, positive_weight)
        place = np.searchsorted(edges[1:-1], probability, side="right")
        count += np.bincount(place, minlength=BINS)
        predicted += np.bincount(place, weights=probability, minlength=BINS)
        observed += np.bincount(place, weights=truth, minlength=BINS)
    return {
        "error": float(np.abs(predicted - observed).sum() / count.sum()),
        "predicted_share": float(predicted.sum() / count.sum()),
        "observed_share": float(observed.sum() / count.sum()),
        "table": [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": int(count[i]),
                "predicted": float(predicted[i] / count[i]),
                "observed": float(observed[i] / count[i]),
            }
            for i in range(BINS)
            if count[i]
        ],
    }


def roc(labels: Array, scores: Array) -> Doubles:
    """Return the true-positive rate at each false-positive rate of `GRID`; NaN with one class only.

    It is the highest rate that a threshold with at most that many false positives reaches. Labels
    are 0 or 1, scores logits or probabilities, [N].
    """
    if not labels.any() or labels.all():
        return np.full(POINTS, np.nan)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return np.asarray(true[np.searchsorted(false, GRID, side="right") - 1], dtype=np.float64)


def precision_recall(labels: Array, scores: Array) -> Doubles:
    """Return the precision at each recall of `GRID`; NaN without positives.

    It is that of the highest threshold whose recall is at least so large; arguments as `roc`.
    """
    if not labels.any():
        return np.full(POINTS, np.nan)
    precision, recall, _ = precision_recall_curve(labels, scores)
    least = np.maximum(GRID - 1e-12, 1e-12)  # a positive has to be found, also at a recall of 0
    first = np.searchsorted(recall[::-1], least)
    return np.asarray(precision[::-1][first], dtype=np.float64)


def curves_of(labels: Array, scores: Array) -> dict[str, Doubles]:
    """Return the curves `roc` and `precision_recall` of each feature, [F, POINTS].

    Labels are 0 or 1, scores logits or probabilities, [N, F].
    """
    columns = list(zip(labels.T, scores.T, strict=True))
    return {
        "roc": np.array([roc(*column) for column in columns]),
        "precision_recall": np.array([precision_recall(*column) for column in columns]),
    }


def mean_curves(curves: dict[str, Doubles]) -> dict[str, list[float]] | None:
    """Average each kind of curve, [F, POINTS], over the features that have it; None without any."""
    known = {kind: heights[~np.isnan(heights).any(axis=1)] for kind, heights in curves.items()}
    if not all(map(len, known.values())):
        return None
    return {kind: heights.mean(axis=0).round(4).tolist() for kind, heights in known.items()}
