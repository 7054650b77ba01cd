"""How a contig is cut into sentences, and which of them are kept; no file is touched.

Draws depend on seed, contig name and pass only, so a contig has the same sentences whatever else is
in the genome.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement

ROW = np.dtype([("document", "<u4"), ("start", "<u4"), ("end", "<u4"), ("reverse", "?")])
"""Sentences as an array: bases `start` to `end` of the contig; `reverse` reads the other strand."""

Rows = NDArray[np.void]
Bounds = tuple[PositiveInt, PositiveInt]


class CorpusSettings(BaseModel):
    """How documents are drawn; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passes: Annotated[int, Field(ge=1, le=65_535)] = 10
    """Times that each contig is read."""
    start_max: NonNegativeInt = 5_000
    """Largest start of a pass, in bp."""
    sentences: Bounds = (50, 100)
    """Fewest and most sentences in a document."""
    sentence_bp: Bounds = (500, 1_000)
    """Shortest and longest sentence."""
    max_n_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A sentence with a larger share of N is dropped."""
    both_strands: bool = False
    """Each document is also read on the other strand, as a document of its own."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        for name, (low, high) in (("sentences", self.sentences), ("sentence_bp", self.sentence_bp)):
            if low > high:
                raise ValueError(f"{name} goes from {low} to {high}; give the smaller number first")
        return self


@dataclass(frozen=True, slots=True)
class Sentence:
    """Bases `start` to `end` of a contig, read on `strand` (`+` or `-`), 0-based half-open."""

    document: int
    start: int
    end: int
    strand: str


def sentences(
    contig_length: int, settings: CorpusSettings, contig: str, pass_index: int
) -> Iterator[Sentence]:
    """Draw the sentences of one contig in one pass, in reading order, before any is dropped.

    Args:
        contig_length: Length in bp.
        settings: How sentences are drawn, and the seed.
        contig: Name of the contig, a part of the key of the draw.
        pass_index: 0 to `settings.passes` - 1, a part of the key of the draw.
    """
    for document, start, end, reverse in draw(contig_length, settings, contig, pass_index).tolist():
        yield Sentence(document, start, end, "-" if reverse else "+")


def draw(contig_length: int, settings: CorpusSettings, contig: str, pass_index: int) -> Rows:
    """Draw the same as `sentences` in one array of `ROW`."""
    key = hashlib.sha256(f"{settings.seed}\0{pass_index}\0{contig}".encode()).digest()[:16]
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    fewest, most = settings.sentences
    shortest, longest = settings.sentence_bp
    first = int(rng.integers(0, settings.start_max + 1))
    enough = max(contig_length - first, 0) // (fewest * shortest) + 1
    per_document = rng.integers(fewest, most + 1, size=enough)
    lengths = rng.integers(shortest, longest + 1, size=int(per_document.sum()))
    ends = first + np.cumsum(lengths)
    starts = ends - lengths
    n = int(np.searchsorted(starts, contig_length))
    rows = np.zeros(n, dtype=ROW)
    rows["document"] = np.repeat(np.arange(enough), per_document)[:n]
    rows["start"] = starts[:n]
    rows["end"] = np.minimum(ends[:n], contig_length)
    if settings.both_strands and n:
        mirrored = rows[::-1].copy()
        mirrored["document"] = 2 * rows["document"][-1] + 1 - mirrored["document"]
        mirrored["reverse"] = True
        rows = np.concatenate([rows, mirrored])
    return rows


def texts(sequence: str, rows: Rows) -> Iterator[str]:
    """Yield the bases of sentences of a contig, on their strands.

    Args:
        sequence: The whole contig.
        rows: Sentences, an array of `ROW`.
    """
    for _, start, end, reverse in rows.tolist():
        text = sequence[start:end]
        yield reverse_complement(text) if reverse else text


def inside_regions(rows: Rows, regions: Sequence[Interval]) -> NDArray[np.bool_]:
    """Tell which sentences lie wholly inside one region of their contig."""
    if not regions:
        return np.zeros(len(rows), dtype=bool)
    ordered = sorted(regions)
    starts = np.array([region.start for region in ordered])
    # Of the regions that start at or before a sentence, the one that reaches farthest decides.
    reach = np.maximum.accumulate([0, *(region.end for region in ordered)])
    inside = reach[np.searchsorted(starts, rows["start"], side="right")] >= rows["end"]
    return np.asarray(inside, dtype=bool)


def too_much_n(
    rows: Rows, runs: Sequence[tuple[int, int]], max_n_fraction: float
) -> NDArray[np.bool_]:
    """Tell which sentences hold a larger share of N than allowed.

    Args:
        rows: Sentences of a contig, an array of `ROW`.
        runs: All runs of N in the contig, sorted.
        max_n_fraction: The largest share that is allowed.
    """
    # Number of N before a base, piecewise linear between the ends of runs.
    edges = np.array([-1, *(edge for run in runs for edge in run)], dtype=np.float64)
    before = np.cumsum([0, *(part for start, end in runs for part in (0, end - start))])
    n = np.interp(rows["end"], edges, before) - np.interp(rows["start"], edges, before)
    return np.asarray(n > max_n_fraction * span_bp(rows), dtype=bool)


def span_bp(rows: Rows) -> NDArray[np.int64]:
    """Lengths of sentences in bp."""
    return np.asarray(rows["end"].astype(np.int64) - rows["start"], dtype=np.int64)
