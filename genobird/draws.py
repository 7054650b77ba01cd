"""Random draws by key: what is drawn depends on the numbers that say what for, on nothing else."""

from __future__ import annotations

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """Return a generator that depends on the key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
