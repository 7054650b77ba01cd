"""How right probabilities are: what was predicted, beside what came true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

BINS = 10


def calibration(
    labels: NDArray[np.uint8], logits: NDArray[np.float32], positive_weight: float = 1.0
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
