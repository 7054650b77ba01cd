"""Negatives made of a promoter itself: 12 of its 20 pieces replaced or permuted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genobird.errors import UsageError

PIECES = 20
REPLACED = 12


def substitute(sequence: str, rng: np.random.Generator) -> str:
    """Replace 12 of 20 equal pieces by uniform random bases."""
    pieces = _pieces(sequence)
    chosen = rng.choice(PIECES, size=REPLACED, replace=False)
    pieces[chosen] = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), (REPLACED, pieces.shape[1]))
    return pieces.tobytes().decode("ascii")


def shuffle(sequence: str, rng: np.random.Generator) -> str:
    """Permute 12 of 20 equal pieces among their places."""
    pieces = _pieces(sequence)
    chosen = rng.choice(PIECES, size=REPLACED, replace=False)
    pieces[chosen] = pieces[rng.permutation(chosen)]
    return pieces.tobytes().decode("ascii")


def _pieces(sequence: str) -> npt.NDArray[np.uint8]:
    """[20, len / 20], a copy."""
    if len(sequence) % PIECES:
        raise UsageError(f"a window of {len(sequence)} bp cannot be cut into {PIECES} equal pieces")
    return np.frombuffer(sequence.encode("ascii"), dtype=np.uint8).reshape(PIECES, -1).copy()
