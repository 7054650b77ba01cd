"""Where windows of one length occur in a genome, exactly: a hash index without an aligner.

The hash of a window is a polynomial of its letters modulo 2^64, so that prefix sums give that of
every window of a contig. The windows that are looked for are kept, the genome is read once; memory
depends on their number, not on the genome's size. A hit means equal hashes: 64 bits, to be compared
letter by letter where it matters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]

STRIDE = 1 << 20
"""Windows of a contig that are hashed at a time."""
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_ROWS = 2_000  # hashed at a time: 16 MB of windows of 1,000 bp

_LETTERS = np.random.Generator(np.random.Philox(919)).integers(
    1 << 64, size=256, dtype=np.uint64
)  # what each byte stands for
_COMPLEMENT = np.arange(256, dtype=np.uint8)
_COMPLEMENT[np.frombuffer(b"ACGT", np.uint8)] = np.frombuffer(b"TGCA", np.uint8)


def _powers(base: np.uint64, count: int) -> Hashes:
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def window_hashes(windows: Bytes) -> Hashes:
    """Hash windows of upper-case letters, [n, L] -> [n]."""
    powers = _powers(_BASE, windows.shape[1])
    hashes = np.empty(len(windows), dtype=np.uint64)
    for first in range(0, len(windows), _ROWS):
        rows = slice(first, first + _ROWS)
        hashes[rows] = (_LETTERS[windows[rows]] * powers).sum(axis=1, dtype=np.uint64)
    return hashes


def complement(windows: Bytes) -> Bytes:
    """Return the other strand of windows of upper-case letters, [n, L]; N stays N."""
    return _COMPLEMENT[windows][:, ::-1]


class WindowIndex:
    """Hashes of the windows that are looked for.

    Args:
        hashes: of the windows, in any order; they may repeat.
        length: bases of a window.

    Attributes:
        hashes: each once, sorted, [Q].
    """

    def __init__(self, hashes: Hashes, length: int) -> None:
        self.hashes = np.unique(hashes)
        self.length = length
        bits = int(np.clip(np.ceil(np.log2(len(self.hashes) + 1)) + 5, 10, 28))
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, dtype=bool)  # by leading bits: what passes is looked up
        self._seen[self.hashes >> self._shift] = True
        self._powers = _powers(_BASE, STRIDE + length - 1)
        self._inverses = _powers(_INVERSE, STRIDE)

    def find(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Return the places of hashes in `hashes`; -1 where they are not looked for."""
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, at, -1)

    def scan(self, contig: Bytes) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Find windows in a contig.

        Args:
            contig: upper-case letters, [L].

        Yields:
            First bases of windows that are looked for, ascending, and their places in `hashes`.
        """
        windows = len(contig) - self.length + 1
        for first in range(0, windows, STRIDE):
            count = min(STRIDE, windows - first)
            letters = contig[first : first + count + self.length - 1]
            sums = np.zeros(len(letters) + 1, dtype=np.uint64)
            np.cumsum(_LETTERS[letters] * self._powers[: len(letters)], out=sums[1:])
            found = (sums[self.length :] - sums[:count]) * self._inverses[:count]
            maybe = np.flatnonzero(self._seen[found >> self._shift])
            place = np.searchsorted(self.hashes, found[maybe])
            hit = self.hashes[np.minimum(place, len(self.hashes) - 1)] == found[maybe]
            if hit.any():
                yield maybe[hit] + first, place[hit]
