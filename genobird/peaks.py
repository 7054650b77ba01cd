"""Peaks of experiments, and which 200-bp bins of a contig they make positive.

Bin i of a contig is [200 i, 200 i + 200). It is positive for a feature when more than half of it
(over 100 bp) lies in the union of that feature's peaks: overlapping peaks count once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from bioframe import arrops
from numpy.typing import ArrayLike, NDArray

from genobird.errors import BedError, ContigError, OutOfBoundsError, UsageError, some
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, read_bed

logger = logging.getLogger(__name__)

BIN_BP = 200
CUSTOM_CLASS = "custom"

Peaks = dict[str, NDArray[np.int64]]
"""Contig -> [P, 2] starts and ends, 0-based half-open, in any order."""


@dataclass(frozen=True)
class Feature:
    """One column of labels."""

    index: int
    """Place among the 919 of DeepSEA; -1 for a track of one's own."""
    name: str
    """Unique column name."""
    kind: str
    """`DNase`, `TF`, `histone` or `custom`."""
    source_file: str = ""
    """Peak file, without `.gz`, that a file is recognised by."""


@dataclass(frozen=True)
class Track:
    """A feature with its peaks."""

    feature: Feature
    peaks: Peaks


class Contigs(Protocol):
    """What peaks are placed on, such as a `Genome`."""

    @property
    def path(self) -> Path | str:
        """What messages call it."""

    def resolve(self, name: str) -> str:
        """Return its own name of a contig, or raise a ContigError."""

    def length(self, name: str) -> int:
        """Return the bases of a contig."""


def feature_table(features: Iterable[Feature]) -> pd.DataFrame:
    """Return F features as a table, rows `index name class`."""
    rows = [(feature.index, feature.name, feature.kind) for feature in features]
    return pd.DataFrame(rows, columns=["index", "name", "class"])


def bins_inside(intervals: Iterable[Interval], contig: str, bins: int) -> NDArray[np.bool_]:
    """Return which of the first bins of a contig lie wholly in one of some intervals, [bins]."""
    mask = np.zeros(bins, dtype=bool)
    for interval in intervals:
        if interval.contig == contig:
            mask[-(-interval.start // BIN_BP) : interval.end // BIN_BP] = True
    return mask


def read_peaks(path: Path) -> Peaks:
    """Read the peaks of a BED or narrowPeak file, plain, gzip or BGZF.

    Raises:
        UsageError: there is no such file.
        BedError: a line cannot be read, a peak has no length, or no peak is there.
    """
    peaks: dict[str, list[tuple[int, int]]] = {}
    for interval in read_bed(path):
        if not interval.length:
            raise BedError(
                f"{path}: the peak at {interval.contig}, start {interval.start:,}, has no length; "
                "BED is 0-based half-open, a peak of one base ends at start + 1"
            )
        peaks.setdefault(interval.contig, []).append((interval.start, interval.end))
    return {contig: np.array(places, dtype=np.int64) for contig, places in peaks.items()}


def read_tracks(
    paths: Sequence[Path], names: Sequence[str], genome: Genome, *, skip_missing: bool = False
) -> list[Track]:
    """Read tracks of one's own and place them on a genome.

    Args:
        paths: BED or narrowPeak files, one per track.
        names: of the tracks; none takes the files'.
        genome: where the peaks lie.
        skip_missing: leave out peaks on contigs that the genome lacks.

    Raises:
        UsageError: a file is missing, or names are not one per file, each another.
        BedError: see `read_peaks`.
        ContigError: see `place_tracks`.
        OutOfBoundsError: see `place_tracks`.
    """
    if names and len(names) != len(paths):
        raise UsageError(f"{len(paths)} --peaks and {len(names)} --name; give one name per file")
    chosen = names or [path.name.removesuffix(".gz").rsplit(".", 1)[0] for path in paths]
    for name in chosen:
        if list(chosen).count(name) > 1 or not name.strip() or set(name) & set("\t\n\r"):
            raise UsageError(
                f"track name {name!r}; names must differ, and are text on one line: use --name"
            )
    tracks = []
    for name, path in zip(chosen, paths, strict=True):
        named = Track(Feature(-1, name, CUSTOM_CLASS, str(path)), read_peaks(path))
        (placed,) = place_tracks([named], genome, skip_missing=skip_missing)
        tracks.append(Track(Feature(-1, name, CUSTOM_CLASS), placed.peaks))
    return tracks


def place_tracks(
    tracks: Sequence[Track], genome: Contigs, *, skip_missing: bool = True
) -> list[Track]:
    """Check the peaks of tracks against a genome, and call contigs as it does.

    Peaks on contigs that the genome lacks are left out, and counted: one chromosome of a whole
    genome's peaks is fine, also where some tracks have none there.

    Args:
        tracks: with their peaks.
        genome: where they lie.
        skip_missing: leave out peaks on contigs that the genome lacks; else they are refused.

    Raises:
        ContigError: a contig that the genome lacks, unless `skip_missing` and others are there.
        OutOfBoundsError: a peak that ends after its contig: another assembly.
    """
    placed, missing = [], Counter[str]()
    sources = [track.feature.source_file or track.feature.name for track in tracks]
    for track, source in zip(tracks, sources, strict=True):
        peaks, elsewhere = _divide(track.peaks, genome, source)
        placed.append(Track(track.feature, peaks))
        missing.update(elsewhere)
    total = sum(len(places) for track in tracks for places in track.peaks.values())
    named = sources[0] if len(sources) == 1 else f"{len(sources)} tracks"
    _refuse_missing(missing, total, genome, named, skip_missing=skip_missing)
    return placed


def _divide(peaks: Peaks, genome: Contigs, source: str) -> tuple[Peaks, dict[str, int]]:
    """Return peaks by the genome's names of contigs, and how many are on others, by contig."""
    placed: dict[str, list[NDArray[np.int64]]] = {}
    missing: dict[str, int] = {}
    for name, places in peaks.items():
        try:
            contig = genome.resolve(name)
        except ContigError:
            missing[name] = len(places)
            continue
        length = genome.length(contig)
        start, end = (int(x) for x in places[places[:, 1].argmax()])
        if end > length:
            raise OutOfBoundsError(
                f"{source}: the peak {Interval(name, start, end)} ends after {contig} "
                f"({length:,} bp); are the peaks of another assembly than {genome.path}?"
            )
        placed.setdefault(contig, []).append(places)
    return {contig: np.concatenate(parts) for contig, parts in placed.items()}, missing


def _refuse_missing(
    missing: Mapping[str, int], total: int, genome: Contigs, source: str, *, skip_missing: bool
) -> None:
    """Refuse peaks on contigs that a genome lacks, or warn that they are left out.

    `missing` counts them by contig; `total` counts all peaks, and some must remain.
    """
    if not missing:
        return
    count = sum(missing.values())
    found = f"{source}: {count:,} of {total:,} peaks lie on {some(missing, 3)}"
    if count == total or not skip_missing:
        hint = "" if count == total else "; --keep-going leaves them out"
        raise ContigError(f"{found}, not in {genome.path}; check the assembly{hint}")
    logger.warning("%s, not in %s: left out", found, genome.path)


def merge(peaks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Union of intervals: sorted, disjoint, bookended ones joined.

    Args:
        peaks: [P, 2] starts and ends, 0-based half-open.

    Returns:
        [M, 2] with M <= P.
    """
    _, starts, ends = arrops.merge_intervals(*peaks.reshape(-1, 2).T)
    return np.stack([starts, ends], axis=1)


class Cover:
    """Bases that intervals cover.

    Attributes:
        unions: their union on each contig, [M, 2], as `merge` gives it.
    """

    def __init__(self, intervals: Iterable[Interval]) -> None:
        found: dict[str, list[tuple[int, int]]] = {}
        for interval in intervals:
            found.setdefault(interval.contig, []).append((interval.start, interval.end))
        self.unions = {
            contig: merge(np.array(places, dtype=np.int64)) for contig, places in found.items()
        }

    def touches(self, contig: str, starts: ArrayLike, ends: ArrayLike) -> NDArray[np.bool_]:
        """Tell which stretches of a contig hold a base of an interval, [n].

        Args:
            contig: its name.
            starts: first bases, 0-based, [n].
            ends: bases after the last, [n].
        """
        union = self.unions.get(contig, np.empty((0, 2), dtype=np.int64))
        before = np.searchsorted(union[:, 0], ends)
        return np.asarray(np.append(-1, union[:, 1])[before] > starts)


def coverage(peaks: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Base pairs of [start, start + 200) that the union of `peaks` covers; [n], each in 0..200."""
    union = merge(peaks)
    if not len(union):
        return np.zeros(len(starts), dtype=np.int64)
    covered_before = np.concatenate([[0], np.cumsum(union[:, 1] - union[:, 0])])

    def before(edges: NDArray[np.int64]) -> NDArray[np.int64]:
        at = (
            np.searchsorted(union[:, 0], edges, side="right") - 1
        )  # the last that starts at <= edge
        inside = np.minimum(edges, union[at, 1]) - union[at, 0]
        return np.where(at >= 0, covered_before[np.maximum(at, 0)] + inside, 0)

    return before(starts + BIN_BP) - before(starts)


def labels_at(tracks: Sequence[Track], contig: str, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which stretches [start, start + 200) are positive; [n, F], F in the order of `tracks`."""
    table = np.zeros((len(starts), len(tracks)), dtype=bool)
    for column, track in enumerate(tracks):
        peaks = track.peaks.get(contig)
        if peaks is not None:
            table[:, column] = 2 * coverage(peaks, starts) > BIN_BP
    return table


def labels(tracks: Sequence[Track], contig: str, bins: int) -> NDArray[np.bool_]:
    """Which bins of a contig are positive; [bins, F], F in the order of `tracks`."""
    return labels_at(tracks, contig, np.arange(bins, dtype=np.int64) * BIN_BP)
