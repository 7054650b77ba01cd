"""Logistic regression on base composition: what GC content and CpG islands alone predict.

The inputs of a place are the GC fraction and the ratio of observed to expected CpG in windows of
several widths around it; nothing of it knows a motif.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genobird.datasets import ChromatinDataset
from genobird.errors import InputError

Floats = NDArray[np.float64]

CHROMATIN_WINDOWS_BP = (200, 500, 1_000, 2_000)
PROMOTER_WINDOWS_BP = (200, 500, 1_000, 2_000, 8_000)
_CHUNK = 8_192  # rows at a time: bounds memory at about 16 MB a 242 features
_PIECE_BINS = 5_000


def composition(
    sequence: NDArray[np.uint8], places: NDArray[np.int64], windows_bp: Sequence[int]
) -> NDArray[np.float32]:
    """Describe the bases around places.

    Args:
        sequence: upper-case ASCII, [L].
        places: positions in the sequence, 0-based, [P].
        windows_bp: W widths; of 200, the window is [place - 100, place + 100), clipped.

    Returns:
        float32 [P, 2 W]: for each width the GC fraction of the bases that are not N, then CpG
        observed / expected (CpG x bases / (C x G)); 0 where it is not defined.
    """
    c, g = sequence == ord("C"), sequence == ord("G")
    cpg = np.zeros_like(c)
    cpg[:-1] = c[:-1] & g[1:]  # at its C
    sums = np.zeros((4, len(sequence) + 1), dtype=np.int64)
    for row, what in enumerate((sequence != ord("N"), c, g, cpg)):
        np.cumsum(what, out=sums[row, 1:])
    columns = []
    for width in windows_bp:
        first = np.clip(places - width // 2, 0, len(sequence))
        end = np.clip(places + width // 2, first, len(sequence))
        bases, n_c, n_g = sums[:3, end] - sums[:3, first]
        n_cpg = sums[3, np.maximum(end - 1, first)] - sums[3, first]  # both bases inside
        columns.append((n_c + n_g) / np.maximum(bases, 1))
        columns.append(n_cpg * bases / np.maximum(n_c * n_g, 1))
    return np.stack(columns, axis=1).astype(np.float32)


def bin_composition(
    dataset: ChromatinDataset, contig: str, bins: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return `composition` around the centres of bins of a contig, ascending, [n, 8]."""
    width, flank = dataset.bin_bp, max(CHROMATIN_WINDOWS_BP) // 2
    rows = [np.empty((0, 2 * len(CHROMATIN_WINDOWS_BP)), dtype=np.float32)]
    for piece in np.split(bins, np.flatnonzero(np.diff(bins // _PIECE_BINS)) + 1):
        if len(piece):
            first = max(0, int(piece[0]) * width - flank)
            text = dataset.sequence(contig, first, int(piece[-1] + 1) * width + flank)
            codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
            places = piece * width + width // 2 - first
            rows.append(composition(codes, places, CHROMATIN_WINDOWS_BP))
    return np.concatenate(rows)


def promoter_composition(sequences: Sequence[str], place: int) -> NDArray[np.float32]:
    """Return `composition` around one place of each sequence, such as its start, [N, 10]."""
    at = np.array([place])
    return np.concatenate(
        [
            composition(np.frombuffer(s.encode("ascii"), np.uint8), at, PROMOTER_WINDOWS_BP)
            for s in sequences
        ]
    )


@dataclass(frozen=True, eq=False)
class Composition:
    """Logistic regressions that share their inputs.

    Attributes:
        mean: of the inputs, [K].
        scale: their standard deviations, [K].
        weights: of the standardised inputs, then the intercept, [F, K + 1].
    """

    mean: Floats
    scale: Floats
    weights: Floats

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of inputs [N, K], [N, F]."""
        return (_design(inputs, self.mean, self.scale) @ self.weights.T).astype(np.float32)


def fit_composition(
    inputs: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    positive_weight: float = 1.0,
    ridge: float = 1.0,
    iterations: int = 50,
    tolerance: float = 1e-6,
) -> Composition:
    """Fit one logistic regression a column of labels by Newton's method.

    The loss is that of scikit-learn's `LogisticRegression(C=1 / ridge)` on standardised inputs: the
    weighted sum of cross-entropies plus `ridge / 2` times the squared weights, the intercept free.
    All columns share the products of the inputs, so that hundreds of them take seconds.

    Args:
        inputs: [N, K].
        labels: 0 or 1, [N, F].
        positive_weight: weight of a positive label.
        ridge: strength of the penalty.
        iterations: most steps of a column.
        tolerance: a column is done when its loss falls by less than this share.

    Raises:
        InputError: no rows, or shapes that do not agree.
    """
    if not len(inputs) or inputs.ndim != 2 or labels.ndim != 2 or len(inputs) != len(labels):
        raise InputError(
            f"inputs are {list(inputs.shape)} and labels {list(labels.shape)}; "
            "they are [N, K] and [N, F] with at least one row"
        )
    mean = inputs.mean(0, dtype=np.float64)
    scale = inputs.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0
    penalty = np.full(inputs.shape[1] + 1, ridge)
    penalty[-1] = 0.0
    share = (labels.sum(0) + 0.5) / (len(labels) + 1)
    best = np.zeros((labels.shape[1], len(penalty)))
    best[:, -1] = np.log(positive_weight * share / (1 - share))
    best_loss = np.full(labels.shape[1], np.inf)
    trial, active = best.copy(), np.arange(labels.shape[1])
    step = np.zeros_like(best)
    for _ in range(iterations):
        loss, gradient, curvature = _derivatives(
            inputs, labels[:, active], trial[active], mean, scale, positive_weight
        )
        loss += 0.5 * (trial[active] ** 2) @ penalty
        gradient += trial[active] * penalty
        curvature += np.diag(penalty)
        better = loss < best_loss[active]
        small = best_loss[active] - loss < tolerance * np.abs(loss)
        accepted = active[better]
        best[accepted], best_loss[accepted] = trial[accepted], loss[better]
        step[accepted] = np.linalg.solve(curvature[better], gradient[better][..., None])[..., 0]
        step[active[~better]] /= 2  # the step led uphill: halve it
        trial = best - step
        active = active[~(better & small) & (np.abs(step[active]).max(1) > 1e-9)]
        if not len(active):
            break
    return Composition(mean, scale, best)


def _design(inputs: NDArray[np.float32], mean: Floats, scale: Floats) -> Floats:
    """Standardise and append the 1 of the intercept, [N, K + 1]."""
    return np.hstack([(inputs - mean) / scale, np.ones((len(inputs), 1))])


def _derivatives(
    inputs: NDArray[np.float32],
    labels: NDArray[np.uint8],
    weights: Floats,
    mean: Floats,
    scale: Floats,
    positive_weight: float,
) -> tuple[Floats, Floats, Floats]:
    """Return loss [F], gradient [F, K + 1] and curvature [F, K + 1, K + 1] of the cross-entropy."""
    features, width = weights.shape
    loss, gradient = np.zeros(features), np.zeros((features, width))
    curvature = np.zeros((features, width * width))
    for first in range(0, len(inputs), _CHUNK):
        x = _design(inputs[first : first + _CHUNK], mean, scale)  # [n, K + 1]
        y = labels[first : first + _CHUNK].astype(bool)
        z = x @ weights.T  # [n, F]
        tail = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1.0, tail) / (1 + tail)
        w = np.where(y, positive_weight, 1.0)
        loss += (w * (np.log1p(tail) + np.maximum(np.where(y, -z, z), 0))).sum(0)
        gradient += (w * (p - y)).T @ x
        products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        curvature += (w * p * (1 - p)).T @ products
    return loss, gradient, curvature.reshape(features, width, width)
