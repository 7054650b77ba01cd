"""Which of several scores serves best, chosen where it is not measured.

Variants are divided into folds by stretch of the genome. The score of a fold is the candidate that
does best on all other folds, so the figure of the scores so put together has not seen its own
choice. Candidates are brought to one scale without looking at any measurement, and a value that is
missing (NaN) is 0, no effect, wherever it is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from genobird.errors import InputError
from genobird.tasks.metrics import Bootstrap, Ranking, Statistic, correlation

Floats = NDArray[np.float64]
Scores = Mapping[str, Floats]
"""Candidate -> one value per variant, [N]."""
Figure = Callable[[Floats, Floats], Statistic]
"""Scores [N] and measurements [N] to a number, by how often each variant counts."""

FOLDS = 5
FEWEST_GROUPS = 2 * FOLDS
"""With fewer, folds are too unequal to choose by."""


def spearman(scores: Floats, measured: Floats) -> Statistic:
    """Rank correlation of scores and measurements; NaN where one of them is constant."""
    return correlation(spearmanr, scores, measured)


def auroc(scores: Floats, measured: Floats) -> Statistic:
    """AUROC of scores for measurements that are 0 or 1; NaN where one class is missing."""
    return Ranking.of(measured, scores).auroc


def folds(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Return the fold of each variant, [N]: whole groups, about as many groups in each fold.

    Variants are not counted: a large group makes a large fold.
    """
    names, members = np.unique(groups, return_inverse=True)
    rng = np.random.Generator(np.random.Philox(seed))
    fold_of = rng.permutation(len(names)) % FOLDS
    return np.asarray(fold_of[members], dtype=np.int64)


def scaled(candidates: Scores) -> dict[str, Floats]:
    """Divide each candidate by its root mean square; what is missing (NaN) becomes 0."""
    return {name: _scaled(values) for name, values in candidates.items()}


def put_together(
    candidates: Scores, measured: Floats, figure: Figure, fold: NDArray[np.int64]
) -> tuple[Floats, list[str]]:
    """Score each fold with the candidate that is best on the others.

    Args:
        candidates: scores [N] by name, on one scale and without NaN (`scaled`).
        measured: what they shall predict, [N].
        figure: larger is better.
        fold: of each variant, [N].

    Returns:
        The scores, [N], and the candidate that each fold was given.

    Raises:
        InputError: a fold that leaves nothing to choose by.
    """
    joined = np.zeros(len(measured))
    chosen = []
    for number in range(FOLDS):
        mine = fold == number
        rest = np.flatnonzero(~mine)
        ones = np.ones(len(rest))
        found = {n: figure(v[rest], measured[rest])(ones) for n, v in candidates.items()}
        found = {name: value for name, value in found.items() if not np.isnan(value)}
        if not found:
            raise InputError(f"{len(rest)} variants in {FOLDS - 1} folds leave no score defined")
        best = max(found, key=lambda name: found[name])
        joined[mine] = candidates[best][mine]
        chosen.append(best)
    return joined, chosen


def compare(
    models: Mapping[str, Scores],
    measured: Floats,
    figure: Figure,
    groups: NDArray[np.str_],
    *,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Measure the candidates of each model, and the nested choice among them.

    Args:
        models: candidates by model, a missing value NaN, which counts as 0; the differences are
            those of the first one.
        measured: what they shall predict, [N].
        figure: larger is better.
        groups: stretch of the genome of each variant, [N]; folds and resamples hold whole ones.
        seed: of folds and resamples.
        resamples: of the bootstrap.

    Returns:
        By model `candidates`, each a figure with its interval (chosen by nothing, but the best of
        them is too good to be true), `nested`, that of the scores put together, `chosen`, which
        candidate how many folds got, and `difference`, first model minus this one, nested.
    """
    fold, bootstrap = folds(groups, seed), Bootstrap(groups, resamples, seed, digits=5)
    report: dict[str, Any] = {}
    nested: dict[str, Statistic] = {}
    for model, given in models.items():
        candidates = scaled(given)
        joined, chosen = put_together(candidates, measured, figure, fold)
        nested[model] = figure(joined, measured)
        report[model] = {
            "candidates": {
                name: bootstrap.interval(figure(values, measured))
                for name, values in candidates.items()
            },
            "nested": bootstrap.interval(nested[model]),
            "chosen": dict(Counter(chosen).most_common()),
        }
    first, *others = models
    for model in others:
        report[model]["difference"] = bootstrap.difference(nested[first], nested[model])
    return report


def _scaled(values: Floats) -> Floats:
    known = np.nan_to_num(values)
    size = float(np.sqrt(np.mean(known**2)))
    return known / size if size > 0 else known
