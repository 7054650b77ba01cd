"""Logistic regressions, many at a time.

Enter a table of inputs and 0/1 labels; leaves a `Linear` whose logits predict every label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from genobird.errors import InputError

Floats = NDArray[np.float64]

_CHUNK = 8_192  # rows at a time: bounds memory at about 16 MB for 242 features


@dataclass(frozen=True, eq=False)
class Linear:
    """F linear models that share K inputs.

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


def fit_logistic(
    inputs: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    positive_weight: float = 1.0,
    ridge: float = 1.0,
    iterations: int = 50,
    tolerance: float = 1e-6,
) -> Linear:
    """Fit one logistic regression per column of labels by Newton's method.

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
    return Linear(mean, scale, best)


def fit_wide_logistic(
    inputs: NDArray[np.float32], labels: NDArray[np.uint8], *, ridge: float = 1.0
) -> Linear:
    """Fit one logistic regression with scikit-learn: for more inputs than Newton's method likes.

    Args:
        inputs: [N, K].
        labels: 0 or 1, both present, [N].
        ridge: strength of the penalty on standardised inputs.

    Raises:
        InputError: there is one class only.
    """
    if len(np.unique(labels)) < 2:
        raise InputError(f"all {len(labels)} labels are equal; a regression needs both classes")
    mean = inputs.mean(0, dtype=np.float64)
    scale = inputs.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0
    fitted = LogisticRegression(C=1 / ridge, max_iter=1_000).fit((inputs - mean) / scale, labels)
    return Linear(mean, scale, np.hstack([fitted.coef_, fitted.intercept_[:, None]]))


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
