"""Variants scored into files, the options of a run as plain arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from genobird.runs import Start
from genobird.scoring import variant_table, variant_vcf
from genobird.scoring.alleles import Allele, Variants, opened_variants
from genobird.scoring.settings import ScanSettings

_OPTIONS = {field.name for field in fields(ScanSettings)}
_START = {field.name for field in fields(Start)}


def annotate_variants(*arguments: Any, settings: Any = None, **given: Any) -> Counter[str]:
    """`variant_vcf.annotate_variants`; what is not an option of the scan or run is its own."""
    options, start, rest = _parted(settings, given)
    return variant_vcf.annotate_variants(*arguments, settings=options, start=start, **rest)


def list_variants(*arguments: Any, settings: Any = None, **given: Any) -> Counter[str]:
    """`variant_table.list_variants`."""
    options, start, rest = _parted(settings, given)
    return variant_table.list_variants(*arguments, options, start, **rest)


def _parted(settings: Any, given: dict[str, Any]) -> tuple[ScanSettings, Start, dict[str, Any]]:
    if settings is not None:
        given = given | {"effects": settings}
    options = ScanSettings(**{key: given[key] for key in _OPTIONS & set(given)})
    start = Start(**{key: given[key] for key in _START & set(given)})
    return options, start, {key: given[key] for key in set(given) - _OPTIONS - _START}


def read_alleles(variants: Variants) -> Iterator[Allele]:
    """Each ALT of variants of any kind."""
    with opened_variants(variants) as source:
        yield from source
