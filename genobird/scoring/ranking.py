"""Which feature a variant changes most: a change counts relative to what is usual for its feature.

A logit moves by a whole unit for features that are hardly ever there, and by a tenth for those that
are everywhere. So changes are compared in units of the size that one background variant in a
hundred reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genobird.scoring.background import Background

SHARE = 0.01
"""Share of the background variants that change a feature by one unit or more."""


def relative_sizes(
    deltas: NDArray[Any], names: Sequence[str], background: Background | None
) -> NDArray[np.float32]:
    """Return how large changes are, relative to what is usual for their features, [n, F].

    Args:
        deltas: ALT - REF of logits, [n, F]; NaN where there is none.
        names: of the F features.
        background: of the model; without one, or for a feature that it lacks, the unit is one
            logit.
    """
    units = np.ones(len(names))
    if background is not None:
        usual = dict(zip(background.outputs, background.sizes_beyond([SHARE])[:, 0], strict=True))
        units = np.array([usual.get(name, 1.0) for name in names])
    sizes: NDArray[np.float32] = (np.abs(deltas) / np.maximum(units, 1e-6)).astype(np.float32)
    return sizes
