"""Effects without a model, for tests of what lies around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genobird.genome.variant import Variant
from genobird.scoring.effects import Effects


def effects_of_position(_: object, asked: Sequence[Variant], *__: object) -> Effects:
    """Give each variant its 1-based position on the genome as delta."""
    values = np.zeros((len(asked), 1, 2), np.float32)
    values[:, 0, 1] = [variant.position + 1 for variant in asked]
    return Effects(names=["llr"], weights=[None], values=values, single={})
