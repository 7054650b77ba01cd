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
from scipy.special import expit

from genobird.datasets import Predictions
from genobird.heads import POSITIVE_WEIGHT
from genobird.tasks.masked import EVERY, MaskedTokens
from genobird.tasks.metrics import (
    GRID,
    Ranking,
    Statistic,
    Stretches,
    brier,
    calibration,
    curves_of,
    f1,
    mean_curves,
    median,
    rankings,
)

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
TF, ALL = "TF", "all"
MODEL = "model"
"""The one that is measured, among the names of its baselines."""


def evaluate_chromatin(
    predictions: Predictions,
    features: pd.DataFrame,
    group_bp: int = 250_000,
    resamples: int = 200,
    seed: int = 0,
    *,
    baselines: Mapping[str, Logits] | None = None,
) -> dict[str, Any]:
    """Measure chromatin profiles.

    Args:
        predictions: N bins, F features, logits of a loss that weights positives by 8.
        features: F rows `index name class`.
        group_bp: width of the stretches that the bootstrap resamples.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        baselines: other logits [N, F] for the same bins, by name.

    Returns:
        `all_bins` and `tf_bins` (those with the label of any TF; DeepSEA takes all that a peak of
        one touches), each with medians of AUROC and AUPRC over the features with positives by class
        and over `all`, and mean `curves` on `curve_grid`; `calibration`; `per_feature`, a table;
        `baselines` with the same figures of each, and the paired `difference` model minus baseline.
    """
    groups = predictions.groups(group_bp)
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
        stretches = Stretches(groups[rows], resamples, seed)
        bins = _Bins(predictions.labels[rows], kinds, stretches)
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
        "group_bp": group_bp,
        "curve_grid": GRID.round(4).tolist(),
        **results.pop(MODEL),
        "baselines": results,
        "per_feature": table,
    }


def evaluate_promoters(
    labels: NDArray[np.uint8],
    logits: Logits,
    groups: NDArray[np.str_],
    *,
    baselines: Mapping[str, Logits] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure promoters.

    Args:
        labels: 0 or 1, [N].
        logits: [N].
        groups: stretch of the genome of each window, [N].
        baselines: other logits [N] or [N, 1] for the same windows, by name.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `figures` (`auroc auprc f1 brier`), `calibration`, `curves` on `curve_grid`, and `baselines`
        with the same of each and the paired `difference` model minus baseline; F1 is at a
        probability of 0.5.
    """
    stretches = Stretches(groups, resamples, seed)
    results: dict[str, dict[str, Any]] = {}
    reference: dict[str, Statistic] = {}
    for name, values in {MODEL: logits, **(baselines or {})}.items():
        mine = _promoter_figures(labels, values.reshape(len(labels)))
        reference = reference or mine
        results[name] = {
            "figures": {figure: stretches.interval(of) for figure, of in mine.items()},
            "calibration": calibration(labels[:, None], values.reshape(-1, 1)),
            "curves": mean_curves(curves_of(labels[:, None], values.reshape(-1, 1))),
        }
        if name != MODEL:
            results[name]["difference"] = {
                figure: stretches.difference(reference[figure], of) for figure, of in mine.items()
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
    resamples: int = 200,
    seed: int = 0,
    *,
    baselines: Mapping[str, MaskedTokens] | None = None,
) -> dict[str, Any]:
    """Measure a masked language model: sums over all masked tokens, no mean of means.

    Args:
        masked: its answers; its `tracks` are baselines too.
        resamples: of the bootstrap.
        seed: of the bootstrap.
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

    stretches = Stretches(masked.groups, resamples, seed)
    compared = {
        name: {
            **{figure: stretches.interval(of) for figure, of in theirs.items()},
            "difference": {
                figure: stretches.difference(mine[figure], of) for figure, of in theirs.items()
            },
        }
        for name, theirs in others.items()
    }
    tokens = masked.tokens.sum(0)
    return {
        **{figure: stretches.interval(of) for figure, of in mine.items()},
        "frequencies": masked.frequency_bits_per_base(),
        **{_suffixed("tokens", p): int(n) for p, n in zip(masked.parts, tokens, strict=True)},
        "bases": int(masked.bases[:, 0].sum()),
        "sequences": len(masked.groups),
        "groups": len(set(masked.groups)),
        "baselines": compared,
    }


def _masked_figures(
    masked: MaskedTokens, bits: Floats, hits: NDArray[np.int64] | None = None
) -> dict[str, Statistic]:
    """Bits per base of each part of the tokens and the accuracy, as functions of the weights."""

    def ratio(above: NDArray[Any], below: NDArray[Any]) -> Statistic:
        def statistic(weights: Floats) -> float:
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


Vector = Callable[[Floats], Floats]


class _Bins:
    """Bins on which the chromatin profiles of every model are measured.

    Args:
        labels: 0 or 1, [N, F].
        kinds: class of each feature, [F].
        stretches: where the bins lie.
    """

    def __init__(
        self, labels: NDArray[np.uint8], kinds: NDArray[np.str_], stretches: Stretches
    ) -> None:
        self._labels, self._stretches = labels, stretches
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
        vectors = _vectors(rankings(self._labels, logits))
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
            cell[figure] = self._stretches.interval(statistic)
            if vectors is not self._reference:
                reference = _median_of(self._reference[figure], members)
                cell[f"{figure}_difference"] = self._stretches.difference(reference, statistic)
        return cell


def _vectors(ranked: Sequence[Ranking]) -> dict[str, Vector]:
    """AUROC and AUPRC of each feature as functions of the weights; each is computed once."""

    def vector(figure: Callable[[Ranking, Floats], float]) -> Vector:
        known: dict[bytes, Floats] = {}

        def compute(weights: Floats) -> Floats:
            key = hashlib.sha1(weights.tobytes(), usedforsecurity=False).digest()
            if key not in known:
                known[key] = np.array([figure(ranking, weights) for ranking in ranked])
            return known[key]

        return compute

    return {"auroc": vector(Ranking.auroc), "auprc": vector(Ranking.auprc)}


def _median_of(vector: Vector, members: NDArray[np.bool_]) -> Statistic:
    return lambda weights: median(vector(weights)[members])


def _promoter_figures(labels: NDArray[np.uint8], logits: Logits) -> dict[str, Statistic]:
    ranking, probabilities = Ranking.of(labels, logits), expit(logits.astype(np.float64))
    return {
        "auroc": ranking.auroc,
        "auprc": ranking.auprc,
        "f1": lambda weights: f1(labels, probabilities, weights),
        "brier": lambda weights: brier(labels, probabilities, weights),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
