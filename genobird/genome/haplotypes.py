"""The two haplotypes of a sample: which ALTs lie on each, and the sequence that they make together.

A VCF is read a second time, a little ahead of the records that are scored, so that the ALTs on both
sides of a record are known whatever part of the file is scored; memory is that of a stretch.

An ALT is applied where it stands in the VCF, as an edit of the bases that it changes. Edits that
overlap cannot both be true of one haplotype: the first in the file is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from genobird.errors import UsageError, VcfError, quoted, some
from genobird.files import renew_after_fork
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator
from genobird.genome.streams import STDIN, position
from genobird.genome.variant import Status, Variant, Window, trim
from genobird.genome.vcf import Record, VcfReader

REACH = 20_000
"""Bases on each side of a record within which other ALTs are applied: a window, and what it needs
more where alleles are deleted."""

_GENOTYPE = re.compile(r"[/|]?(?:\.|[0-9]+)(?:[/|](?:\.|[0-9]+))*")


class Phase(StrEnum):
    """What the genotype of the sample says of one ALT."""

    PHASED = "PHASED"
    """On a known haplotype, or on both."""
    UNPHASED = "UNPHASED"
    """Heterozygous without phase, or with more than two alleles: not applied."""
    OVERLAP = "OVERLAP"
    """Phased, but it overlaps an earlier ALT of the same haplotype: not applied."""
    UNSCORED = "UNSCORED"
    """Carried, but with a status other than OK: not applied."""
    ABSENT = "ABSENT"
    """The sample does not carry it."""
    MISSING = "MISSING"
    """The genotype is missing, or partly missing."""


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Bases `start` to `end` of a contig, 0-based half-open, become `alt`."""

    start: int
    end: int
    alt: str

    def overlaps(self, other: Edit) -> bool:
        """Tell whether both change the same bases, or insert at the same place."""
        same = (self.start, self.end) == (other.start, other.end)
        return same or (self.start < other.end and other.start < self.end)


@dataclass(frozen=True, slots=True)
class Carried:
    """An ALT of the sample that can be applied."""

    edit: Edit
    haplotypes: tuple[int, ...]
    """The haplotypes it is applied to: 0, 1 or both."""
    phase_set: str | None
    """ALTs of different sets are not applied together; None goes with any (homozygous)."""


@dataclass(frozen=True, slots=True)
class Genotype:
    """The alleles of one call, as far as phase allows: an allele number, or None."""

    alleles: tuple[int | None, ...]
    phased: bool
    phase_set: str | None

    def phase(self, allele: int) -> Phase:
        """Return what the call says of an ALT, 1 for the first."""
        if allele in self.alleles:
            return Phase.PHASED if self.phased else Phase.UNPHASED
        return Phase.MISSING if None in self.alleles else Phase.ABSENT


def genotype_of(record: Record, sample: int) -> Genotype:
    """Read the genotype of a sample, by its number from 0.

    A homozygous or haploid one is phased however it is written.

    Raises:
        VcfError: GT is malformed, or names an ALT that is not there.
    """
    columns = record.rest.rstrip("\r").split("\t")[1:]
    keys = columns[0].split(":") if columns else []
    cells = columns[1 + sample].split(":") if len(columns) > 1 + sample else []
    call = dict(zip(keys, cells, strict=False))
    text = call.get("GT", ".")
    if not _GENOTYPE.fullmatch(text):
        raise VcfError(f"{_where(record)}: genotype {quoted(text)} cannot be read; write it as 0|1")
    numbers = [position(one) for one in re.findall(r"\.|[0-9]+", text)]  # None where it is .
    if max((number or 0 for number in numbers), default=0) > len(record.alts):
        raise VcfError(
            f"{_where(record)}: genotype {quoted(text)} names an ALT beyond the "
            f"{len(record.alts)} there"
        )
    same = len(set(numbers)) == 1
    phased = len(numbers) <= 2 and (same or "/" not in text)
    return Genotype(tuple(numbers), phased, None if same else call.get("PS", "."))


def edit_of(variant: Variant) -> Edit:
    """Return the bases that an ALT changes: without those that both alleles begin or end with."""
    small = trim(variant)
    ref, alt, start = small.ref, small.alt, small.position
    while ref and alt and ref[0] == alt[0]:
        ref, alt, start = ref[1:], alt[1:], start + 1
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return Edit(start, start + len(ref), alt)


class PhasedCalls:
    """The ALTs of one sample around any record of a sorted VCF or BCF file.

    Records are asked about in file order. The locator says which ALTs can be scored.

    Raises:
        UsageError: standard input, a chain file, or no such sample.
        VcfError: see `VcfReader`; while reading also a file that is not sorted.
    """

    def __init__(self, source: Path | str, sample: str, locator: Locator) -> None:
        if str(source) == STDIN:
            raise UsageError("--phased reads the VCF twice; give a file, not standard input")
        if locator.chain is not None:
            raise UsageError(
                "--phased and a chain file do not go together, as lifting may part or turn a "
                "haplotype; lift the VCF to the genome first"
            )
        self._source, self._locator = source, locator
        self._begin()
        names = self._reader.samples
        if sample not in names:
            self._reader.close()
            known = some(names) or "no samples"
            raise UsageError(f"{source} has no sample {sample!r}; it has {known}")
        self._sample = names.index(sample)
        renew_after_fork(self)

    def _begin(self) -> None:
        self._reader = VcfReader(self._source)
        self._next = next(self._reader, None)
        self._is_open = True
        self._read: set[str] = set()
        self._at = ("", -1)
        self._phases: dict[int, tuple[Phase, ...]] = {}
        self._carried: dict[tuple[int, int], Carried] = {}

    def renew(self) -> None:
        """Have a forked process read the file for itself, from the beginning."""
        self._is_open = False

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def around(self, record: int, contig: str, position: int) -> list[Carried]:
        """Return what the sample carries within `REACH` of a record and its 0-based position.

        The number is not below that of an earlier call.
        """
        if not self._is_open:
            self._begin()
        while self._next is not None:
            at = self._next
            if at.number > record and (at.contig != contig or at.position > position + REACH):
                break
            self._take(at, record, position)
            self._next = next(self._reader, None)
        self._forget(record, position - REACH)
        return [
            carried
            for carried in self._carried.values()
            if carried.edit.end >= position - REACH and carried.edit.start <= position + REACH
        ]

    def phases(self, record: int) -> tuple[Phase, ...]:
        """Return what the genotype says of each ALT of the record asked about last."""
        return self._phases[record]

    def carried(self, record: int, allele: int) -> Carried | None:
        """Return an ALT (from 1) of the record asked about last, if it is applied."""
        return self._carried.get((record, allele))

    def _take(self, record: Record, asked: int, position: int) -> None:
        contig, last = self._at
        if record.contig != contig:
            if record.contig in self._read:
                raise self._unsorted(record)
            self._read.add(record.contig)
            self._carried.clear()
        elif record.position < last:
            raise self._unsorted(record)
        self._at = record.contig, record.position
        if record.number < asked:
            self._forget(record.number, min(position - REACH, record.position))
        genotype = genotype_of(record, self._sample)
        self._phases[record.number] = tuple(
            self._place(record.number, allele, variant, genotype)
            for allele, variant in enumerate(record.variants(), start=1)
        )

    def _place(self, record: int, allele: int, variant: Variant, genotype: Genotype) -> Phase:
        """Note an ALT where it can be applied, and say what became of it."""
        phase = genotype.phase(allele)
        if phase is not Phase.PHASED:
            return phase
        if self._locator.find(variant).status is not Status.OK:
            return Phase.UNSCORED
        edit = edit_of(variant)
        free = tuple(
            haplotype
            for haplotype, number in enumerate(genotype.alleles)
            if number == allele
            and not any(
                haplotype in other.haplotypes and edit.overlaps(other.edit)
                for other in self._carried.values()
            )
        )
        if not free:
            return Phase.OVERLAP
        self._carried[record, allele] = Carried(edit, free, genotype.phase_set)
        return phase

    def _forget(self, record: int, position: int) -> None:
        """Drop records before one, and edits that end before a position."""
        for number in [number for number in self._phases if number < record]:
            del self._phases[number]
        for key in [key for key, one in self._carried.items() if one.edit.end < position]:
            del self._carried[key]

    def _unsorted(self, record: Record) -> VcfError:
        return VcfError(
            f"{_where(record)}: the records are not sorted by contig and position; --phased needs "
            "a sorted file: bcftools sort"
        )


def together(focus: Carried, haplotype: int, near: Iterable[Carried]) -> list[Edit]:
    """Return the edits of a haplotype that are applied with one of them, sorted.

    These are the homozygous ones and those of the same phase set; for a homozygous ALT, the set of
    the nearest ALT that has one.
    """
    around = [one for one in near if haplotype in one.haplotypes]
    phase_set = focus.phase_set
    if phase_set is None:
        sets = [one for one in around if one.phase_set is not None]
        start = focus.edit.start
        nearest = min(sets, key=lambda one: abs(one.edit.start - start), default=focus)
        phase_set = nearest.phase_set
    return sorted(one.edit for one in around if one.phase_set in (None, phase_set))


@dataclass(frozen=True, slots=True)
class HaplotypeWindow:
    """A stretch of a haplotype."""

    window: Window
    """Asked about the base that stands where the asked one stands in the genome."""
    edits: tuple[Edit, ...]
    """The edits that changed it, sorted."""


_Piece = tuple[Edit, int]  # with the number of the edit that it is, or is a part of


def haplotype_windows(
    genome: Genome,
    contig: str,
    edits: Sequence[Edit],
    position: int,
    before: int,
    after: int,
    *,
    alone: bool = False,
) -> list[HaplotypeWindow]:
    """Return the bases around a position of the genome, and of a haplotype.

    With the edit of one ALT these are the windows of `genome.variant.windows`: equally long, where
    the contig has the bases.

    Args:
        genome: the genome.
        contig: a contig of it.
        edits: of the haplotype, sorted, none overlaps another.
        position: 0-based, on the genome; inserted bases in front of it lie to its left.
        before: bases to the left of the position.
        after: bases from the position on.
        alone: whether each edit alone is wanted too.

    Returns:
        The window of REF, that of the haplotype, and with `alone` one for each of its edits.
    """

    def tail(part: Sequence[_Piece]) -> tuple[str, set[int]]:
        return _walk(genome, contig, part, position, after, forward=True)

    def window(applied: Sequence[Edit], length: int) -> HaplotypeWindow:
        left, right = _split(applied, position)
        behind, used = tail(right)
        ahead, also = _walk(genome, contig, left, position, length - len(behind), forward=False)
        seen = tuple(applied[number] for number in sorted(used | also))
        return HaplotypeWindow(Window(ahead + behind, len(ahead)), seen)

    longest = max(len(tail([])[0]), len(tail(_split(edits, position)[1])[0]))
    length = min(before, position) + longest
    ref, joint = window((), length), window(edits, length)
    return [ref, joint, *(window([edit], length) for edit in joint.edits if alone)]


def _split(edits: Sequence[Edit], position: int) -> tuple[list[_Piece], list[_Piece]]:
    """Return the edits before a position and those from it on; one that spans it is parted."""
    left, right = list[_Piece](), list[_Piece]()
    for number, edit in enumerate(edits):
        if edit.start < position < edit.end:  # the base is gone, or one in the middle of ALT
            middle = min(position - edit.start, len(edit.alt))
            left.append((Edit(edit.start, position, edit.alt[:middle]), number))
            right.append((Edit(position, edit.end, edit.alt[middle:]), number))
        elif edit.end <= position and (edit.start < position or position > 0):
            left.append((edit, number))
        else:
            right.append((edit, number))
    return left, right


def _walk(
    genome: Genome, contig: str, edits: Sequence[_Piece], position: int, need: int, *, forward: bool
) -> tuple[str, set[int]]:
    """Return up to `need` bases from a position on, or before it, and the edits met."""
    pieces: list[str] = []
    met: set[int] = set()
    for edit, number in edits if forward else reversed(edits):
        gap = edit.start - position if forward else position - edit.end
        if gap >= need:
            break
        pieces.append(_fetch(genome, contig, position, gap, forward))
        need -= gap
        piece = edit.alt[:need] if forward else edit.alt[max(0, len(edit.alt) - need) :]
        pieces.append(piece)
        need -= len(piece)
        met.add(number)
        position = edit.end if forward else edit.start
    pieces.append(_fetch(genome, contig, position, need, forward))
    return "".join(pieces if forward else reversed(pieces)), met


def _fetch(genome: Genome, contig: str, position: int, size: int, forward: bool) -> str:
    start, end = (position, position + size) if forward else (position - size, position)
    return genome.fetch_clipped(contig, start, end)[0] if size else ""


def _where(record: Record) -> str:
    return f"record {record.number + 1}, {record.contig}:{record.position + 1}"
