"""Places of the genome that are like promoters in GC content but hold no known TSS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from genobird.errors import TableError
from genobird.genome.interval import Interval, read_bed
from pipelines import steps

WINDOW = 8000
MAX_N = 400
GC_TOLERANCE = 0.01
MARGIN = 2000
"""No TSS in a window nor this near to it: the base in the place of the TSS is 5 kb from any."""
MIN_STEP = 4000
"""Two negatives start at least this far apart: they share at most half of their bases."""
BATCH = 4096
BATCHES = 32


@dataclass(frozen=True)
class Contig:
    """What a window of a contig holds, by prefix sums: entry i counts the bases [0, i)."""

    gc: npt.NDArray[np.int32]
    known: npt.NDArray[np.int32]
    tss: npt.NDArray[np.int32]
    """Bases within 2 kb of a TSS."""

    @classmethod
    def of(cls, sequence: str, tss: Sequence[tuple[int, int]]) -> Contig:
        """Count G or C, known bases, and bases near TSS intervals (0-based half-open)."""
        bases = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
        near = np.zeros(len(bases), dtype=bool)
        for start, end in tss:
            near[max(start - MARGIN, 0) : end + MARGIN] = True
        gc = (bases == ord("G")) | (bases == ord("C"))
        return cls(_prefix(gc), _prefix(bases != ord("N")), _prefix(near))

    def eligible(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which windows have at most 5 % N and no TSS in or near them."""
        ends = starts + WINDOW
        known = self.known[ends] - self.known[starts]
        free = self.tss[ends] == self.tss[starts]
        return np.asarray((known >= WINDOW - MAX_N) & free, dtype=np.bool_)

    def gc_fraction(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Share of G and C among the known bases of each window."""
        ends = starts + WINDOW
        known = np.maximum(self.known[ends] - self.known[starts], 1)
        return np.asarray((self.gc[ends] - self.gc[starts]) / known, dtype=np.float64)


def _prefix(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    counts = np.zeros(len(flags) + 1, np.int32)
    np.cumsum(flags, out=counts[1:])
    return counts


def gc_fraction(sequence: str) -> float:
    """Share of G and C among the bases that are known; 0 where none is."""
    known = len(sequence) - sequence.count("N")
    return (sequence.count("G") + sequence.count("C")) / max(known, 1)


def draw(
    contigs: Mapping[str, Contig],
    intervals: Sequence[Interval],
    taken: Mapping[str, Sequence[int]],
    gc: float,
    rng: np.random.Generator,
) -> tuple[str, int, bool] | None:
    """Draw a window from `intervals`, uniformly among those within one per cent of `gc`.

    Where many draws meet none, the nearest in GC among them is taken.

    Args:
        contigs: prefix sums by contig.
        intervals: where the whole window must lie.
        taken: by contig, starts of the windows drawn so far.
        gc: GC content to match.
        rng: source of the draws.

    Returns:
        Contig, start, and whether the GC content is matched; None where no draw was eligible.
    """
    usable = [(i.contig, i.start, min(i.end, len(contigs[i.contig].gc) - 1)) for i in intervals]
    usable = [(contig, start, end) for contig, start, end in usable if end - start >= WINDOW]
    if not usable:
        return None
    room = np.array([end - start - WINDOW + 1 for _, start, end in usable], dtype=np.int64)
    best: tuple[float, str, int] | None = None
    for _ in range(BATCHES):
        offsets = rng.integers(int(room.sum()), size=BATCH)
        which = np.searchsorted(np.cumsum(room), offsets, side="right")
        starts = offsets - (np.cumsum(room) - room)[which] + np.array([u[1] for u in usable])[which]
        distance = np.full(BATCH, np.inf)
        for number, (contig, _, _) in enumerate(usable):
            mine = np.flatnonzero(which == number)
            free = contigs[contig].eligible(starts[mine]) & _apart(starts[mine], taken[contig])
            mine = mine[free]
            distance[mine] = np.abs(contigs[contig].gc_fraction(starts[mine]) - gc)
        matched = np.flatnonzero(distance <= GC_TOLERANCE)
        if len(matched):
            first = matched[0]
            return usable[which[first]][0], int(starts[first]), True
        nearest = int(np.argmin(distance))
        if np.isfinite(distance[nearest]) and (best is None or distance[nearest] < best[0]):
            best = (float(distance[nearest]), usable[which[nearest]][0], int(starts[nearest]))
    return None if best is None else (best[1], best[2], False)


def _apart(starts: npt.NDArray[np.int64], taken: Sequence[int]) -> npt.NDArray[np.bool_]:
    if not len(taken):
        return np.ones(len(starts), dtype=bool)
    others = np.sort(np.asarray(taken, dtype=np.int64))
    after = np.searchsorted(others, starts)
    left = np.where(after > 0, starts - others[np.maximum(after - 1, 0)], MIN_STEP)
    right = np.where(
        after < len(others), others[np.minimum(after, len(others) - 1)] - starts, MIN_STEP
    )
    return np.asarray((left >= MIN_STEP) & (right >= MIN_STEP), dtype=np.bool_)


def read_all(paths: Sequence[Path]) -> dict[str, list[tuple[int, int]]]:
    """Join the places of several files (see `read_tss`)."""
    places: dict[str, list[tuple[int, int]]] = {}
    for path in paths:
        for contig, found in read_tss(path).items():
            places.setdefault(contig, []).extend(found)
    return places


def read_tss(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Read places to stay away from: BED, or a table of chrom, start, end and maybe strand.

    An interval with a strand stands for its first base along the strand (a transcript for its TSS),
    one without for all of its bases.

    Raises:
        UsageError: there is no such file.
        BedError: a BED line cannot be read.
        TableError: the table has no columns chrom, start and end.
    """
    steps.require(path)
    places: dict[str, list[tuple[int, int]]] = {}
    for interval in _read_table(path) if _has_header(path) else read_bed(path):
        start, end = interval.start, interval.end
        if interval.strand == "+":
            end = start + 1
        elif interval.strand == "-":
            start = end - 1
        places.setdefault(interval.contig, []).append((start, end))
    return places


def _has_header(path: Path) -> bool:
    return str(pd.read_csv(path, sep="\t", header=None, nrows=1).iloc[0, 0]).lower() == "chrom"


def _read_table(path: Path) -> list[Interval]:
    table = steps.read_table(path, [], keep_default_na=False).rename(columns=str.lower)
    missing = [column for column in ("chrom", "start", "end") if column not in table]
    if missing:
        raise TableError(f"{path} has no column {missing[0]}; needed are chrom, start, end")
    strands = table["strand"] if "strand" in table else ["."] * len(table)
    rows = zip(table["chrom"], table["start"], table["end"], strands, strict=True)
    return [Interval(str(c), int(s), int(e), t) for c, s, e, t in rows]
