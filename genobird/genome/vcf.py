"""VCF as it comes: header lines and records, whose text is kept for `vcf_writer`.

A record keeps every byte outside of the INFO keys that are added, because the lines themselves are
carried through; htslib reads and writes only BCF, and makes the index. POS is 1-based in the
text and 0-based in `Record.position`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pysam

from genobird.errors import VcfError, counted, quoted
from genobird.genome import streams
from genobird.genome.index import quiet_htslib
from genobird.genome.streams import position
from genobird.genome.variant import Variant

_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a VCF file, or one row of another table of variants, which has no text."""

    number: int
    """Place among the records of the file, from 0."""
    contig: str
    position: int
    """0-based; POS in the text is one more."""
    ref: str
    alts: tuple[str, ...]
    """ALT alleles as written; empty where ALT is `.`."""
    info: str
    columns: tuple[str, ...]
    """CHROM to FILTER, as written."""
    rest: str
    """What follows INFO, with its tab and a carriage return if there is one."""

    @classmethod
    def of_variants(cls, number: int, variants: Sequence[Variant]) -> Record:
        """Make a record without text of variants of one place and REF."""
        first = variants[0]
        alts = tuple([variant.alt for variant in variants])
        return cls(number, first.contig, first.position, first.ref, alts, "", (), "")

    @property
    def line(self) -> str:
        """The line as it was read, without line feed."""
        return "\t".join(self.columns) + f"\t{self.info}{self.rest}"

    @property
    def id(self) -> str:
        """The ID column; empty where it is `.`, or there is no text."""
        text = self.columns[2] if self.columns else "."
        return "" if text == "." else text

    def text_size(self) -> int:
        """Return the characters of INFO and samples, which may be millions."""
        return len(self.info) + len(self.rest)

    def variants(self) -> tuple[Variant, ...]:
        """Return one variant per ALT; one with ALT `.` where the record has none."""
        alts = self.alts or (".",)
        return tuple([Variant(self.contig, self.position, self.ref, alt) for alt in alts])


class VcfReader:
    """Iterate over the records of a VCF or BCF file, in file order, once.

    Args:
        source: Path of a VCF (plain, gzip, BGZF) or BCF file, or `-` for standard input.

    Raises:
        UsageError: The file is missing.
        VcfError: It has no VCF header, or (while reading) a line is malformed or the file is cut
            short.
    """

    def __init__(self, source: Path | str | streams.Peeked) -> None:
        peeked = source if isinstance(source, streams.Peeked) else streams.Peeked(source, VcfError)
        self.name: Final = peeked.name
        self._start = peeked.start
        self._lines = _vcf_lines(peeked)
        self.header: Final = tuple(self._read_header())
        self._columns = self.header[-1].count("\t") + 1
        self._records = self._read_records()

    def __enter__(self) -> VcfReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def samples(self) -> tuple[str, ...]:
        """Names of the samples."""
        return tuple(self.header[-1].rstrip("\r").split("\t")[9:])

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        return next(self._records)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _read_records(self) -> Iterator[Record]:
        number = 0
        for at, line in enumerate(self._lines, start=len(self.header) + 1):
            if not line.rstrip("\r"):
                continue
            yield self._record(number, line, at)
            number += 1

    def _read_header(self) -> Iterator[str]:
        expected = "##fileformat=VCF"
        for line in self._lines:
            if not line.startswith(expected):
                require_fileformat(self.name, line.encode("utf-8", "surrogateescape"))
                break
            expected = "#"
            yield line
            if line.startswith("#CHROM\t"):
                return
        raise _no_header(self.name, self._start)

    def _record(self, number: int, line: str, at: int) -> Record:
        body = line.rstrip("\r")
        columns = body.split("\t", _COLUMNS)
        if line.startswith("#"):
            raise VcfError(
                f"{self.name}, line {at}: a header line is found among the records; remove it, and "
                "join VCFs with bcftools concat"
            )
        if "\r" in body:
            raise VcfError(
                f"{self.name}, line {at}: a carriage return is found within the record; end each "
                "line with a line feed: tr '\\r' '\\n'"
            )
        if len(columns) < _COLUMNS:
            spaces = "; tabs separate them, not spaces" if len(body.split()) >= _COLUMNS else ""
            raise VcfError(
                f"{self.name}, line {at}: {counted(len(columns), 'tab-separated column')} found, a "
                f"VCF record has at least {_COLUMNS}{spaces}"
            )
        if line.count("\t") + 1 < self._columns:
            raise VcfError(
                f"{self.name}, line {at}: {line.count(chr(9)) + 1} columns found, the header names "
                f"{self._columns}; the line is cut short"
            )
        contig, pos, _, ref, alt = columns[:5]
        start = position(pos)
        if start is None:
            raise VcfError(f"{self.name}, line {at}: POS {quoted(pos)} is no whole number")
        return Record(
            number=number,
            contig=contig,
            position=start - 1,
            ref=ref,
            alts=() if alt in (".", "") else tuple(alt.split(",")),
            info=columns[7],
            columns=tuple(columns[:7]),
            rest="".join(f"\t{samples}" for samples in columns[8:]) + line[len(body) :],
        )


def plain_vcf(variants: Iterable[Variant], assemblies: Iterable[str] = ()) -> Iterator[str]:
    """Yield the lines of a VCF that says nothing but variants, and perhaps of which assemblies."""
    yield "##fileformat=VCFv4.2\n"
    yield from (f"##reference={name}\n" for name in assemblies)
    yield "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    for one in variants:
        yield f"{one.contig}\t{one.position + 1}\t.\t{one.ref}\t{one.alt}\t.\t.\t.\n"


def require_fileformat(name: str, start: bytes) -> None:
    """Refuse a VCF that has lost the lines before `#CHROM`, which else reads as a table.

    Raises:
        VcfError: It begins with the line of columns of a VCF.
    """
    if start.startswith(b"#CHROM\tPOS\tID\tREF\tALT"):
        raise VcfError(
            f"{name} has a #CHROM line but no ##fileformat line before it; put "
            "##fileformat=VCFv4.2 in front"
        )


def require_vcf(name: str, start: bytes) -> None:
    """Refuse what begins as no VCF or BCF does, and say what it is, by its first bytes, unpacked.

    Raises:
        VcfError: It is something else.
    """
    if not start.startswith((b"##fileformat=VCF", b"BCF")):
        require_fileformat(name, start)
        raise _no_header(name, start)


def _no_header(name: str, start: bytes) -> VcfError:
    expected = (
        "it must begin with ##fileformat=VCFv4.x and have a line #CHROM POS ID REF ALT QUAL FILTER "
        "INFO, separated by tabs; a table instead begins with a line that names chrom, pos, ref "
        "and alt"
    )
    known = streams.kind_of(start) or streams.without_header(start)
    return VcfError(f"{name} has no VCF header; {known or expected}")


def _vcf_lines(peeked: streams.Peeked) -> Generator[str, None, None]:
    """Yield the lines of a VCF, or of a BCF as htslib writes it in text."""
    try:
        if not peeked.start.startswith(b"BCF"):
            yield from streams.split_lines(peeked, peeked.name, VcfError)
            return
        if str(peeked.source) != streams.STDIN:
            yield from _bcf_lines(Path(peeked.source), peeked.name)
            return
        with tempfile.NamedTemporaryFile(prefix="genobird-", suffix=".bcf") as copy:
            # The first bytes are read already, and htslib cannot go back to them in a pipe.
            copy.writelines(peeked)
            copy.flush()
            yield from _bcf_lines(Path(copy.name), peeked.name)
    finally:
        peeked.close()


def _bcf_lines(path: Path, name: str) -> Iterator[str]:
    packed = streams.compression_of(path) is streams.Compression.BGZF
    if packed and not streams.ends_whole(path):
        raise VcfError(f"{name} is cut short: its end-of-file block is missing; copy it again")
    try:
        with quiet_htslib(), pysam.VariantFile(str(path)) as file:
            yield from str(file.header).rstrip("\n").split("\n")
            for record in file:
                yield str(record).rstrip("\n")
    except (OSError, ValueError) as error:
        raise VcfError(f"{name} is damaged: {error}; make or copy it again") from error
