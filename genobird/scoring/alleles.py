"""ALTs to score, read from any kind of input, and what to do where REF is not the genome's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd

from genobird.errors import TableError, UsageError
from genobird.genome.variant import Variant, parse_variant
from genobird.genome.vcf import VcfReader

COLUMNS = ("chrom", "pos", "ref", "alt")


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


Variants = Path | str | pd.DataFrame | Iterable[Variant | str]


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


def read_alleles(variants: Variants) -> Iterator[Allele]:
    """Yield each ALT of variants of any kind; see `screen_variants`."""
    if isinstance(variants, str | Path):
        with VcfReader(variants) as reader:
            for record in reader:
                yield from alleles_of(record.number, record.variants())
    elif isinstance(variants, pd.DataFrame):
        yield from _from_frame(variants)
    else:
        for number, variant in enumerate(variants):
            read = variant if isinstance(variant, Variant) else parse_variant(variant)
            yield from alleles_of(number, [read])


def alleles_of(record: int, variants: Sequence[Variant]) -> Iterator[Allele]:
    """Number the ALTs of a record."""
    for number, variant in enumerate(variants, start=1):
        yield Allele(record, 0 if variant.alt in (".", "") else number, variant)


def _from_frame(frame: pd.DataFrame) -> Iterator[Allele]:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise TableError(
            f"the variants have no column {', '.join(missing)}; needed are chrom, pos (1-based), "
            "ref and alt"
        )
    columns = (frame[name].tolist() for name in COLUMNS)
    for number, (chrom, pos, ref, alt) in enumerate(zip(*columns, strict=True)):
        try:
            position = int(pos) - 1
        except (TypeError, ValueError):
            raise TableError(f"row {number} of the variants: pos {pos!r} is no number") from None
        alts = ["."] if pd.isna(alt) else str(alt).split(",")
        variants = [Variant(str(chrom), position, str(ref), one) for one in alts]
        yield from alleles_of(number, variants)
