"""Question: what a user of the page asks for, checked before it waits for its turn.

Enters typed text or an uploaded file, leaves regions, or a VCF under a name of our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from genobird.errors import GenobirdError, UsageError, VcfError, quoted
from genobird.genome import streams
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, parse_region
from genobird.genome.variant import Variant, assembly_in, hint, parse_variant
from genobird.genome.vcf import VcfReader, plain_vcf, require_vcf

ASKED = "asked.vcf"
"""Name of the VCF in the folder of a job, whatever its user calls it."""
# Of an upload: how many times its size it may unpack to, and into how many lines.
_MOST_UNPACKED, _MOST_LINES = 10, 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one question may ask."""

    upload: int = 20 << 20
    """Bytes of a file."""
    items: int = 2_000
    """Regions, or ALTs of a VCF."""

    def require(self, items: int, what: str) -> None:
        """Refuse more than the limit by a UsageError."""
        if items > self.items:
            raise UsageError(
                f"{what} holds more than {self.items:,} places, the most that this page takes; cut "
                "it, or use genobird variants or genobird score"
            )


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be scored: regions, or else the VCF `ASKED` in the folder of the job."""

    title: str
    """What to call it: the first line of the text, or the name of the file."""
    total: int
    """Regions, or records of the VCF."""
    regions: tuple[Interval, ...] = ()
    logos: int = 0
    """Variants that get logos."""


class _Upload(streams.Peeked):
    """A file that may unpack to no more than a bound."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, VcfError)
        self._most = most

    def __iter__(self) -> Iterator[bytes]:
        size = lines = 0
        for piece in super().__iter__():
            size, lines = size + len(piece), lines + piece.count(b"\n")
            if size > self._most or lines > _MOST_LINES:
                raise VcfError(
                    f"{self.name} unpacks to more than {self._most >> 20} MiB or {_MOST_LINES:,} "
                    "lines; cut it, or use genobird variants"
                )
            yield piece


def typed(text: str, genome: Genome, folder: Path, limits: Limits, logos: int = 0) -> Question:
    """Read variants or regions, one per line; variants become a VCF in the folder.

    Raises:
        UsageError: there is nothing, too much, or something that is neither.
        ContigError, AssemblyError: the genome has no such contig.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UsageError("nothing was asked; type a variant or a region, or choose a VCF")
    limits.require(len(lines), "the text")
    title = lines[0] if len(lines) == 1 else f"{lines[0]} and {len(lines) - 1:,} more"
    found = [_place(line) for line in lines]
    for place in found:
        genome.resolve(place.contig)
    regions = tuple(place for place in found if isinstance(place, Interval))
    if len(regions) == len(found):
        return Question(title, len(found), regions)
    if regions:
        raise UsageError("variants and regions are mixed; ask for the ones, then for the others")
    variants = [
        replace(place, contig=genome.resolve(place.contig))
        for place in found
        if isinstance(place, Variant)
    ]
    assemblies = dict.fromkeys(name for line in lines if (name := assembly_in(line)))
    with (folder / ASKED).open("w", encoding="utf-8") as file:
        file.writelines(plain_vcf(variants, assemblies))
    return Question(title, len(variants), logos=logos)


def uploaded(name: str, folder: Path, limits: Limits, logos: int = 0) -> Question:
    """Read through the uploaded VCF `ASKED`, so that what is wrong with it is told at once.

    Raises:
        VcfError: it is no VCF, or damaged.
        UsageError: it holds too much.
    """
    try:
        records = _count(folder / ASKED, limits)
    except GenobirdError as error:
        raise type(error)(plain(str(error), folder, name)) from None
    return Question(name, records, logos=logos)


def plain(text: str, folder: Path, name: str) -> str:
    """Return a message with the user's name of a file in place of ours."""
    return text.replace(str(folder / ASKED), name).replace(f"{folder}/", "")


def _count(path: Path, limits: Limits) -> int:
    """Return the number of records of a VCF that may be scored; see `uploaded`."""
    upload = _Upload(path, limits.upload * _MOST_UNPACKED)
    if upload.start.startswith(b"BCF"):
        upload.close()
        raise VcfError(f"{path} is a BCF; this page takes VCF: bcftools view -Oz")
    require_vcf(str(path), upload.start)
    records = alleles = 0
    with VcfReader(upload) as reader:
        for record in reader:
            records, alleles = records + 1, alleles + len(record.variants())
            limits.require(alleles, str(path))
    if not records:
        raise VcfError(f"{path} holds no record; give a VCF with variants")
    return records


def _place(line: str) -> Variant | Interval:
    """Read a line as a variant, or else as a region."""
    try:
        variant = parse_variant(line)
    except UsageError:
        try:
            return parse_region(line)
        except UsageError:
            raise UsageError(
                f"{quoted(line)} is no variant and no region; write it 1-based, as chr20:1000 A>G "
                f"or chr20:1,000-2,000{(more := hint(line)) and f'; {more}'}"
            ) from None
    if not variant.is_sequence:
        raise UsageError(f"{quoted(line)} has an allele that is no sequence; write it in bases")
    return variant
