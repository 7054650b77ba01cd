"""Bits per base: predictions of different sequence models for the same stretches of a genome.

A masked language model answers for tokens, an n-gram model for bases or for tokens of its own.
Both become bits on the genome, so that any of them can be asked about any other's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genobird.datasets import read_arrays, write_arrays
from genobird.errors import InputError, UsageError
from genobird.genome.interval import Interval
from genobird.shards import Shards

Ints = NDArray[np.int64]
_ARRAYS = ("contigs", "starts", "lengths", "bits")


class TokenSpans(NamedTuple):
    """Where tokens lie: bases `starts` to `ends` of a contig, 0-based half-open, int64 [T]."""

    contig: str
    starts: Ints
    ends: Ints


def token_spans(shards: Shards, document: int, lengths: NDArray[np.integer]) -> TokenSpans:
    """Find the bases of each token of a document; `lengths` are those of each piece, [V]."""
    rows = shards.rows(document)
    sizes = lengths[shards.document(document)].astype(np.int64)
    firsts = shards.sentences(document)  # of each sentence its first token, [S]
    before = np.cumsum(sizes) - sizes
    sentence_bp = np.diff(np.append(before[firsts], sizes.sum()))
    counts = np.diff(np.append(firsts, len(sizes)))
    inside = before - np.repeat(before[firsts], counts)
    reverse = np.repeat(rows["strand"] == b"-", counts)
    inside = np.where(reverse, np.repeat(sentence_bp, counts) - inside - sizes, inside)
    starts = np.repeat(rows["start"].astype(np.int64), counts) + inside
    return TokenSpans(shards.positions(document)[0], starts, starts + sizes)


def extent(shards: Shards, document: int, lengths: NDArray[np.integer]) -> Interval:
    """Return the stretch from the first base of a document to its last; arguments as above."""
    starts = shards.rows(document)["start"]
    last = int(starts.argmax())  # the first sentence where the reverse strand is read
    ids = np.split(shards.document(document), shards.sentences(document)[1:])[last]
    contig, _ = shards.positions(document)
    return Interval(contig, int(starts.min()), int(starts[last] + lengths[ids].sum(dtype=np.int64)))


@dataclass(frozen=True, eq=False)
class BaseBits:
    """Bits that a model spends on each base of R stretches of the genome.

    Attributes:
        contigs: of each stretch, str [R].
        starts: its first base, 0-based, int64 [R].
        lengths: its bases, int64 [R].
        bits: of all stretches end to end, float32 [sum of lengths].
    """

    contigs: NDArray[np.str_]
    starts: Ints
    lengths: Ints
    bits: NDArray[np.float32]

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        return np.concatenate([[0.0], np.cumsum(self.bits, dtype=np.float64)])

    def of(self, spans: TokenSpans) -> NDArray[np.float64]:
        """Return the bits of tokens, float64 [T].

        Raises:
            InputError: a token does not lie wholly in one stretch.
        """
        mine = np.flatnonzero(self.contigs == spans.contig)
        mine = mine[np.argsort(self.starts[mine], kind="stable")]
        found = np.searchsorted(self.starts[mine], spans.starts, side="right") - 1
        known = found >= 0
        if known.any():
            stretch = mine[found]
            known &= spans.ends <= self.starts[stretch] + self.lengths[stretch]
        if not known.all():
            first = int(np.flatnonzero(~known)[0])
            raise InputError(
                f"no bits for {spans.contig}:{spans.starts[first] + 1:,}-{spans.ends[first]:,};"
                " train the n-gram models again, with the held-out shards that are measured, which"
                " hold one pass"
            )
        offset = (np.cumsum(self.lengths) - self.lengths - self.starts)[stretch]
        difference: NDArray[np.float64] = (
            self._sums[spans.ends + offset] - self._sums[spans.starts + offset]
        )
        return difference

    def save(self, path: Path) -> None:
        """Write a `.npz` file."""
        write_arrays(path, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: Path) -> BaseBits:
        """Read a `.npz` file.

        Raises:
            UsageError: a missing file.
            InputError: a file that holds no bits.
        """
        if not path.is_file():
            raise UsageError(f"there is no file of bits {path}")
        found = read_arrays(path, _ARRAYS, "holds no bits of bases; train its model again")
        return cls(*(found[name] for name in _ARRAYS))
