"""Which 200-bp bins a head is trained on and measured with: peaks, and background drawn at random.

Bins with a peak are one in a hundred or fewer, so they are taken first and as much background
beside them as is asked for. Every bin that was chosen stands for several of its part of the
genome; `ChosenBins.weights` says for how many, and figures weighted so are those of all bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genobird.draws import generator
from genobird.errors import UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, joined, parse_region
from genobird.genome.sequence import n_runs
from genobird.peaks import BIN_BP, Track, bins_inside, labels

MEGABASE = 1_000_000


@dataclass(frozen=True, eq=False)
class ChosenBins:
    """N bins of a part of the genome, sorted by contig and place.

    Attributes:
        contigs: names, str [N].
        bins: int64 [N]; bin i is [200 i, 200 i + 200).
        labels: bool [N, F].
        positives: bins of the part with a peak of any track.
        background: bins of the part without.
    """

    contigs: NDArray[np.str_]
    bins: NDArray[np.int64]
    labels: NDArray[np.bool_]
    positives: int
    background: int

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def peaked(self) -> NDArray[np.bool_]:
        """Which bins have a peak of any track, [N]."""
        return np.asarray(self.labels.any(axis=1))

    def weights(self) -> NDArray[np.float64]:
        """How many bins of the part each stands for, [N]."""
        peaked = self.peaked
        chosen = int(peaked.sum())
        each = self.positives / max(chosen, 1), self.background / max(len(self) - chosen, 1)
        return np.where(peaked, *each)

    def label_weights(self) -> NDArray[np.float64]:
        """How much each label counts in training, [N, F].

        A bin with a peak of another track is a negative, and as rare as it is in the genome.
        """
        others = self.peaked[:, None] & ~self.labels
        return np.where(others, np.exp(-self.log_ratio()), 1.0)

    def log_ratio(self) -> float:
        """How much more often bins with a peak were taken than background, as a log."""
        chosen = int(self.peaked.sum())
        taken = (chosen / self.positives) / ((len(self) - chosen) / self.background)
        return float(np.log(taken))

    def take(self, rows: NDArray[np.int64]) -> ChosenBins:
        """Return some of the bins, given by ascending rows."""
        return ChosenBins(
            self.contigs[rows], self.bins[rows], self.labels[rows], self.positives, self.background
        )


@dataclass(frozen=True)
class Parts:
    """Intervals to train on and intervals held out; a bin must lie in one of them wholly."""

    areas: tuple[Interval, ...]
    """Everything that is used."""
    held_out: tuple[Interval, ...]

    def masks(self, contig: str, bins: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which bins of a contig are trained on, and which are held out, [bins] each."""
        used = bins_inside(self.areas, contig, bins)
        touched = np.zeros(bins, dtype=bool)
        for interval in self.held_out:
            if interval.contig == contig:
                touched[interval.start // BIN_BP : -(-interval.end // BIN_BP)] = True
        return used & ~touched, used & bins_inside(self.held_out, contig, bins)


def divide(
    held_out: Sequence[str],
    areas: Sequence[Interval],
    genome: Genome,
    seed: int,
    option: str = "--held-out",
) -> Parts:
    """Read what is to be held out.

    Args:
        held_out: contigs (`chr20`), regions (`chr20:1-1,000,000`), or one fraction (`0.2`) of the
            megabases of `areas`, drawn at random.
        areas: all that is used, by the genome's names.
        genome: knows the contigs.
        seed: of the draw.
        option: that names the places, for messages.

    Raises:
        UsageError: neither a fraction between 0 and 1 nor a place of the genome, or nothing left
            to train on.
        ContigError: a contig that the genome lacks.
    """
    areas = joined(areas)
    if len(held_out) == 1 and (fraction := _fraction(held_out[0], genome, option)) is not None:
        tiles = [
            Interval(area.contig, max(first, area.start), min(first + MEGABASE, area.end))
            for area in areas
            for first in range(area.start // MEGABASE * MEGABASE, area.end, MEGABASE)
        ]
        if len(tiles) < 2:
            raise UsageError(
                f"{option} {held_out[0]} of a single megabase; name a region to hold out, such "
                f"as {areas[0].contig}:1-200,000"
            )
        count = min(max(1, round(fraction * len(tiles))), len(tiles) - 1)
        order = generator(seed).permutation(len(tiles))
        return Parts(tuple(areas), tuple(joined(tiles[i] for i in order[:count])))
    found = []
    for text in held_out:
        if _fraction(text, genome, option) is not None:
            raise UsageError(f"{option} {text} beside others; give one share or places")
        if ":" in text and text not in genome.contigs:
            region = parse_region(text)
            found.append(Interval(genome.resolve(region.contig), region.start, region.end))
        else:
            contig = genome.resolve(text)
            found.append(Interval(contig, 0, genome.length(contig)))
    return Parts(tuple(areas), tuple(joined(found)))


def without_n(
    genome: Genome, lengths: Mapping[str, int], areas: Sequence[Interval]
) -> dict[str, NDArray[np.bool_]]:
    """Return which bins of each contig hold no N, [bins]; outside the areas all count as such.

    `lengths` are the bases of each contig that is used, by the genome's names; no base outside the
    areas is read.
    """
    known = {contig: np.ones(length // BIN_BP, dtype=bool) for contig, length in lengths.items()}
    for area in areas:
        text, start = genome.fetch_clipped(area.contig, area.start, area.end)
        for first, last in n_runs(text):
            known[area.contig][(start + first) // BIN_BP : -(-(start + last) // BIN_BP)] = False
    return known


def choose(
    tracks: Sequence[Track],
    known: Mapping[str, NDArray[np.bool_]],
    parts: Parts,
    *,
    held_out: bool,
    most_positives: int,
    background: float,
    seed: int,
) -> ChosenBins:
    """Take the bins with peaks, and background at random.

    Args:
        tracks: F tracks, contigs by the names of `known`.
        known: which bins of each contig that is used hold no N, [bins]; the others are left out,
            and counted nowhere.
        parts: what is trained on and what held out.
        held_out: choose among what is held out.
        most_positives: most bins with a peak of any track; more are thinned at random.
        background: bins without any peak, as a multiple of those with one.
        seed: of the draws.
    """
    numbers, bins, tables = [], [], []
    for number, (contig, usable) in enumerate(known.items()):
        table = labels(tracks, contig, len(usable))
        rows = np.flatnonzero(usable & parts.masks(contig, len(table))[int(held_out)])
        numbers.append(np.full(len(rows), number, dtype=np.int32))
        bins.append(rows)
        tables.append(table[rows])
    contig_of, places, table = np.concatenate(numbers), np.concatenate(bins), np.concatenate(tables)
    peaked = table.any(axis=1)
    positive, rest = np.flatnonzero(peaked), np.flatnonzero(~peaked)
    rng = generator(seed, int(held_out))
    taken = rng.permutation(positive)[:most_positives]
    drawn = rng.choice(rest, min(len(rest), round(background * len(taken))), replace=False)
    rows = np.sort(np.concatenate([taken, drawn]))
    names = np.array(list(known), dtype=np.str_)[contig_of[rows]]
    return ChosenBins(names, places[rows], table[rows], len(positive), len(rest))


def group(chosen: ChosenBins, reach_bp: int, seed: int) -> list[NDArray[np.int64]]:
    """Group bins that one window holds, and shuffle the groups.

    A group holds rows of `chosen`, ascending, of one contig, with at most `reach_bp` bases from the
    first bin to the last.
    """
    groups: list[list[int]] = []
    for row in range(len(chosen)):
        first = groups[-1][0] if groups else -1
        if (
            first >= 0
            and chosen.contigs[first] == chosen.contigs[row]
            and (chosen.bins[row] - chosen.bins[first]) * BIN_BP <= reach_bp
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    order = generator(seed).permutation(len(groups))
    return [np.array(groups[i], dtype=np.int64) for i in order]


def _fraction(text: str, genome: Genome, option: str) -> float | None:
    """Read a share of the genome; None where the text names a place.

    Raises:
        UsageError: a number that is neither a share nor a contig's.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    if 0 < number < 1:
        return number
    if text in genome.contigs or (text.isdigit() and number > 0):
        return None  # a contig may be called 20
    raise UsageError(
        f"{option} {text} is neither a share, which lies between 0 and 1 (0.2), nor a contig or "
        f"region of {genome.path}; give one of these"
    )
