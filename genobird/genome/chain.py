"""Coordinates of one assembly on another, through a UCSC chain file.

Enters a chain file (plain, gzip or BGZF), leaves places on the other assembly. A chain is a run of
ungapped blocks that pair the first assembly's bases (`tName`, always the + strand) with the
second's (`qName`, either strand).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

from genobird.errors import ChainError, SequenceError, quoted
from genobird.genome import assemblies, streams
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.genome.streams import MOST_DIGITS, whole
from genobird.genome.variant import Variant

MIN_MATCH: Final = 0.95
"""Share of an interval's bases that must have a place, as in UCSC liftOver."""

_OPPOSITE = {"+": "-", "-": "+", ".": "."}


class _Chain(NamedTuple):
    contig: str
    size: int
    reverse: bool


class _Block(NamedTuple):
    start: int
    end: int
    target: int
    """Where the block starts on the strand that its chain names."""
    chain: int


class _Blocks:
    """The blocks of one contig, sorted by start."""

    def __init__(self, blocks: list[_Block]) -> None:
        self._blocks = sorted(blocks)
        self._starts = [block.start for block in self._blocks]
        # Blocks of several chains may overlap, so ends alone are not sorted.
        self._reach = list(accumulate((block.end for block in self._blocks), max))

    def over(self, start: int, end: int) -> Iterator[_Block]:
        """Yield the blocks that share a base with `[start, end)`."""
        first = bisect_right(self._reach, start)
        last = bisect_left(self._starts, end)
        for block in self._blocks[first:last]:
            if block.end > start:
                yield block


class ChainFile:
    """The chains from one assembly to another.

    Args:
        path: UCSC chain file; plain, gzip or BGZF.

    Raises:
        UsageError: The file is missing.
        ChainError: It is no chain file, or cut short.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Final = streams.require_file(path)
        self._chains: list[_Chain] = []
        self.source_lengths: Final[dict[str, int]] = {}
        """Length in bp of each contig that the chains start from."""
        self.target_lengths: Final[dict[str, int]] = {}
        """Length in bp of each contig that the chains lead to."""
        blocks = self._read()
        self._blocks = {contig: _Blocks(several) for contig, several in blocks.items()}
        self._names = assemblies.names_in(self.source_lengths)

    @property
    def source(self) -> str | None:
        """The assembly that the chains start from, by the lengths of its contigs."""
        return assemblies.recognise(self.source_lengths)

    @property
    def target(self) -> str | None:
        """The assembly that the chains lead to."""
        return assemblies.recognise(self.target_lengths)

    def resolve(self, contig: str) -> str | None:
        """Return the name in this file of a contig of the first assembly, None without one."""
        if contig in self.source_lengths:
            return contig
        known = assemblies.chromosome(contig)
        if known is None or (known[1] is not None and known[1] != self.source):
            return None
        name = self._names.get(known[0])
        if name is None or assemblies.is_other_mitochondrion(contig, self.source_lengths[name]):
            return None
        return name

    def places(
        self, contig: str, start: int, end: int, min_match: float = 1.0
    ) -> tuple[Interval, ...]:
        """Return where `[start, end)` of a contig lies on the other assembly.

        Args:
            contig: Under any of its names.
            start: First base, 0-based.
            end: First base after it.
            min_match: Share of the bases that one chain must pair. With 1, all of them, and the
                other assembly has no base in between.

        Returns:
            One place a chain that does so, with the strand `-` where the other assembly has the
            reverse complement; none for an empty stretch.
        """
        name = self.resolve(contig)
        if name is None or end <= start or name not in self._blocks:
            return ()
        paired: dict[int, int] = {}
        spans: dict[int, tuple[int, int]] = {}
        for block in self._blocks[name].over(start, end):
            left, right = max(start, block.start), min(end, block.end)
            first = block.target + left - block.start
            span = spans.get(block.chain, (first, first))
            paired[block.chain] = paired.get(block.chain, 0) + right - left
            spans[block.chain] = min(span[0], first), max(span[1], first + right - left)
        return tuple(
            self._place(chain, *spans[chain])
            for chain, bases in paired.items()
            if bases >= min_match * (end - start)
            and (min_match < 1 or spans[chain][1] - spans[chain][0] == bases)
        )

    def lift(self, interval: Interval, min_match: float = MIN_MATCH) -> Interval | None:
        """Return an interval on the other assembly, its strand turned where the chain turns.

        None unless exactly one chain pairs at least `min_match` of its bases.
        """
        places = self.places(interval.contig, interval.start, interval.end, min_match)
        if len(places) != 1:
            return None
        [place] = places
        strand = interval.strand if place.strand == "+" else _OPPOSITE[interval.strand]
        return Interval(place.contig, place.start, place.end, strand, interval.name)

    def lift_variant(self, variant: Variant) -> tuple[Variant, Interval] | None:
        """Return a variant on the other assembly, and the place of its REF.

        Where the chain turns, alleles that are DNA become their reverse complement. The place is
        that of all bases of REF together: None unless there is exactly one. Whether the other
        assembly has these bases is not looked at.
        """
        places = self.places(variant.contig, variant.position, variant.end)
        if len(places) != 1:
            return None
        [place] = places
        ref, alt = variant.ref, variant.alt
        if place.strand == "-" and variant.is_sequence:
            with suppress(SequenceError):  # other letters; such a variant is not scored anyway
                ref, alt = reverse_complement(ref), reverse_complement(alt)
        return Variant(place.contig, place.start, ref, alt), place

    def _place(self, chain: int, start: int, end: int) -> Interval:
        contig, size, reverse = self._chains[chain]
        if reverse:
            return Interval(contig, size - end, size - start, "-")
        return Interval(contig, start, end, "+")

    def _read(self) -> Mapping[str, list[_Block]]:
        blocks: dict[str, list[_Block]] = {}
        mine: list[_Block] = []
        ahead: tuple[int, ...] | None = None  # where both sides are, and where they should end
        for number, line in enumerate(streams.lines(self.path, ChainError), start=1):
            if line.startswith("#") or not line.strip():
                continue
            words = line.split()
            try:
                if ahead is None:
                    contig, ahead = self._header(words)
                    mine = blocks.setdefault(contig, [])
                    continue
                start, target, *ends = ahead
                size, *gaps = map(_number, words)
                mine.append(_Block(start, start + size, target, len(self._chains) - 1))
                if len(gaps) == 2:
                    ahead = (start + size + gaps[0], target + size + gaps[1], *ends)
                elif not gaps and [start + size, target + size] == ends:
                    ahead = None
                else:
                    raise ValueError("the blocks do not end where the chain does")
            except (ValueError, IndexError) as error:
                raise ChainError(
                    f"{self.path}, line {number}: {line.strip()[:60]!r} does not belong in a chain "
                    f"file ({error}); give a file such as hg19ToHg38.over.chain.gz"
                ) from None
        if ahead is not None or not self._chains:
            raise ChainError(
                f"{self.path} is cut short or empty: it ends inside of a chain; copy it again"
                if ahead is not None
                else f"{self.path} holds no chain; give a file such as hg19ToHg38.over.chain.gz"
            )
        return blocks

    def _header(self, words: list[str]) -> tuple[str, tuple[int, ...]]:
        if words[0] != "chain" or len(words) < 12:
            raise ValueError("'chain' and 11 columns are needed")
        contig, target, reverse = words[2], words[7], words[9] == "-"
        size, start, end, target_size, first, last = (
            _number(words[at]) for at in (3, 5, 6, 8, 10, 11)
        )
        if words[4] != "+" or words[9] not in ("+", "-"):
            raise ValueError("its strands are not + and + or -")
        if end > size or last > target_size:
            raise ValueError("it ends beyond its contig")
        self.source_lengths[contig] = size
        self.target_lengths[target] = target_size
        self._chains.append(_Chain(target, target_size, reverse))
        return contig, (start, first, end, last)


def _number(word: str) -> int:
    number = whole(word)
    if number is None:
        raise ValueError(f"{quoted(word)} is no whole number of at most {MOST_DIGITS} digits")
    return number
