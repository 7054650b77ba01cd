"""Intervals on a genome, region strings and BED.

`Interval` and BED are 0-based half-open. Region strings are 1-based inclusive, as in samtools:
`chr20:1,001-2,000` is `Interval("chr20", 1000, 2000)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from numbers import Integral
from os.path import exists
from pathlib import Path

from genobird.errors import BedError, InputError, UsageError, counted, quoted
from genobird.genome import streams
from genobird.genome.streams import BEYOND, MOST_DIGITS, grouped, position

STRANDS = ("+", "-", ".")
BED_ENDINGS = (".bed", ".bed.gz", ".bed.bgz")

_REGION = re.compile(
    r"(?P<contig>.+):(?P<first>[0-9][0-9,]*)(?:-(?P<last>[0-9][0-9,]*))?(?::(?P<strand>[+-]))?"
)


class RegionStatus(StrEnum):
    """What can be said about one region."""

    OK = "OK"
    NO_CONTIG = "NO_CONTIG"
    OUT_OF_BOUNDS = "OUT_OF_BOUNDS"
    AMBIGUOUS = "AMBIGUOUS"
    TOO_LONG = "TOO_LONG"
    NOT_LIFTED = "NOT_LIFTED"


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Bases `start` to `end` of a contig, 0-based half-open, sorted by contig then position.

    Raises:
        InputError: A negative start, an end before the start or an unknown strand; or something
            that is no text or no whole number of at most 18 digits.
    """

    contig: str
    start: int
    end: int
    strand: str = "."
    name: str = ""
    source: str = field(default="", compare=False, repr=False, kw_only=True)
    """Where it was read, for messages: `a.bed, line 3`."""

    def __post_init__(self) -> None:
        if not isinstance(self.contig, str):
            raise InputError(f"contig {quoted(self.contig)} of an interval is no text")
        for title, place in (("start", self.start), ("end", self.end)):
            if not isinstance(place, Integral) or place > BEYOND:
                raise InputError(
                    f"{title} {quoted(place)} of an interval on {self.contig} is no whole number "
                    f"of at most {MOST_DIGITS} digits"
                )
        if self.start < 0:
            raise InputError(f"start {self.start} of an interval on {self.contig} is below 0")
        if self.end < self.start:
            raise InputError(
                f"end {self.end} of an interval on {self.contig} lies before its start {self.start}"
            )
        if self.strand not in STRANDS:
            raise InputError(
                f"strand {quoted(self.strand)} is unknown; allowed are '+', '-' and '.'"
            )

    @classmethod
    def from_str(cls, text: str) -> Interval:
        """Read a region in text, 1-based with both ends, as `chr20:1,001-2,000:+`."""
        return parse_region(text)

    @property
    def length(self) -> int:
        """Number of bases."""
        return self.end - self.start

    @property
    def midpoint(self) -> int:
        """The base that the interval stands for, 0-based."""
        return (self.start + self.end) // 2

    def ends_beyond(self, length: int) -> bool:
        """Tell whether it ends after a contig of this length, or is empty behind its last base."""
        return self.end > length or self.midpoint >= length

    def window(self, before: int, after: int) -> tuple[int, int]:
        """Return `(midpoint - before, midpoint + after)`; strand and contig ends are ignored."""
        return self.midpoint - before, self.midpoint + after

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1:,}-{self.end:,}"


def joined(intervals: Iterable[Interval], contigs: Iterable[str] = ()) -> list[Interval]:
    """Join intervals that touch or overlap, and sort them: contigs as given, else by name."""
    order = {contig: place for place, contig in enumerate(contigs)}
    together: list[Interval] = []
    for one in sorted(intervals, key=lambda one: (order.get(one.contig, 0), one)):
        last = together[-1] if together else None
        if last and last.contig == one.contig and one.start <= last.end:
            together[-1] = replace(last, end=max(last.end, one.end))
        else:
            together.append(one)
    return together


def parse_region(text: str) -> Interval:
    """Read a 1-based inclusive region string.

    Understood are `chr20:1,000-2,000`, `chr20:1000` (one base) and either with a strand appended
    (`chr20:1000-2000:-`). The name of the contig may hold `:`, `|` and `-`.

    Raises:
        UsageError: The text is no region, is a whole contig, or its positions are impossible.
    """
    match = _REGION.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"region {quoted(text)} has no positions or is malformed; "
            "write it 1-based as chr20:1,000-2,000"
        )
    first = grouped(match["first"]) or 0
    last = first if match["last"] is None else grouped(match["last"]) or 0
    if first < 1:
        raise UsageError(
            f"region {quoted(text)} starts at 0; regions are 1-based, the first base is 1"
        )
    if last < first:
        raise UsageError(
            f"region {quoted(text)} ends before it starts; write it as chr20:1,000-2,000"
        )
    return Interval(match["contig"], first - 1, last, match["strand"] or ".")


def strand_of(text: str) -> str:
    """Return a strand as genobird writes it: `*`, as some tools write none, is `.`."""
    return "." if text == "*" else text


def read_intervals(regions: Path | str) -> list[Interval]:
    """Read regions: a BED file (`-` is standard input), or a region string.

    A string is a file if it ends as BED files do or if there is one of that name.

    Raises:
        UsageError: The file is missing, or the string is no region.
        BedError: The file cannot be read.
    """
    text = str(regions)
    is_bed = text == streams.STDIN or text.lower().endswith(BED_ENDINGS)
    if isinstance(regions, Path) or is_bed or exists(text):
        return list(read_bed(regions))
    return [one_region(text)]


def one_region(text: str) -> Interval:
    """Read a region as `parse_region` does; where it is none, a BED may be meant."""
    try:
        return parse_region(text)
    except UsageError as error:
        raise UsageError(f"{error}; whole contigs or many regions: give a BED file") from None


def read_bed(source: Path | str) -> Iterator[Interval]:
    """Yield the intervals of a BED file (plain, gzip or BGZF; `-` is standard input).

    Column 4 becomes the name and column 6 the strand where they exist. Comments, blank, `track`
    and `browser` lines are skipped. Columns are separated by tabs, or else by white space.

    Raises:
        UsageError: The file is missing.
        BedError: A line cannot be read (the message has its number) or no interval is there.
    """
    if str(source) != streams.STDIN:
        streams.require_file(source)
    return _bed_intervals(source)


def _bed_intervals(source: Path | str) -> Iterator[Interval]:
    empty = True
    with closing(streams.Peeked(source, BedError)) as peeked:
        label = peeked.name
        lines = streams.split_lines(peeked, label, BedError)
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            columns = text.split("\t") if "\t" in text else text.split()
            words = text.split(maxsplit=1)[:1]
            if not text.strip(" ") or text.startswith("#") or words in (["track"], ["browser"]):
                continue
            source = f"{label}, line {number}"
            try:
                yield _bed_interval(columns, source)
            except InputError as error:
                if empty and (kind := streams.kind_of(peeked.start)):
                    raise BedError(f"{label} is no BED; {kind}") from None
                raise BedError(f"{source}: {error}") from None
            empty = False
    if empty:
        kind = streams.kind_of(peeked.start) or "BED needs chrom, start and end on each line"
        raise BedError(f"{label} holds no interval; {kind}")


def _bed_interval(columns: list[str], source: str) -> Interval:
    if len(columns) < 3 or not columns[0]:
        found = "an empty chrom" if len(columns) > 2 else counted(len(columns), "column")
        raise InputError(f"{found} found, BED needs at least 3: chrom, start (0-based), end")
    start, end = (position(text.strip()) for text in columns[1:3])
    if start is None or end is None:
        title, found = ("start", columns[1]) if start is None else ("end", columns[2])
        raise InputError(
            f"{title} {quoted(found)} is no whole number from 0 on; BED is chrom, start (0-based), "
            "end; remove a header line or put # before it"
        )
    name = columns[3] if len(columns) > 3 else ""
    strand = strand_of(columns[5]) if len(columns) > 5 else "."
    if strand not in STRANDS:
        raise InputError(
            f"strand {quoted(strand)} is unknown; column 6 of BED is the strand, '+', '-' or '.' "
            "(also '*'); where it is something else, leave it out: cut -f1-4"
        )
    return Interval(columns[0], start, end, strand, name, source=source)
