"""Figures of predictions with bootstrap intervals, each model's and its paired differences.

Neighbouring windows are not independent: every interval resamples whole stretches of the genome.
They are 250 kb wide by default; a part of a few megabases has too few megabases to resample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from genobird.composition import CHROMATIN_WINDOWS_BP as GC_WINDOWS_BP
from genobird.datasets import Predictions, stretches
from genobird.heads import POSITIVE_WEIGHT, probabilities
from genobird.peaks import BIN_BP
from genobird.tasks.bins import ChosenBins
from genobird.tasks.label_table import Labels
from genobird.tasks.masked import EVERY, MaskedTokens
from genobird.tasks.metrics import (
    GRID,
    USUAL,
    Bootstrap,
    Ranking,
    Resampling,
    Statistic,
    calibration,
    correlation,
    curves_of,
    mean_curves,
    median,
)

Doubles = NDArray[np.float64]
Logits = NDArray[np.float32]
TF, ALL = "TF", "all"
MODEL = "model"
"""The one that is measured, among the names of its baselines."""


def evaluate_chromatin(
    predictions: Predictions,
    features: pd.DataFrame,
    how: Resampling = USUAL,
    *,
    baselines: Mapping[str, Logits] | None = None,
) -> dict[str, Any]:
    """Measure chromatin profiles.

    Args:
        predictions: N bins, F features, logits of a loss that weights positives by 8.
        features: F rows `index name class`.
        how: intervals are made.
        baselines: other logits [N, F] for the same bins, by name.

    Returns:
        `all_bins` and `tf_bins` (those with the label of any TF; DeepSEA takes all that a peak of
        one touches), each with medians of AUROC and AUPRC over the features with positives by class
        and over `all`, and mean `curves` on `curve_grid`; `calibration`; `per_feature`, a table;
        `baselines` with the same figures of each, and the paired `difference` model minus baseline.
    """
    groups = predictions.groups(how.group_bp)
    kinds = features["class"].to_numpy(dtype=str)
    binds = predictions.labels[:, kinds == TF].any(axis=1)
    logits = {MODEL: predictions.logits, **(baselines or {})}
    table = features.reset_index(drop=True)[["index", "name", "class"]]
    results: dict[str, dict[str, Any]] = {
        name: {"calibration": calibration(predictions.labels, values, POSITIVE_WEIGHT)}
        for name, values in logits.items()
    }
    for what, rows in (("all_bins", np.arange(len(groups))), ("tf_bins", np.flatnonzero(binds))):
        if not len(rows):
            continue
        bootstrap = how.of(groups[rows])
        bins = _Bins(predictions.labels[rows], kinds, bootstrap)
        table[f"{what}_positives"] = bins.positives
        for name, values in logits.items():
            found, vectors = bins.measured(values[rows], is_reference=name == MODEL)
            results[name][what] = {"windows": len(rows), **found}
            suffix = "" if name == MODEL else f"_{name}"
            for figure, vector in vectors.items():
                table[f"{what}_{figure}{suffix}"] = vector(np.ones(len(rows)))
    return {
        "windows": len(groups),
        "features": len(features),
        "groups": len(set(groups)),
        "group_bp": how.group_bp,
        "curve_grid": GRID.round(4).tolist(),
        **results.pop(MODEL),
        "baselines": results,
        "per_feature": table,
    }


def evaluate_promoters(
    predictions: Predictions,
    how: Resampling = USUAL,
    *,
    baselines: Mapping[str, Logits] | None = None,
) -> dict[str, Any]:
    """Measure promoters.

    Args:
        predictions: N windows, logits [N, 1].
        how: intervals are made.
        baselines: other logits [N, 1] for the same windows, by name.

    Returns:
        `figures` (`auroc auprc f1 brier`), `calibration`, `curves` on `curve_grid`, and `baselines`
        with the same of each and the paired `difference` model minus baseline; F1 is at a
        probability of 0.5.
    """
    labels, groups = predictions.labels, predictions.groups(how.group_bp)
    bootstrap = how.of(groups)
    results: dict[str, dict[str, Any]] = {}
    reference: dict[str, Statistic] = {}
    for name, values in {MODEL: predictions.logits, **(baselines or {})}.items():
        mine = _promoter_figures(labels[:, 0], values[:, 0])
        reference = reference or mine
        results[name] = {
            "figures": {figure: bootstrap.interval(of) for figure, of in mine.items()},
            "calibration": calibration(labels, values),
            "curves": mean_curves(curves_of(labels, values)),
        }
        if name != MODEL:
            results[name]["difference"] = {
                figure: bootstrap.difference(reference[figure], of) for figure, of in mine.items()
            }
    return {
        "windows": len(labels),
        "positives": int(labels.sum()),
        "groups": len(set(groups)),
        "curve_grid": GRID.round(4).tolist(),
        **results.pop(MODEL),
        "baselines": results,
    }


def evaluate_masked(
    masked: MaskedTokens,
    how: Resampling = USUAL,
    *,
    baselines: Mapping[str, MaskedTokens] | None = None,
) -> dict[str, Any]:
    """Measure a masked language model: sums over all masked tokens, no mean of means.

    Args:
        masked: its answers; its `tracks` are baselines too.
        how: intervals are made; the stretches are those of the answers.
        baselines: answers of other models for the same tokens, by name.

    Returns:
        `bits_per_base`, `bits_per_base_no_n` (tokens without N), where repeats are known
        `bits_per_base_repeats` and `bits_per_base_unique`, and `accuracy`, with intervals;
        `frequencies`, bits per base of the masked pieces' own frequencies, the best that is
        possible without context; sizes; and `baselines` with the same figures of each and the
        paired `difference` model minus baseline. A track has no accuracy.
    """
    mine = _masked_figures(masked, masked.bits, masked.hits)
    others = {name: _masked_figures(masked, bits) for name, bits in masked.tracks.items()}
    for name, other in (baselines or {}).items():
        others[name] = _masked_figures(masked, other.bits, other.hits)

    bootstrap = how.of(masked.groups)
    compared = {
        name: {
            **{figure: bootstrap.interval(of) for figure, of in theirs.items()},
            "difference": {
                figure: bootstrap.difference(mine[figure], of) for figure, of in theirs.items()
            },
        }
        for name, theirs in others.items()
    }
    tokens = masked.tokens.sum(0)
    return {
        **{figure: bootstrap.interval(of) for figure, of in mine.items()},
        "frequencies": masked.frequency_bits_per_base(),
        **{_suffixed("tokens", p): int(n) for p, n in zip(masked.parts, tokens, strict=True)},
        "bases": int(masked.bases[:, 0].sum()),
        "sequences": len(masked.groups),
        "groups": len(set(masked.groups)),
        "baselines": compared,
    }


def _masked_figures(
    masked: MaskedTokens, bits: Doubles, hits: NDArray[np.int64] | None = None
) -> dict[str, Statistic]:
    """Bits per base of each part of the tokens and the accuracy, as functions of the weights."""

    def ratio(above: NDArray[Any], below: NDArray[Any]) -> Statistic:
        def statistic(weights: Doubles) -> float:
            total = float(weights @ below)
            return float(weights @ above) / total if total else float("nan")

        return statistic

    figures = {
        _suffixed("bits_per_base", part): ratio(bits[:, k], masked.bases[:, k])
        for k, part in enumerate(masked.parts)
    }
    if hits is not None:
        figures["accuracy"] = ratio(hits, masked.tokens[:, 0])
    return figures


def _suffixed(figure: str, part: str) -> str:
    return figure if part == EVERY else f"{figure}_{part}"


Vector = Callable[[Doubles], Doubles]


class _Bins:
    """Bins on which the chromatin profiles of every model are measured.

    Args:
        labels: 0 or 1, [N, F].
        kinds: class of each feature, [F].
        bootstrap: of the bins.
    """

    def __init__(
        self, labels: NDArray[np.uint8], kinds: NDArray[np.str_], bootstrap: Bootstrap
    ) -> None:
        self._labels, self._bootstrap = labels, bootstrap
        self.positives: NDArray[np.int64] = labels.sum(0)
        self._members = {
            kind: (self.positives > 0) & ((kinds == kind) | (kind == ALL))
            for kind in (*dict.fromkeys(kinds.tolist()), ALL)
        }
        self._reference: dict[str, Vector] = {}

    def measured(
        self, logits: Logits, *, is_reference: bool
    ) -> tuple[dict[str, Any], dict[str, Vector]]:
        """Return `classes` and `curves` of a model, and its figures by feature.

        Others have their differences from the reference too, which is measured first.
        """
        vectors = _vectors(self._labels, logits)
        if is_reference:
            self._reference = vectors
        heights = curves_of(self._labels, logits)
        found = {
            "classes": {
                kind: self._cell(members, vectors) for kind, members in self._members.items()
            },
            "curves": {
                kind: mean_curves({figure: of[members] for figure, of in heights.items()})
                for kind, members in self._members.items()
            },
        }
        return found, vectors

    def _cell(self, members: NDArray[np.bool_], vectors: Mapping[str, Vector]) -> dict[str, Any]:
        share = median(self.positives[members] / len(self._labels))
        cell: dict[str, Any] = {"features": int(members.sum()), "positive_share": _number(share)}
        for figure, vector in vectors.items():
            statistic = _median_of(vector, members)
            cell[figure] = self._bootstrap.interval(statistic)
            if vectors is not self._reference:
                reference = _median_of(self._reference[figure], members)
                cell[f"{figure}_difference"] = self._bootstrap.difference(reference, statistic)
        return cell


def _vectors(labels: NDArray[np.uint8], logits: Logits) -> dict[str, Vector]:
    """AUROC and AUPRC of each feature as functions of the weights; each is computed once."""
    ranked = [Ranking.of(*column) for column in zip(labels.T, logits.T, strict=True)]

    def vector(figure: Callable[[Ranking, Doubles], float]) -> Vector:
        known: dict[bytes, Doubles] = {}

        def compute(weights: Doubles) -> Doubles:
            key = hashlib.sha1(weights.tobytes(), usedforsecurity=False).digest()
            if key not in known:
                known[key] = np.array([figure(ranking, weights) for ranking in ranked])
            return known[key]

        return compute

    return {"auroc": vector(Ranking.auroc), "auprc": vector(Ranking.auprc)}


def _median_of(vector: Vector, members: NDArray[np.bool_]) -> Statistic:
    return lambda weights: median(vector(weights)[members])


def _promoter_figures(labels: NDArray[np.uint8], logits: Logits) -> dict[str, Statistic]:
    ranking, predicted = Ranking.of(labels, logits), probabilities(logits)
    return {
        "auroc": ranking.auroc,
        "auprc": ranking.auprc,
        "f1": lambda weights: float(
            f1_score(labels, predicted >= 0.5, sample_weight=weights, zero_division=0)
        ),
        "brier": lambda weights: float(brier_score_loss(labels, predicted, sample_weight=weights)),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def evaluate_targets(labels: Labels, predicted: Logits, how: Resampling = USUAL) -> dict[str, Any]:
    """Measure a table head on N regions: correlations of values, or figures of classes.

    Args:
        labels: what is known.
        predicted: values, or probabilities of classes, [N, O].
        how: intervals are made.

    Returns:
        `regions` and their `stretches`, counted, and of values by target `pearson`, `spearman` and
        how many are `known`; of classes `accuracy`, `auroc` (macro: the mean over the classes, each
        against the others), `log_loss` (nats), and how many regions each of the `classes` has.
    """
    names = labels.targets.names
    regions = labels.regions
    groups = stretches([r.contig for r in regions], [r.midpoint for r in regions], how.group_bp)
    counted = {"regions": len(labels), "stretches": len(set(groups))}
    if labels.targets.is_classes:
        figures = _class_figures(labels.values[:, 0].astype(np.int64), predicted.astype(np.float64))
        bootstrap = how.of(groups)
        counts = np.bincount(labels.values[:, 0].astype(np.int64), minlength=len(names))
        return {
            **counted,
            **{name: bootstrap.interval(figure) for name, figure in figures.items()},
            "classes": dict(zip(names, counts.tolist(), strict=True)),
        }
    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        known = np.isfinite(labels.values[:, place])
        if not known.any():
            continue
        pair = labels.values[known, place], predicted[known, place].astype(np.float64)
        bootstrap = how.of(groups[known])
        found[name] = {
            "known": int(known.sum()),
            "pearson": bootstrap.interval(correlation(pearsonr, *pair)),
            "spearman": bootstrap.interval(correlation(spearmanr, *pair)),
        }
    return {**counted, "targets": found}


def _class_figures(true: NDArray[np.int64], probabilities: Doubles) -> dict[str, Statistic]:
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


def evaluate_tracks(
    names: Sequence[str],
    test: ChosenBins,
    logits: Logits,
    train: ChosenBins,
    gc_test: Doubles,
    gc_train: Doubles,
    *,
    how: Resampling,
) -> list[dict[str, Any]]:
    """Measure a head for one's own tracks on held-out bins, and GC content beside it.

    Figures are weighted by how many bins of the held-out part each measured bin stands for: AUPRC
    and the mean probability are those of all its bins, although background was thinned.

    GC content is given the width and the sign that serve best on the training bins.

    Args:
        names: of F tracks.
        test: N bins that were held out.
        logits: of the head, [N, F].
        train: M bins that the head was trained on.
        gc_test: `gc_contents` of `test`, [N, W].
        gc_train: of `train`, [M, W].
        how: intervals are made.
    """
    groups = stretches(test.contigs, test.bins * BIN_BP, how.group_bp)
    bootstrap = how.of(groups, digits=5)
    stands_for, predicted = test.weights(), probabilities(logits, POSITIVE_WEIGHT)
    found = []
    for f, name in enumerate(names):
        truth = test.labels[:, f]
        width, sign = _best_gc(train.labels[:, f], gc_train)
        rankings = {
            "model": Ranking.of(truth, logits[:, f]),
            "gc": Ranking.of(truth, sign * gc_test[:, width]),
        }
        row: dict[str, Any] = {
            "name": name,
            "positives": int(truth.sum()),
            "stretches": len(set(groups[truth])),
            "rate": float(stands_for @ truth / stands_for.sum()),
            "mean_probability": float(stands_for @ predicted[:, f] / stands_for.sum()),
            "gc": {"window_bp": GC_WINDOWS_BP[width], "sign": sign},
        }
        for figure, of in (("auroc", Ranking.auroc), ("auprc", Ranking.auprc)):
            model, gc = (_weighted(of, rankings[key], stands_for) for key in ("model", "gc"))
            row[figure] = bootstrap.interval(model)
            row["gc"][figure] = bootstrap.interval(gc)
            row["gc"][f"{figure}_difference"] = bootstrap.difference(model, gc)
        found.append(row)
    return found


def _weighted(figure: Any, ranking: Ranking, stands_for: Doubles) -> Statistic:
    return lambda drawn: float(figure(ranking, drawn * stands_for))


def _best_gc(truth: NDArray[np.bool_], shares: Doubles) -> tuple[int, int]:
    """Return the column of `shares` that ranks best, and the sign that it needs."""
    areas = np.array([Ranking.of(truth, column).auroc() for column in shares.T])
    column = int(np.abs(areas - 0.5).argmax())
    return column, 1 if areas[column] >= 0.5 else -1
