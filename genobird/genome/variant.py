"""One ALT allele: reading, checking, trimming, left-aligning, and its two sequence windows.

Positions are 0-based here and 1-based in text. Alleles are VCF alleles: an insertion or deletion
carries the base before it (or, at the start of a contig, the base after it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from genobird.errors import OutOfBoundsError, UsageError, quoted
from genobird.genome import assemblies
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.streams import BASE_BEFORE, grouped

_TEXT = re.compile(
    r"(?P<contig>.+)[:\-_\s](?:g\.)?(?P<position>[0-9][0-9,]*)[:\-_\s]?"
    r"(?P<ref>[A-Za-z]+)[>:\-_/\s](?P<alt>[A-Za-z]+|\*|\.|<[^<>]+>)"
    r"(?:_(?P<assembly>[A-Za-z0-9]+))?"
)
# An allele that is written as none, or in words.
_GAP = re.compile(
    r".+[:\-_\s](?:g\.)?[0-9][0-9,_]*[:\-_\s]?(?:[A-Za-z]+[>:\-_/\s]-+|-+[>:_/\s][A-Za-z]+)"
    r"(?:[:_][A-Za-z0-9]+)?"
    r"|.+:g\.[0-9_]+(?:del|ins|dup|inv).*"
)
_MOST_LETTERS = 1_000  # the search may take the square of them
_RSID = re.compile("rs[0-9]+", re.IGNORECASE)
_BASES = re.compile("[ACGT]+", re.IGNORECASE)
_SEQUENCE = re.compile("[A-Z]+", re.IGNORECASE)
# Bases fetched at a time while an indel moves left.
_STRIDE = 256


class Status(StrEnum):
    """What can be said about one ALT of a record."""

    OK = "OK"
    REF_MISMATCH = "REF_MISMATCH"
    NO_CONTIG = "NO_CONTIG"
    OUT_OF_BOUNDS = "OUT_OF_BOUNDS"
    AMBIGUOUS_BASE = "AMBIGUOUS_BASE"
    SYMBOLIC = "SYMBOLIC"
    TOO_LONG = "TOO_LONG"
    MISSING_ALT = "MISSING_ALT"
    NON_VARIANT = "NON_VARIANT"
    NOT_LIFTED = "NOT_LIFTED"


@dataclass(frozen=True, slots=True)
class Variant:
    """A REF and one ALT at a 0-based position."""

    contig: str
    position: int
    """First base of REF, 0-based; -1 is the telomere, position 0 in VCF text."""
    ref: str
    alt: str

    @classmethod
    def from_str(cls, text: str) -> Variant:
        """Read a variant in text, 1-based, as `chr20:1000:A>G`; see `parse_variant`."""
        return parse_variant(text)

    @property
    def end(self) -> int:
        """First base after REF, 0-based."""
        return self.position + len(self.ref)

    @property
    def is_sequence(self) -> bool:
        """Whether both alleles are letters, not missing, symbolic, `*` or a breakend."""
        return bool(_SEQUENCE.fullmatch(self.ref) and _SEQUENCE.fullmatch(self.alt))

    def __str__(self) -> str:
        return f"{self.contig}:{self.position + 1}:{self.ref}>{self.alt}"


class Window(NamedTuple):
    """Bases, and the offset of the one that is asked about."""

    text: str
    place: int

    def along(self, strand: str) -> Window:
        """Return the window as a strand reads: turned around for `-`."""
        if strand == "+":
            return self
        return Window(reverse_complement(self.text), len(self.text) - 1 - self.place)


def parse_variant(text: str) -> Variant:
    """Read a variant in text, 1-based.

    Understood are `chr20-1000-A-G`, `chr20:1000:A>G`, `chr20:1000:A:G`, `chr20:1000-A-G`,
    `chr20_1000_A_G`, `chr20_1000_A_G_b37` (as GTEx) and `NC_000020.10:g.1000A>G`; positions may
    hold commas.

    Raises:
        UsageError: The text is none of these, or the position is 0.
    """
    match = _TEXT.fullmatch(text.strip())
    position = grouped(match["position"]) if match else None
    if match is None or not position or (match["assembly"] and assembly_in(text) is None):
        more = hint(text)
        raise UsageError(
            f"variant {quoted(text)} cannot be read; write it 1-based as chr20:1000:A>G or "
            f"chr20-1000-A-G{more and f': {more}'}"
        )
    alt = match["alt"] if match["alt"].startswith("<") else match["alt"].upper()
    return Variant(match["contig"], position - 1, match["ref"].upper(), alt)


def assembly_in(text: str) -> str | None:
    """Return the assembly that a variant in text names, as `chr20_1000_A_G_b37` does."""
    match = _TEXT.fullmatch(text.strip())
    return assemblies.named(match["assembly"]) if match and match["assembly"] else None


def trim(variant: Variant) -> Variant:
    """Drop bases that both alleles share, first at the end, then at the start.

    Each allele keeps at least one base. Alleles become upper-case; one that is no sequence is
    returned as it is.
    """
    if not variant.is_sequence:
        return variant
    ref, alt = variant.ref.upper(), variant.alt.upper()
    if ref == alt:
        return replace(variant, ref=ref, alt=alt)
    shortest = min(len(ref), len(alt)) - 1
    tail = _shared(ref[::-1], alt[::-1], shortest)
    ref, alt = ref[: len(ref) - tail], alt[: len(alt) - tail]
    head = _shared(ref, alt, shortest - tail)
    return Variant(variant.contig, variant.position + head, ref[head:], alt[head:])


def left_align(variant: Variant, genome: Genome) -> Variant:
    """Trim a variant and move an insertion or deletion as far left as it goes (Tan et al. 2015).

    REF must be the genome's (`check` says so); a variant of other kinds is only trimmed.

    Raises:
        ContigError: The genome has no such contig.
    """
    variant = trim(variant)
    ref, alt, position = variant.ref, variant.alt, variant.position
    if not variant.is_sequence or ref == alt or len(ref) == len(alt):
        return variant
    left, left_start = "", position  # genome before the alleles
    while ref[-1] == alt[-1]:
        if min(len(ref), len(alt)) == 1:
            if not left:
                left, left_start = genome.fetch_clipped(
                    variant.contig, left_start - _STRIDE, left_start
                )
            if not left or left[-1] == "N":
                break
            ref, alt, left, position = left[-1] + ref, left[-1] + alt, left[:-1], position - 1
        ref, alt = ref[:-1], alt[:-1]
    return trim(Variant(variant.contig, position, ref, alt))


def check(variant: Variant, genome: Genome, flank: int = 8000) -> Status:
    """Say whether an ALT as it stands in a VCF can be scored, and if not, why.

    REF is looked up in the genome. After trimming, alleles have up to `flank` bp.
    """
    if variant.alt in ("", "."):
        return Status.MISSING_ALT
    contig = genome.find(variant.contig)
    if contig is None:
        return Status.NO_CONTIG
    ref, alt, end = variant.ref.upper(), variant.alt.upper(), variant.end
    if not 0 <= variant.position <= end <= genome.length(contig):
        return Status.OUT_OF_BOUNDS
    if not _SEQUENCE.fullmatch(variant.ref):
        return Status.AMBIGUOUS_BASE
    if not _SEQUENCE.fullmatch(variant.alt):
        return Status.SYMBOLIC
    if ref == alt:
        return Status.NON_VARIANT
    if max(len(ref), len(alt)) > flank:  # trimming makes alleles only shorter
        trimmed = trim(variant)
        if max(len(trimmed.ref), len(trimmed.alt)) > flank:
            return Status.TOO_LONG
    bases, _ = genome.fetch_clipped(contig, variant.position, end)
    if "N" in bases or not (_BASES.fullmatch(variant.ref) and _BASES.fullmatch(variant.alt)):
        return Status.AMBIGUOUS_BASE
    return Status.OK if bases == ref else Status.REF_MISMATCH


def windows(variant: Variant, genome: Genome, before: int, after: int) -> tuple[Window, Window]:
    """Return the genome around a variant with REF and with ALT, both windows equally long.

    They are asked about the first base of the allele. It lies `before` bases into the window, so of
    a window of `before + after` bases. Windows are clipped at the ends of the contig, never padded.
    That of the shorter allele makes up for it with more genome on its right, at the end of the
    contig on its left; where the contig has no more bases it is shorter. An allele longer than
    `after` is cut.
    On a genome that has ALT, the same variant with REF and ALT exchanged has the same two windows.

    Raises:
        ContigError: The genome has no such contig.
        OutOfBoundsError: REF does not lie on the contig.
    """
    contig = genome.resolve(variant.contig)
    if not 0 <= variant.position <= variant.end <= genome.length(contig):
        raise OutOfBoundsError(
            f"{variant} does not lie on {contig} ({genome.length(contig):,} bp); "
            "is the variant from another assembly?"
        )
    more = abs(len(variant.ref) - len(variant.alt))
    text, start = genome.fetch_clipped(
        contig, variant.position - before - more, variant.position + after + more
    )
    at = variant.position - start  # offset of the variant in text
    tail = text[at + len(variant.ref) :]
    rights = [(allele + tail)[:after] for allele in (text[at:][: len(variant.ref)], variant.alt)]
    length = min(before, at) + max(map(len, rights))
    ref, alt = (
        Window(text[at - left : at] + right.upper(), left)
        for right in rights
        for left in [min(at, length - len(right))]
    )
    return ref, alt


def hint(text: str) -> str:
    """Say what to do about a text that is no variant; empty where nothing is known of it."""
    if _RSID.fullmatch(text.strip()):
        return "genobird has no list of dbSNP; give the place and the alleles of an rs number"
    if len(text) > _MOST_LETTERS:
        return ""
    if (match := _TEXT.fullmatch(text.strip())) and grouped(match["position"]) == 0:
        return "positions are 1-based, the first base is 1"
    return BASE_BEFORE if _GAP.fullmatch(text.strip()) else ""


def _shared(first: str, second: str, most: int) -> int:
    count = 0
    while count < most and first[count] == second[count]:
        count += 1
    return count
