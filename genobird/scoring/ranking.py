"""Which feature a variant changes most: a change counts relative to what is usual for its feature.

A logit moves by a whole unit for features that are hardly ever there, and by a tenth for those that
are everywhere. So changes are compared in units of the size that one background variant in a
hundred reaches, and a feature that is improbable with either allele does not compete. Both numbers
were chosen by the motif harness on validation sites (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genobird.heads import POSITIVE_WEIGHT
from genobird.scoring.background import Background

SHARE = 0.01
"""Share of the background variants that change a feature by one unit or more."""
FLOOR = 0.002
"""Least probability of a feature, with the allele for which it is larger."""


def relative_sizes(
    ref: NDArray[Any], alt: NDArray[Any], names: Sequence[str], background: Background | None
) -> NDArray[np.float32]:
    """Return how large changes are, relative to what is usual for their features, [n, F].

    Args:
        ref: raw logits of REF, [n, F]; NaN where there are none.
        alt: raw logits of ALT, [n, F].
        names: of the F features.
        background: of the model; without one, or for a feature that it lacks, the unit is one
            logit.

    Returns:
        0 for features below the floor, where any feature of the row is above it; NaN as given.
    """
    units = np.ones(len(names))
    if background is not None:
        usual = dict(zip(background.outputs, background.sizes_beyond([SHARE])[:, 0], strict=True))
        units = np.array([usual.get(name, 1.0) for name in names])
    least = np.log(POSITIVE_WEIGHT) + np.log(FLOOR / (1 - FLOOR))
    rare = np.maximum(ref, alt) < least
    rare &= ~rare.all(axis=1, keepdims=True)
    sizes: NDArray[np.float32] = (np.abs(alt - ref) / np.maximum(units, 1e-6)).astype(np.float32)
    return np.where(rare, np.float32(0), sizes)
