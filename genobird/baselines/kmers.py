"""Counts of k-mers and of gapped k-mers, both strands as one.

A gapped k-mer is k letters within a word of l bases, the other l - k are free (Ghandi et al. 2014,
gkm-SVM: l = 10 or 11, k = 6 or 7). A support vector machine on these counts is theirs; with all
gapped k-mers as columns instead of their kernel, l is at most 8 or so. With l = k a gapped k-mer is
a k-mer.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import sparse

from genobird.baselines.network import UInt8Array

_N = 4
_ROWS = 64  # sequences at a time: bounds memory at about 50 MB


class GappedShape(BaseModel):
    """What is counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=1, le=12, description="Bases of a word, l.")
    letters: int = Field(ge=1, le=8, description="Letters of it that count, k.")

    @model_validator(mode="after")
    def _fits(self) -> GappedShape:
        if self.letters > self.length:
            raise ValueError(f"a word of {self.length} bases has no {self.letters} letters")
        return self


@lru_cache(maxsize=4)
def columns(shape: GappedShape) -> tuple[NDArray[np.int64], int]:
    """Number the gapped k-mers, one number for a gapped k-mer and its reverse complement.

    Returns:
        The column of each pattern and letters, int64 [patterns, 4^k], and the number of columns.
    """
    patterns = list(combinations(range(shape.length), shape.letters))
    size = 4**shape.letters
    mirrored = [tuple(shape.length - 1 - place for place in reversed(p)) for p in patterns]
    codes = np.arange(size)
    other, rest = np.zeros(size, dtype=np.int64), codes.copy()
    for _ in range(shape.letters):
        other, rest = other * 4 + 3 - rest % 4, rest // 4
    own = np.arange(len(patterns))[:, None] * size + codes
    partner = np.array([patterns.index(p) for p in mirrored])[:, None] * size + other
    kept, number = np.unique(np.minimum(own, partner), return_inverse=True)
    return number.reshape(own.shape), len(kept)


def count_gapped(codes: UInt8Array, shape: GappedShape) -> sparse.csr_array:
    """Count the gapped k-mers of sequences; words with N among the letters that count are none.

    Args:
        codes: 0 to 3, 4 for N, [S, L].
        shape: what is counted.

    Returns:
        float32 [S, columns].
    """
    number, width = columns(shape)
    words = codes.shape[1] - shape.length + 1
    blocks = []
    for first in range(0, len(codes), _ROWS):
        part = codes[first : first + _ROWS].astype(np.int64)
        rows, cols = [], []
        for pattern, column in zip(
            combinations(range(shape.length), shape.letters), number, strict=True
        ):
            letters = [part[:, place : place + words] for place in pattern]
            code = np.zeros_like(letters[0])
            for letter in letters:
                code = code * 4 + letter
            row, word = np.nonzero(np.all([letter != _N for letter in letters], axis=0))
            rows.append(row)
            cols.append(column[code[row, word]])
        places = tuple(np.concatenate(x).astype(np.int32) for x in (rows, cols))
        ones = np.ones(len(places[0]), dtype=np.float32)
        blocks.append(sparse.coo_array((ones, places), shape=(len(part), width)).tocsr())
    return sparse.csr_array(sparse.vstack(blocks))


def unit_rows(counts: sparse.csr_array) -> sparse.csr_array:
    """Divide each row by its Euclidean length, as the gapped k-mer kernel is normalised."""
    length = np.sqrt(counts.multiply(counts).sum(axis=1))
    inverse = np.repeat(1 / np.maximum(length, 1e-12), np.diff(counts.indptr)).astype(np.float32)
    # scikit-learn's support vector machine reads column numbers of 32 bits.
    indices, starts = counts.indices.astype(np.int32), counts.indptr.astype(np.int32)
    return sparse.csr_array((counts.data * inverse, indices, starts), shape=counts.shape)


def kmer_shares(
    codes: UInt8Array, k: int, place: int, widths_bp: tuple[int, ...]
) -> NDArray[np.float32]:
    """Describe sequences by the shares of their k-mers in windows around one place.

    Args:
        codes: 0 to 3, 4 for N, [S, L].
        k: letters of a k-mer.
        place: offset that the windows lie around.
        widths_bp: of the windows, clipped at the sequences' ends.

    Returns:
        float32 [S, windows x columns].
    """
    shape = GappedShape(length=k, letters=k)
    parts: list[NDArray[np.float32]] = []
    for width in widths_bp:
        counts = count_gapped(codes[:, max(0, place - width // 2) : place + width // 2], shape)
        dense = counts.toarray()
        parts.append(dense / np.maximum(dense.sum(1, keepdims=True), 1))
    return np.concatenate(parts, axis=1)
