"""Pairs of rows of the DeepSEA bundle, and where on the genome each pair lies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genobird.errors import TableError
from pipelines import mat
from pipelines.exact_match import Hashes, WindowIndex, complement, window_hashes

CHUNK = 4_000
"""Pairs that are read at a time: 32 MB of sequence."""

Places = npt.NDArray[np.int64]


@dataclass
class Part:
    """The pairs of one file, as far as they are known; -1 is no place.

    Attributes:
        name: part of the split.
        file: its file.
        length: bases of a window.
        forward: hash of each pair's first row, [N].
        reverse: hash of the other strand, [N].
        agrees: whether both rows of a pair say the same, [N].
        known: whether at least half of its bases are known, [N]: a gap is like any other.
        contig: number of the contig of each pair, [N].
        start: first base of its window, [N].
        turned: whether the first row is the reverse strand, [N].
        counts: what was left out, and why.
    """

    name: str
    file: Path
    length: int
    forward: Hashes
    reverse: Hashes
    agrees: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    contig: Places = field(init=False)
    start: Places = field(init=False)
    turned: npt.NDArray[np.bool_] = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.contig, self.start = np.full((2, len(self)), -1, dtype=np.int64)
        self.turned = np.zeros(len(self), dtype=bool)

    def __len__(self) -> int:
        return len(self.forward)

    @classmethod
    def read(cls, name: str, file: Path) -> Part:
        """Hash all pairs of a file.

        Raises:
            TableError: its arrays are not as the bundle's.
        """
        with mat.open_array(file, array_of(file, "xdata")) as rows:
            if len(rows.shape) != 3 or len(rows) % 2 or not len(rows):
                raise TableError(
                    f"{rows.name} is {list(rows.shape)}; rows come in pairs of strands"
                )
            pairs = len(rows) // 2
            forward, reverse = np.empty((2, pairs), dtype=np.uint64)
            agrees, known = np.empty((2, pairs), dtype=bool)
            for at in range(0, pairs, CHUNK):
                part = slice(at, min(at + CHUNK, pairs))
                first = mat.letters(rows.read(part.start, part.stop), rows.name)
                second = mat.letters(rows.read(part.start + pairs, part.stop + pairs), rows.name)
                other = complement(first)
                agrees[part] = (other == second).all(axis=1)
                known[part] = (first == ord("N")).mean(axis=1) <= 0.5
                forward[part], reverse[part] = window_hashes(first), window_hashes(other)
        return cls(name, file, rows.shape[2], forward, reverse, agrees, known)


@dataclass(frozen=True)
class Hits:
    """Places of windows by their place in an index, sorted by it."""

    window: Places
    contig: Places
    start: Places

    def of(self, windows: Places) -> tuple[Places, Places]:
        """Return the first and the last (exclusive) hit of windows."""
        return (
            np.searchsorted(self.window, windows, side="left"),
            np.searchsorted(self.window, windows, side="right"),
        )


def place(part: Part, index: WindowIndex, hits: Hits) -> None:
    """Give pairs their places: the only one, or the one between their neighbours'."""
    ranges = []
    for hashes in (part.forward, part.reverse):
        ranges.append(hits.of(index.find(hashes)))
    palindromes = part.forward == part.reverse
    numbers = sum(end - first for first, end in ranges) // np.where(palindromes, 2, 1)
    numbers[~part.agrees | ~part.known] = 0
    for turned, (first, end) in enumerate(ranges):
        only = np.flatnonzero((numbers == 1) & (end > first) & (part.start < 0))
        part.contig[only] = hits.contig[first[only]]
        part.start[only] = hits.start[first[only]]
        part.turned[only] = bool(turned)
    placed = part.start >= 0
    several = np.flatnonzero(numbers > 1)
    _between_neighbours(part, hits, ranges, several)
    part.counts["pairs"] = len(part)
    part.counts["one place"] = int(placed.sum())
    part.counts["several places, one between the neighbours"] = int(
        (part.start[several] >= 0).sum()
    )
    part.counts["several places"] = int((part.start[several] < 0).sum())
    part.counts["not in the genome"] = int((part.agrees & part.known & (numbers == 0)).sum())
    part.counts["strands differ"] = int((~part.agrees).sum())
    part.counts["unknown bases"] = int((part.agrees & ~part.known).sum())


def _between_neighbours(
    part: Part, hits: Hits, ranges: list[tuple[Places, Places]], several: Places
) -> None:
    placed = np.flatnonzero(part.start >= 0)
    for pair in several:
        behind = np.searchsorted(placed, pair)
        if behind in (0, len(placed)):
            continue
        before, after = placed[behind - 1], placed[behind]
        contig = part.contig[before]
        if contig != part.contig[after]:
            continue
        found: list[tuple[int, bool]] = []
        for turned, (first, end) in enumerate(ranges):
            there = slice(first[pair], end[pair])
            starts = hits.start[there][hits.contig[there] == contig]
            between = starts[(part.start[before] < starts) & (starts < part.start[after])]
            found += [(int(start), bool(turned)) for start in between]
        if len(found) == 1:
            part.contig[pair] = contig
            part.start[pair], part.turned[pair] = found[0]


def array_of(file: Path, what: str) -> str:
    """Name the array of a file: `trainxdata` holds the sequence (`xdata`) of train.mat."""
    return file.name.removesuffix(".mat") + what
