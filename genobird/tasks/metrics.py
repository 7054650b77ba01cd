"""Final figures of a model, and how sure they are.

Enter labels and scores of all test windows; leave AUROC, AUPRC and the like with bootstrap
confidence intervals, their curves, and how right probabilities are. Neighbouring windows are not
independent, so the bootstrap resamples whole groups of them (megabases). It does so by weights: a
`Ranking` sorts its scores once, and gives its AUROC and AUPRC under any weight of each window
without sorting again.

The figures are those of scikit-learn (`roc_auc_score`, `average_precision_score`, `f1_score`,
`brier_score_loss`), ties included; one that does not exist (AUROC of a single class) is NaN. F1 and
Brier score are computed there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from sklearn.metrics import brier_score_loss, f1_score, precision_recall_curve, roc_curve

from genobird.draws import generator
from genobird.errors import InputError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], float]
"""A figure of N windows as a function of their weights [N]."""
Interval = dict[str, float | None]
"""A figure as JSON: `low`, `point`, `high`; None where it does not exist."""

BINS = 10
"""Of a calibration, equally wide."""
POINTS = 51
GRID: Floats = np.linspace(0, 1, POINTS)
"""Where curves have their heights: they are small enough to be kept with the figures."""


class ConfidenceInterval(NamedTuple):
    """A figure between the ends of its confidence interval."""

    low: float
    point: float
    high: float

    def __str__(self) -> str:
        return f"{self.point:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def plain(self, digits: int | None = None) -> dict[str, float | None]:
        """Return `low`, `point` and `high` for JSON, rounded if asked; None for NaN."""
        return {
            name: None if math.isnan(value) else round(value, digits) if digits else value
            for name, value in self._asdict().items()
        }


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
        """Sort.

        Args:
            labels: 0 or 1, [N].
            scores: Logits or probabilities, higher means more positive, [N].

        Raises:
            InputError: Shapes differ, a label is neither 0 nor 1, or a score is NaN.
        """
        truth, values = _labelled(labels, scores, "scores")
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

    def auroc(self, weights: Floats | None = None) -> float:
        """Area under the ROC curve, ties counted half; NaN where a class has no weight.

        Args:
            weights: Non-negative weight of each window, [N]; 1 by default.
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

    def auprc(self, weights: Floats | None = None) -> float:
        """Average precision; NaN where no positive has weight.

        Args:
            weights: Non-negative weight of each window, [N]; 1 by default.
        """
        total = self._cumulative(weights)[self.end]
        mine = self._positive_weights(weights)
        found = np.concatenate(([0.0], np.cumsum(mine)))
        if not found[-1] > 0:
            return float("nan")
        precision = np.divide(
            found[self.positive_end], total, out=np.zeros_like(total), where=total > 0
        )
        return float(mine @ precision) / float(found[-1])

    def _cumulative(self, weights: Floats | None) -> Floats:
        """Weight of the first 0, 1, ... N windows by falling score, [N + 1]."""
        if weights is None:
            return np.arange(len(self.order) + 1, dtype=np.float64)
        cumulative = np.zeros(len(self.order) + 1)
        np.cumsum(weights[self.order], out=cumulative[1:])
        return cumulative

    def _positive_weights(self, weights: Floats | None) -> Floats:
        return np.ones(len(self.positive)) if weights is None else weights[self.positive]


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve of labels [N] and scores [N]; NaN when there is one class only."""
    return Ranking.of(labels, scores).auroc()


def auprc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Average precision of labels [N] and scores [N]; NaN when there are no positives."""
    return Ranking.of(labels, scores).auprc()


def rankings(labels: npt.ArrayLike, logits: npt.ArrayLike) -> list[Ranking]:
    """Sort each feature once, for a bootstrap over many.

    Args:
        labels: 0 or 1, [N, F].
        logits: Logits or probabilities, [N, F].

    Raises:
        InputError: As `Ranking.of`.
    """
    truth, values = _matrices(labels, logits)
    return [Ranking.of(truth[:, f], values[:, f]) for f in range(truth.shape[1])]


def median(values: Floats) -> float:
    """Median of the values that are not NaN; NaN without any."""
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def bootstrap(
    statistic: Statistic,
    groups: Sequence[Hashable] | Array,
    n: int = 200,
    *,
    seed: int,
    level: float = 0.95,
) -> ConfidenceInterval:
    """Percentile bootstrap that draws whole groups with replacement.

    Args:
        statistic: The figure as a function of the weights of all windows, [N] float64: how often
            the group of each was drawn. For example `Ranking.of(labels, scores).auroc`.
        groups: The group of each window, such as its megabase `chr20:54`, [N].
        n: Number of resamples.
        seed: Seed of the draws; the same seed draws the same groups for any statistic.
        level: Share of the resamples inside the interval.

    Returns:
        The figure of all windows once, between the quantiles of the resamples. Resamples where the
        figure is NaN (no positives were drawn) are left out.

    Raises:
        InputError: There are no groups.
        ValueError: `n` is below 1 or `level` is not between 0 and 1.
    """
    if n < 1:
        raise ValueError(f"{n} resamples; at least 1 is needed")
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level}; it lies between 0 and 1, such as 0.95")
    codes, names = pd.factorize(np.asarray(groups))
    if not len(names):
        raise InputError("no groups to resample; give the group of each window")
    rng = generator(seed)
    values = np.empty(n)
    for i in range(n):
        drawn = rng.integers(len(names), size=len(names))
        values[i] = statistic(np.bincount(drawn, minlength=len(names)).astype(np.float64)[codes])
    point = float(statistic(np.ones(len(codes))))
    values = values[~np.isnan(values)]
    if not len(values):
        return ConfidenceInterval(float("nan"), point, float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(float(low), point, float(high))


def bootstrap_difference(
    first: Statistic,
    second: Statistic,
    groups: Sequence[Hashable] | Array,
    n: int = 200,
    *,
    seed: int,
    level: float = 0.95,
) -> ConfidenceInterval:
    """Paired bootstrap of `first` minus `second`: both see the same groups in each resample.

    Both are figures of the same windows in the same order, as functions of their weights [N]; the
    other arguments are those of `bootstrap`.
    """
    return bootstrap(
        lambda weights: first(weights) - second(weights), groups, n, seed=seed, level=level
    )


@dataclass(frozen=True, eq=False)
class Stretches:
    """Stretches of the genome, which intervals of figures resample.

    Attributes:
        groups: the stretch of each window, [N].
        resamples: how often.
        seed: of the draws.
        digits: that figures are rounded to; None is all.
    """

    groups: Array
    resamples: int
    seed: int
    digits: int | None = None

    def interval(self, statistic: Statistic) -> Interval:
        """Return a figure with its interval."""
        found = bootstrap(statistic, self.groups, self.resamples, seed=self.seed)
        return found.plain(self.digits)

    def difference(self, model: Statistic, other: Statistic) -> Interval:
        """Return model minus other, both on the same resamples."""
        found = bootstrap_difference(model, other, self.groups, self.resamples, seed=self.seed)
        return found.plain(self.digits)


def f1(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: Floats | None = None) -> float:
    """F1 score of the positive class at a probability of 0.5 or more; 0 when nothing is found.

    Args:
        labels: 0 or 1, [N].
        probabilities: Between 0 and 1, [N].
        weights: Weight of each window, [N]; 1 by default.

    Raises:
        InputError: Shapes differ, a label is neither 0 nor 1, or a probability is out of range.
    """
    truth, values = _labelled_probabilities(labels, probabilities)
    if not len(truth):
        return float("nan")
    return float(f1_score(truth, values >= 0.5, sample_weight=weights, zero_division=0))


def brier(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: Floats | None = None
) -> float:
    """Mean squared difference of probabilities [N] and labels [N]; arguments as `f1`."""
    truth, values = _labelled_probabilities(labels, probabilities)
    if not len(truth):
        return float("nan")
    return float(brier_score_loss(truth, values, sample_weight=weights))


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
        probability = expit(column.astype(np.float64) - np.log(positive_weight))
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


def _matrices(labels: npt.ArrayLike, logits: npt.ArrayLike) -> tuple[Array, Array]:
    truth, values = np.asarray(labels), np.asarray(logits)
    if truth.ndim != 2 or truth.shape != values.shape:
        raise InputError(
            f"labels are {list(truth.shape)} and logits {list(values.shape)}; both are [N, F]"
        )
    return truth, values


def _labelled(
    labels: npt.ArrayLike, values: npt.ArrayLike, name: str
) -> tuple[npt.NDArray[np.bool_], Floats]:
    truth, numbers = np.asarray(labels), np.asarray(values, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != numbers.shape:
        raise InputError(
            f"labels are {list(truth.shape)} and {name} {list(numbers.shape)}; both are [N]"
        )
    if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
        raise InputError(f"labels hold {truth[~np.isin(truth, (0, 1))][0]}; they are 0 or 1")
    missing = int(np.isnan(numbers).sum())
    if missing:
        raise InputError(f"{missing} of {len(numbers)} {name} are NaN; score every window")
    return truth.astype(np.bool_), numbers


def _labelled_probabilities(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], Floats]:
    truth, values = _labelled(labels, probabilities, "probabilities")
    outside = values[(values < 0) | (values > 1)]
    if len(outside):
        raise InputError(f"probabilities hold {outside[0]:g}; they lie between 0 and 1")
    return truth, values
