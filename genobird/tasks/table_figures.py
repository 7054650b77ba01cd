"""Figures of a table head: correlations of values, or how well classes are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import log_loss

from genobird.targets import Floats
from genobird.tasks.label_table import Labels
from genobird.tasks.metrics import Ranking, Statistic, Stretches

Doubles = NDArray[np.float64]


def measure(
    labels: Labels, predicted: Floats, stretches: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Measure predictions of N regions, with bootstrap intervals over stretches of the genome.

    Args:
        labels: what is known.
        predicted: values, or probabilities of classes, [N, O].
        stretches: of the genome, one per region, [N].
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `regions` and their `stretches`, counted, and of values by target `pearson`, `spearman` and
        how many are `known`; of classes `accuracy`, `auroc` (macro: the mean over the classes, each
        against the others), `log_loss` (nats), and how many regions each of the `classes` has.
    """
    names = labels.targets.names
    groups = np.array(stretches)
    counted = {"regions": len(labels), "stretches": len(set(stretches))}
    if labels.targets.is_classes:
        figures = _of_classes(labels.values[:, 0].astype(np.int64), predicted.astype(np.float64))
        within = Stretches(groups, resamples, seed)
        counts = np.bincount(labels.values[:, 0].astype(np.int64), minlength=len(names))
        return {
            **counted,
            **{name: within.interval(figure) for name, figure in figures.items()},
            "classes": dict(zip(names, counts.tolist(), strict=True)),
        }
    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        known = np.isfinite(labels.values[:, place])
        if not known.any():
            continue
        pair = labels.values[known, place], predicted[known, place].astype(np.float64)
        within = Stretches(groups[known], resamples, seed)
        found[name] = {
            "known": int(known.sum()),
            "pearson": within.interval(_correlation(pearsonr, *pair)),
            "spearman": within.interval(_correlation(spearmanr, *pair)),
        }
    return {**counted, "targets": found}


def _correlation(of: Callable[[Doubles, Doubles], Any], true: Doubles, found: Doubles) -> Statistic:
    """Return a correlation of values that are drawn as often as their weights say."""

    def statistic(weights: Doubles) -> float:
        rows = np.repeat(np.arange(len(true)), weights.astype(np.int64))
        drawn = true[rows], found[rows]
        if any(len(np.unique(one)) < 2 for one in drawn):
            return float("nan")
        return float(of(*drawn).statistic)

    return statistic


def _of_classes(true: NDArray[np.int64], probabilities: Doubles) -> dict[str, Statistic]:
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # of float32
    hits = probabilities.argmax(axis=1) == true
    kinds = range(probabilities.shape[1])
    rankings = [Ranking.of(true == kind, probabilities[:, kind]) for kind in kinds]
    known = sorted(set(true.tolist()))

    def auroc(weights: Doubles) -> float:
        return float(np.mean([rankings[kind].auroc(weights) for kind in known]))

    return {
        "accuracy": lambda weights: float(weights @ hits / weights.sum()),
        "auroc": auroc,
        "log_loss": lambda weights: float(
            log_loss(true, probabilities, sample_weight=weights, labels=list(kinds))
        ),
    }
