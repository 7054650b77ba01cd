"""Scores of two alleles from their logits: probabilities, and DeepSEA's definitions.

Zhou & Troyanskaya 2015 score each chromatin feature by the difference of its probabilities and by
the log fold change of its odds, and rank by the product of their sizes:

    probability   ref_p, alt_p: calibrated probability of each allele
    diff          alt_p - ref_p; DeepSEA's paper takes its size
    logfold       log2 of the odds of ALT over those of REF, delta / ln 2
    magnitude     |diff| x |logfold|
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genobird.scoring.settings import DIFF, LOGFOLD, MAGNITUDE, PROBABILITY

Doubles = NDArray[np.float64]

_COLUMNS = {
    PROBABILITY: ("ref_p", "alt_p"),
    DIFF: ("diff",),
    LOGFOLD: ("logfold",),
    MAGNITUDE: ("magnitude",),
}


def columns_of(scores: Sequence[str]) -> list[str]:
    """Return the columns of scores, by names of `settings.SCORES`."""
    return [column for score in dict.fromkeys(scores) for column in _COLUMNS[score]]


def odds_scores(
    ref: NDArray[np.float32], alt: NDArray[np.float32], weight: float, scores: Sequence[str]
) -> NDArray[np.float32]:
    """Return the columns of scores, [..., columns].

    Args:
        ref: raw logits of REF, any shape.
        alt: raw logits of ALT, the same shape.
        weight: of positives in training, which probabilities take back.
        scores: names of `settings.SCORES`.
    """
    logits = np.stack([ref, alt]).astype(np.float64)
    ref_p, alt_p = _probability(logits - np.log(weight))
    diff, logfold = alt_p - ref_p, (logits[1] - logits[0]) / np.log(2)
    found: dict[str, Doubles] = {
        "ref_p": ref_p,
        "alt_p": alt_p,
        "diff": diff,
        "logfold": logfold,
        "magnitude": np.abs(diff * logfold),
    }
    columns = [found[name] for name in columns_of(scores)]
    if not columns:
        return np.zeros((*ref.shape, 0), np.float32)
    return np.stack(columns, axis=-1).astype(np.float32)


def probabilities(logits: NDArray[np.float32], positive_weight: float = 1.0) -> NDArray[np.float32]:
    """Return probabilities; `positive_weight` of the training is taken back."""
    return _probability(logits.astype(np.float64) - np.log(positive_weight)).astype(np.float32)


def _probability(logits: Doubles) -> Doubles:
    probability: Doubles = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return probability
