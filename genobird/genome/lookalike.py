"""What a file is that was taken for variants or regions, told by its first bytes."""

from __future__ import annotations

import re
from typing import Final

from genobird.genome.position import whole

BASE_BEFORE: Final = (
    "give the base before, as VCF does: where GA at 999 loses its A, chr20:999:GA>G"
)
"""What to do about an allele `-`, as MAF and ANNOVAR write it."""

_AGAIN = "a web page instead of data: download it again"
_AS_TEXT = "save it as text with its columns separated by tabs"
_MAF = (
    "a MAF: convert it to VCF, or to a table with the columns chrom, pos, ref and alt, and "
    f"where an allele is - {BASE_BEFORE}"
)
_LOOKED_AT = 1 << 14  # bytes
_KINDS: Final = (
    (rb"PK\x03\x04|\xd0\xcf\x11\xe0", f"an Excel file or an archive: {_AS_TEXT}"),
    (rb"PAR1", f"a Parquet file: {_AS_TEXT}"),
    (rb"BAM\x01|CRAM", "aligned reads: call variants first"),
    (rb"\s*<(!doctype|html|\?xml)", _AGAIN),
    (rb">", "FASTA: that goes to --fasta"),
    (rb"@[^\n]*\r?\n[A-Za-z.]+\r?\n\+", "FASTQ: call variants first"),
    (rb"(#[^\n]*\n)*[^\n]*(Hugo_Symbol|Tumor_Seq_Allele)", _MAF),
    (rb"##fileformat=VCF(?!.*^#CHROM )", "a VCF: variants are scored by genobird variants"),
)
_PATTERNS: Final = [(re.compile(kind, re.I | re.S | re.M), what) for kind, what in _KINDS]
_ALLELE = re.compile(r"[ACGT,]+|-+", re.IGNORECASE)


def kind_of(start: bytes) -> str:
    """Say what a file is and what to do; empty where it is nothing known."""
    start = start[:_LOOKED_AT]
    if not start.strip():
        return "it is empty"
    for pattern, what in _PATTERNS:
        if pattern.match(start):
            return f"it is {what}"
    if b"\r" in start and b"\n" not in start:
        return "its lines end as on an old Mac: convert them: tr '\\r' '\\n'"
    if re.search(rb"^#?chrom(osome)?;", start, re.I | re.M):
        return "its columns are separated by semicolons: separate them by tabs or commas"
    if re.search(rb"^#CHROM +POS", start, re.M):
        return "its columns are separated by spaces: VCF needs tabs"
    return ""


def without_header(start: bytes) -> str:
    """Say what a file without a header is, by its first row; empty where it is nothing known."""
    lines = start[:_LOOKED_AT].decode("utf-8", "replace").splitlines()
    cells = next((line.split() for line in lines if line[:1] not in ("", "#")), [])
    places = [whole(cell) is not None for cell in cells[1:3]]
    if len(cells) > 4 and all(places) and all(map(_ALLELE.fullmatch, cells[3:5])):
        return (
            "it looks like input of ANNOVAR: begin it with a line of columns, chrom pos end ref "
            f"alt, and where an allele is - {BASE_BEFORE}"
        )
    if places == [True, True]:
        return "it looks like BED: regions are scored by genobird score"
    if len(cells) > 3 and places[0] and all(map(_ALLELE.fullmatch, cells[-2:])):
        return "it looks like a table: begin it with a line that names chrom, pos, ref and alt"
    return ""
