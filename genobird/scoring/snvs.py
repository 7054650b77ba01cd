"""Every SNV of regions, as the text of a VCF: what a database of scores is built from."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Final

from genobird.errors import VcfError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.streams import Peeked

_BASES: Final = "ACGT"
_PIECE: Final = 4_096  # bases whose SNVs are written at once
_HEADER: Final = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def all_snvs(intervals: Iterable[Interval], genome: Genome, name: str) -> Peeked:
    """Return a VCF of all SNVs, one per record, but none where the genome has N.

    Args:
        intervals: sorted, as `joined` returns them.
        genome: gives REF.
        name: what to call it in messages.
    """
    return Peeked(name, VcfError, _text(intervals, genome))


def joined(intervals: Iterable[Interval], genome: Genome) -> list[Interval]:
    """Return the bases of intervals as intervals that do not touch, in the genome's order.

    Raises:
        ContigError, AssemblyError, OutOfBoundsError: one is not on the genome.
    """
    order = {contig: place for place, contig in enumerate(genome.contigs)}
    found = [Interval(genome.resolve(one.contig), one.start, one.end) for one in intervals]
    together: list[Interval] = []
    for one in sorted(found, key=lambda one: (order[one.contig], one)):
        last = together[-1] if together else None
        if last and last.contig == one.contig and one.start <= last.end:
            together[-1] = replace(last, end=max(last.end, one.end))
        else:
            together.append(one)
    for one in together:
        genome.fetch(replace(one, start=max(0, one.end - 1)))
    return together


def _text(intervals: Iterable[Interval], genome: Genome) -> Generator[bytes, None, None]:
    yield _HEADER
    for whole in intervals:
        for start in range(whole.start, whole.end, _PIECE):
            part = replace(whole, start=start, end=min(start + _PIECE, whole.end))
            lines = (
                f"{part.contig}\t{position}\t.\t{ref}\t{alt}\t.\t.\t.\n"
                for position, ref in enumerate(genome.fetch(part), start=start + 1)
                if ref in _BASES
                for alt in _BASES
                if alt != ref
            )
            yield "".join(lines).encode()
