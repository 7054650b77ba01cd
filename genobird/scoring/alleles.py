"""ALTs to score, read from any kind of input, and what to do where REF is not the genome's."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from os.path import exists
from pathlib import Path
from typing import Any

import pandas as pd

from genobird.errors import TableError, UsageError, VcfError
from genobird.genome import streams
from genobird.genome.build import SAMPLE, place_on
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator
from genobird.genome.variant import Variant, parse_variant
from genobird.genome.vcf import VcfReader

COLUMNS = ("chrom", "pos", "ref", "alt")
FLANK = 8_000
"""Longest allele that is scored, in bp."""

_DIGITS = re.compile(r"[0-9]+(\.0*)?")


class RefMismatch(StrEnum):
    """What to do with an ALT whose REF is not the genome's."""

    FLAG = "flag"
    """Leave it unscored, with its status."""
    SKIP = "skip"
    """Leave its record out of the table, and untouched in the VCF."""
    SWAP = "swap"
    """Where ALT is the genome's, score it with the roles swapped; the status stays."""
    ERROR = "error"
    """Stop."""


@dataclass(frozen=True, slots=True)
class Allele:
    """One ALT of a record."""

    record: int
    """Number of the record, from 0."""
    allele: int
    """Number of the ALT as in genotypes, from 1; 0 for a record without ALT."""
    variant: Variant

    def variants(self) -> tuple[Variant, ...]:
        """Return the one ALT, as a record returns all of its."""
        return (self.variant,)


Listed = Variant | str | Sequence[Any]
"""A variant, a string as `chr20:1000:A>G`, or a row of `(chrom, pos, ref, alt)`, 1-based."""
Variants = Path | str | streams.Peeked | pd.DataFrame | Variant | Iterable[Listed]
"""A file, a table, or a list of variants; a string that is no file, or a `Variant`, is one."""


@dataclass
class AlleleSource:
    """Variants of any kind, opened."""

    name: str
    """What to call them in messages."""
    records: Iterator[Sequence[Variant]]
    """The alleles of each record, to be read once."""
    header: tuple[str, ...] = ()
    """The header lines of a VCF."""

    def __iter__(self) -> Iterator[Allele]:
        for number, variants in enumerate(self.records):
            yield from alleles_of(number, variants)

    def locator(
        self,
        genome: Genome,
        liftover: Path | str | ChainFile | None = None,
        strict: bool = True,
    ) -> Locator:
        """Make sure that the variants are of the genome's assembly; see `build.place_on`.

        Raises:
            AssemblyError: They are not.
        """
        first = list(islice(self.records, SAMPLE))
        self.records = chain(first, self.records)
        chains = chain_file(liftover)
        return place_on(genome, FLANK, self.name, self.header, first, chains, strict)


def policy_of(text: str) -> RefMismatch:
    """Read the policy for REF mismatches.

    Raises:
        UsageError: an unknown one.
    """
    try:
        return RefMismatch(text)
    except ValueError:
        allowed = ", ".join(RefMismatch)
        raise UsageError(f"ref mismatch policy {text!r} is unknown; allowed: {allowed}") from None


def chain_file(liftover: Path | str | ChainFile | None) -> ChainFile | None:
    """Open a chain file, if one is given."""
    if liftover is None or isinstance(liftover, ChainFile):
        return liftover
    return ChainFile(liftover)


@contextmanager
def opened_alleles(variants: Variants) -> Iterator[AlleleSource]:
    """Open variants of any kind; see `screen_variants`.

    Raises:
        UsageError: The file is missing, or what is listed is no variant.
        VcfError, TableError: The file is neither VCF nor a table of variants. More such errors
            come while reading.
    """
    if isinstance(variants, str):
        variants = named_input([variants])
    if isinstance(variants, pd.DataFrame):
        yield AlleleSource("the table", _from_frame(variants))
    elif isinstance(variants, Path | streams.Peeked):
        peeked = streams.Peeked(variants, VcfError) if isinstance(variants, Path) else variants
        if is_table(peeked):
            try:
                yield AlleleSource(peeked.name, _from_table(peeked))
            finally:
                peeked.close()
            return
        with VcfReader(peeked) as reader:
            records = (record.variants() for record in reader)
            yield AlleleSource(peeked.name, records, reader.header)
    else:
        listed = [variants] if isinstance(variants, Variant) else variants
        yield AlleleSource("the list of variants", map(_listed, listed))


def _listed(variant: Listed) -> list[Variant]:
    """Read one of a list of variants; a row `(chrom, pos, ref, alt)` may have several ALTs."""
    if isinstance(variant, Variant):
        return [variant]
    if isinstance(variant, str):
        return [parse_variant(variant)]
    if not isinstance(variant, Sequence) or len(variant) != len(COLUMNS):
        raise UsageError(
            f"{variant!r} is among the variants; give strings as chr20:1000:A>G, or rows of "
            "(chrom, pos, ref, alt), pos 1-based"
        )
    return _alleles(variant, f"variant {tuple(variant)}")


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
                f"{text} does not exist, and is no variant such as chr20:1000:A>G; check the path"
            ) from None
    return variants


def read_alleles(variants: Variants) -> Iterator[Allele]:
    """Yield each ALT of variants of any kind; see `screen_variants`."""
    with opened_alleles(variants) as source:
        yield from source


def alleles_of(record: int, variants: Sequence[Variant]) -> Iterator[Allele]:
    """Number the ALTs of a record."""
    none = len(variants) == 1 and variants[0].alt in (".", "")
    for number, variant in enumerate(variants, start=0 if none else 1):
        yield Allele(record, number, variant)


def is_table(peeked: streams.Peeked) -> bool:
    """Tell a table of variants by its header: it names `chrom`, `pos`, `ref` and `alt`.

    Upper-case and a `#` before the first name are allowed; columns are separated by tabs, or
    else by commas, or else by spaces. A VCF that begins with `##fileformat=VCF` is none.
    """
    if peeked.start.startswith((b"##fileformat=VCF", b"BCF")):
        return False
    line = next((text for text in streams.split_lines([peeked.start]) if not _is_note(text)), "")
    return _places(_cells(line, _separator(line))) is not None


def _from_table(peeked: streams.Peeked) -> Iterator[list[Variant]]:
    lines = enumerate(streams.split_lines(peeked), start=1)
    first = next(line for _, line in lines if not _is_note(line))
    separator = _separator(first)
    header = _cells(first, separator)
    places = _places(header) or []
    for number, line in lines:
        if not line.strip():
            continue
        cells = _cells(line, separator)
        where = f"{peeked.name}, line {number}"
        if len(cells) <= max(places):
            raise TableError(
                f"{where}: {len(cells)} column(s) found, alt is column {max(places) + 1}; "
                "give each row as many columns as the header"
            )
        if any(cell.strip() for cell in cells[len(header) :]):
            raise TableError(
                f"{where}: {len(cells)} column(s) found, the header has {len(header)}; give each "
                'row as many columns as the header, several ALTs with commas in quotes: "T,G"'
            )
        yield _alleles([cells[place] for place in places], where)


def _from_frame(frame: pd.DataFrame) -> Iterator[list[Variant]]:
    places = _places([str(name) for name in frame.columns])
    if places is None:
        names = {_plain(str(name)) for name in frame.columns}
        missing = [name for name in COLUMNS if name not in names]
        raise TableError(
            f"the variants have no column {', '.join(missing)}; needed are chrom, pos (1-based), "
            "ref and alt"
        )
    rows = zip(*(frame.iloc[:, place].tolist() for place in places), strict=True)
    for number, row in enumerate(rows):
        yield _alleles(row, f"row {number} of the variants")


def _alleles(row: Sequence[Any], where: str) -> list[Variant]:
    contig, position, ref, alts = ("" if pd.isna(value) else str(value).strip() for value in row)
    if not _DIGITS.fullmatch(position):
        raise TableError(
            f"{where}: pos {row[1]!r} is no number; positions are whole and 1-based, as in VCF"
        )
    # A column of numbers with gaps holds floats, and 20 becomes 20.0.
    contig = contig.partition(".")[0] if isinstance(row[0], float) else contig
    start = int(position.partition(".")[0]) - 1
    return [Variant(contig, start, ref or ".", alt or ".") for alt in alts.split(",")]


def _places(names: Sequence[str]) -> list[int] | None:
    """Return where the four columns are; None where one is missing."""
    plain = [_plain(name) for name in names]
    return [plain.index(name) for name in COLUMNS] if set(COLUMNS) <= set(plain) else None


def _plain(name: str) -> str:
    return name.strip().lstrip("\ufeff#").lower()


def _is_note(line: str) -> bool:
    return line.startswith("##") or not line.strip()


def _separator(header: str) -> str:
    return next((mark for mark in "\t," if mark in header), " ")


def _cells(line: str, separator: str) -> list[str]:
    if separator == ",":
        return next(csv.reader([line.rstrip("\r")]))
    return line.rstrip("\r").split(None if separator == " " else separator)
