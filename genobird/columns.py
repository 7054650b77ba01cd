"""Columns of tables of scores: what they are called wherever they are written, read or refused.

Keys come first, single values next, then the outputs: of a region one column each, of a variant
`<output>|ref`, `<output>|alt` and `<output>|delta`. Those of a table head begin with `table|`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FLAGS: Final = "flags"
VARIANT: Final = ("chrom", "pos", "ref", "alt")
VARIANT_KEYS: Final = (*VARIANT, "id", "record", "allele", "status", FLAGS)
REGION_KEYS: Final = ("chrom", "start", "end", "name", "strand", "status", FLAGS)
VARIANT_LIFTED: Final = ("lifted_chrom", "lifted_pos", "lifted_strand")
REGION_LIFTED: Final = ("lifted_chrom", "lifted_start", "lifted_end", "lifted_strand")
"""Where REF or a region was lifted to; after the keys, only with a chain file."""

EVALUE: Final = "evalue"
"""Only with a background, as `<output>|quantile`."""
GENE, GENE_DISTANCE = "gene", "gene_distance"
"""Only with a file of genes."""
TOP: Final = "top"
"""The chromatin feature that changes most; see `effects.relative_sizes`."""

PROMOTER, LLR = "promoter", "llr"
LLR_SE, DISTANCE = "llr|se", "embedding|distance"
QUANTILE: Final = "quantile"


def outputs_in(columns: Iterable[object]) -> list[str]:
    """Return the outputs of a table of variants, in order, by their columns `<output>|delta`."""
    names = map(str, columns)
    return [name.removesuffix("|delta") for name in names if name.endswith("|delta")]
