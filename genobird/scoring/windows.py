"""Windows that a model is asked about: how far they reach, along which strand, and each once.

A window is the bases around a place, as the forward strand reads, with the offset of the place in
it. Chromatin is averaged over both strands by the model. A promoter is asked about along a strand;
where none is given, that one counts on which the logit is larger. A flag tells what makes one doubt
scores that are there, beside their status.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from genobird.genome.fasta import Genome
from genobird.genome.variant import Window
from genobird.inference import Floats

CHROMATIN_FLANK = 8_100
"""Bases on each side of a place in its chromatin window: half a 200-bp bin and 8,000 bp."""
PROMOTER_BEFORE, PROMOTER_AFTER = 5_000, 3_000
"""Bases of a promoter window before the transcription start, and from it on, along the strand."""
STRANDS: Final = "+-"

EDGE: Final = "EDGE"
NEAR: Final = 300
"""Bases on each side of a place that decide what is predicted there: the local network reads no
others, but for the few that its shifts add."""
LEAST: Final = 0.99
"""Share of these that has to be known for scores without a flag; docs/scores.md has the table that
it was chosen by."""

Asked = TypeVar("Asked", bound=Hashable)
At = TypeVar("At", bound=Hashable)


def promoter_reach(strand: str) -> tuple[int, int]:
    """Return how many bases left of the start, and from it on, a promoter window has."""
    if strand == "+":
        return PROMOTER_BEFORE, PROMOTER_AFTER
    return PROMOTER_AFTER - 1, PROMOTER_BEFORE + 1


def larger_strand(logits: Floats) -> NDArray[np.intp]:
    """Return the place in `STRANDS` of the largest logit, [n] for [n, 2, sequences]."""
    found: NDArray[np.intp] = logits.max(axis=2).argmax(axis=1)
    return found


def parted(windows: Sequence[Window]) -> tuple[list[str], list[int]]:
    """Return the bases and the places of windows."""
    return [window.text for window in windows], [window.place for window in windows]


class Queries(Generic[Asked, At]):
    """What the model is asked, each thing once: ALTs of one site share REF, duplicates share both.

    Several places in one window are asked about together.

    Args:
        predict: takes windows and, of each, the places in it; returns one row per place.
    """

    def __init__(self, predict: Callable[[list[Asked], list[list[At]]], Floats]) -> None:
        self._predict = predict
        self._rows: dict[tuple[Asked, At], int] = {}
        self._answers: Floats | None = None

    def add(self, window: Asked, place: At) -> int:
        """Ask about a place in a window; return the row that its answer has."""
        return self._rows.setdefault((window, place), len(self._rows))

    def answers(self) -> Floats:
        """Return the answers to all that was asked; only what is new is predicted."""
        done = 0 if self._answers is None else len(self._answers)
        if self._answers is None or done < len(self._rows):
            new: dict[Asked, dict[At, int]] = {}
            for (window, place), row in islice(self._rows.items(), done, None):
                new.setdefault(window, {})[place] = row - done
            found = self._predict(list(new), [list(places) for places in new.values()])
            ordered = np.empty_like(found)
            ordered[[row for places in new.values() for row in places.values()]] = found
            earlier = [] if self._answers is None else [self._answers]
            self._answers = np.concatenate([*earlier, ordered])
        return self._answers


def flag_of(window: str, centre: int) -> str:
    """Return `EDGE` where bases near a place are missing, else nothing.

    Args:
        window: bases around it, upper-case; those beyond the contig are left out, N are as good as
            left out.
        centre: offset of the place in it.
    """
    near = window[max(0, centre - NEAR) : centre + NEAR]
    return EDGE if len(near) - near.count("N") < LEAST * 2 * NEAR else ""


def flag_at(genome: Genome, contig: str, position: int) -> str:
    """Return the flag of what is scored around a 0-based position of a contig."""
    near, start = genome.fetch_clipped(contig, position - NEAR, position + NEAR)
    return flag_of(near, position - start)
