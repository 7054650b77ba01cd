"""ALTs to score: read from any kind of input, or all SNVs of regions."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from numbers import Integral
from os.path import exists
from pathlib import Path
from typing import Any, Final

import pandas as pd

from genobird.columns import VARIANT
from genobird.errors import TableError, UsageError, VcfError, counted, quoted
from genobird.genome import streams
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, joined
from genobird.genome.locus import SAMPLE, Locator, place_on, require_on_genome
from genobird.genome.streams import BASE_BEFORE, BEYOND, position_of
from genobird.genome.variant import Variant, assembly_in, hint, parse_variant
from genobird.genome.vcf import Record, VcfReader, plain_vcf
from genobird.scoring.inputs import Columns, text_of, texts_of

FLANK = 8_000
"""Longest allele that is scored, in bp."""
_BASES: Final = "ACGT"
_PIECE: Final = 4_096  # bases that are read at once for their SNVs

_ROWS = Columns(
    "variants",
    VARIANT,
    (),
    "needed are chrom, pos (1-based), ref and alt, or strings as chr20:1000:A>G",
)


@dataclass(frozen=True, slots=True)
class Allele:
    """One ALT of a record."""

    record: int
    """Number of the record, from 0."""
    allele: int
    """Number of the ALT as in genotypes, from 1; 0 for a record without ALT."""
    variant: Variant
    id: str = ""
    """ID of the record; empty where it has none."""


Listed = Variant | str | Sequence[Any] | Mapping[str, Any]
"""A variant, a string as `chr20:1000:A>G`, or a row of `(chrom, pos, ref, alt)`, 1-based; see
`rows`."""
Variants = (
    Path | str | streams.Peeked | pd.DataFrame | Mapping[str, Any] | Variant | Iterable[Listed]
)
"""A file, a table, or a list of variants; a string that is no file, a `Variant` or a row is one."""


@dataclass
class VariantSource:
    """Variants of any kind, opened."""

    name: str
    """What to call them in messages."""
    records: Iterator[Record]
    """To be read once; those of a table or a list have no text."""
    header: tuple[str, ...] = ()
    """The header lines of a VCF."""
    assemblies: Collection[str] = ()
    """What the records that were read name as their assembly."""

    @classmethod
    def of_vcf(cls, reader: VcfReader) -> VariantSource:
        """Take the records of a VCF."""
        return cls(reader.name, reader, reader.header)

    @classmethod
    def of_rows(
        cls, name: str, rows: Iterable[Sequence[Variant]], assemblies: Collection[str] = ()
    ) -> VariantSource:
        """Take the variants of each row of a table, or of each item of a list."""
        records = (Record.of_variants(number, row) for number, row in enumerate(rows))
        return cls(name, records, assemblies=assemblies)

    def __iter__(self) -> Iterator[Allele]:
        for record in self.records:
            yield from alleles_of(record)

    def peek(self, count: int) -> list[Record]:
        """Return up to `count` of the next records, which stay to be read."""
        first = list(islice(self.records, count))
        self.records = chain(first, self.records)
        return first

    def locator(
        self, genome: Genome, liftover: Path | str | ChainFile | None = None, strict: bool = True
    ) -> Locator:
        """Place the variants on a genome; AssemblyError where they are of another assembly."""
        first = [record.variants() for record in self.peek(SAMPLE)]
        chains = chain_file(liftover)
        header = [*self.header, *(f"##reference={name}" for name in self.assemblies)]
        return place_on(genome, FLANK, self.name, header, first, chains, strict)


def chain_file(liftover: Path | str | ChainFile | None) -> ChainFile | None:
    """Open a chain file, if one is given."""
    if liftover is None or isinstance(liftover, ChainFile):
        return liftover
    return ChainFile(liftover)


@contextmanager
def opened_variants(variants: Variants) -> Iterator[VariantSource]:
    """Open variants of any kind; see `screen_variants`.

    Raises:
        UsageError: The file is missing, or what is listed is no variant.
        VcfError, TableError: The file is neither VCF nor a table of variants. More such errors
            come while reading.
    """
    if isinstance(variants, str):
        variants = named_input([variants])
    if (frame := _ROWS.frame_of(variants)) is not None:
        rows = enumerate(_ROWS.of_frame(frame))
        several = (_alleles(row, f"row {number} of the variants") for number, row in rows)
        yield VariantSource.of_rows("the table", several)
    elif isinstance(variants, Path | streams.Peeked):
        peeked = streams.Peeked(variants, VcfError) if isinstance(variants, Path) else variants
        if is_table(peeked):
            try:
                yield VariantSource.of_rows(peeked.name, _from_table(peeked))
            finally:
                peeked.close()
            return
        with VcfReader(peeked) as reader:
            yield VariantSource.of_vcf(reader)
    else:
        listed = [variants] if isinstance(variants, Variant) else _ROWS.listed(variants)
        named: set[str] = set()
        several = (_listed(variant, named) for variant in listed)
        yield VariantSource.of_rows("the list of variants", several, named)


def _listed(variant: Listed, assemblies: set[str]) -> list[Variant]:
    """Read one of a list of variants; a row `(chrom, pos, ref, alt)` may have several ALTs.

    Assemblies that are named, as in `chr20_1000_A_G_b37`, are added to `assemblies`.
    """
    if isinstance(variant, Variant):
        return [_checked(variant)]
    if isinstance(variant, str):
        if assembly := assembly_in(variant):
            assemblies.add(assembly)
        return [parse_variant(variant)]
    cells = _ROWS.of(variant)
    if cells is None:
        raise UsageError(
            f"{quoted(variant)} is among the variants; give strings as chr20:1000:A>G, or rows of "
            "(chrom, pos, ref, alt), pos 1-based"
        )
    return _alleles(cells, f"variant {quoted(tuple(cells))}")


def named_input(texts: Sequence[str]) -> streams.Peeked | list[Variant]:
    """Open what a command line names: one file, `-` for standard input, or variants.

    Raises:
        UsageError: There is no such file, and it is no variant either.
    """
    first = texts[0]
    if len(texts) == 1 and (first == streams.STDIN or exists(first)):
        return streams.Peeked(first, VcfError)
    variants = []
    for text in texts:
        try:
            variants.append(parse_variant(text))
        except UsageError:
            if exists(text):
                raise UsageError(
                    f"{text} is one of {len(texts)} inputs; give one file, or variants"
                ) from None
            raise UsageError(
                f"{text} does not exist, and is no variant such as chr20:1000:A>G; "
                f"{hint(text) or 'check the path'}"
            ) from None
    return variants


def alleles_of(record: Record) -> Iterator[Allele]:
    """Number the ALTs of a record."""
    variants = record.variants()
    none = len(variants) == 1 and variants[0].alt in (".", "")
    for number, variant in enumerate(variants, start=0 if none else 1):
        yield Allele(record.number, number, variant, record.id)


def is_table(peeked: streams.Peeked) -> bool:
    """Tell a table of variants by its header: it names `chrom`, `pos`, `ref` and `alt`.

    Upper-case and a `#` before the first name are allowed; columns are separated by tabs, or
    else by commas, or else by spaces. A VCF that begins with `##fileformat=VCF` is none.
    """
    if peeked.start.startswith((b"##fileformat=VCF", b"BCF")):
        return False
    lines = streams.split_lines([peeked.start], peeked.name, TableError)
    with suppress(TableError):
        line = next((text for text in lines if not _is_note(text)), "")
        return _ROWS.places(_cells(line, _separator(line))) is not None
    return False


def _from_table(peeked: streams.Peeked) -> Iterator[list[Variant]]:
    lines = enumerate(streams.split_lines(peeked, peeked.name, TableError), start=1)
    first = next(line for _, line in lines if not _is_note(line))
    separator = _separator(first)
    header = _cells(first, separator)
    places = _ROWS.places(header) or []
    for number, line in lines:
        if not line.strip(" \r"):
            continue
        where = f"{peeked.name}, line {number}"
        try:
            cells = _cells(line, separator)
        except TableError as error:
            raise TableError(f"{where}: {error}") from None
        if len(cells) <= max(places):
            raise TableError(
                f"{where}: {counted(len(cells), 'column')} found, alt is column {max(places) + 1}; "
                "give each row as many columns as the header"
            )
        if any(cell.strip() for cell in cells[len(header) :]):
            raise TableError(
                f"{where}: {counted(len(cells), 'column')} found, the header has {len(header)}; "
                'give each row as many, several ALTs with commas in quotes: "T,G"'
            )
        yield _alleles([cells[place] for place in places], where)


def _checked(variant: Variant) -> Variant:
    """Return a variant of Python, its position within 64 bits; UsageError for what is none."""
    texts = variant.contig, variant.ref, variant.alt
    if not isinstance(variant.position, Integral) or not all(isinstance(x, str) for x in texts):
        raise UsageError(
            f"{quoted(variant)} is among the variants; its position must be a whole number, "
            "contig, REF and ALT text"
        )
    within = max(1 - BEYOND, min(variant.position, BEYOND - 1))
    return variant if within == variant.position else replace(variant, position=within)


def _alleles(row: Sequence[Any], where: str) -> list[Variant]:
    """Read the cells chrom, pos (1-based), ref and alt; TableError for what is none of these."""
    try:
        contig, ref, alts = text_of(row[0]), text_of(row[2]), texts_of(row[3])
    except TableError as error:
        raise TableError(f"{where}: {error}") from None
    pos = position_of(row[1])
    if pos is None:
        raise TableError(
            f"{where}: pos {quoted(row[1])} is no number; positions are whole and 1-based, as in "
            "VCF"
        )
    for allele in (ref, *alts):
        if allele and not allele.strip("-"):
            raise TableError(f"{where}: allele {quoted(allele)} has no bases; {BASE_BEFORE}")
    return [Variant(contig, pos - 1, ref or ".", alt or ".") for alt in alts]


def _is_note(line: str) -> bool:
    return line.startswith("##") or not line.strip(" \r")


def _separator(header: str) -> str:
    return next((mark for mark in "\t," if mark in header), " ")


def _cells(line: str, separator: str) -> list[str]:
    """Split a line; TableError where quotes of a CSV file hold what cannot be read."""
    text = line.rstrip("\r")
    if separator != "," or '"' not in text:
        return text.split(None if separator == " " else separator)
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise TableError(
            f"the row cannot be read as CSV: {error}; put no line breaks and no cells of more "
            f"than {csv.field_size_limit():,} characters into quotes, or use tabs"
        ) from None


def all_snvs(intervals: Iterable[Interval], genome: Genome, name: str) -> streams.Peeked:
    """Return a VCF of all SNVs of intervals that `union` returned, none where the genome has N."""
    text = plain_vcf(_snvs(intervals, genome))
    return streams.Peeked(name, VcfError, (line.encode() for line in text))


def union(intervals: Sequence[Interval], genome: Genome) -> list[Interval]:
    """Return the bases of intervals as intervals that do not touch, in the genome's order.

    Raises:
        ContigError, AssemblyError, OutOfBoundsError: one is not on the genome.
    """
    require_on_genome(intervals, genome)
    found = [Interval(genome.resolve(one.contig), one.start, one.end) for one in intervals]
    return joined(found, genome.contigs)


def _snvs(intervals: Iterable[Interval], genome: Genome) -> Iterator[Variant]:
    for whole in intervals:
        for start in range(whole.start, whole.end, _PIECE):
            part = replace(whole, start=start, end=min(start + _PIECE, whole.end))
            for position, ref in enumerate(genome.fetch(part), start=start):
                for alt in _BASES if ref in _BASES else "":
                    if alt != ref:
                        yield Variant(part.contig, position, ref, alt)
