"""Reporter constructs: two short sequences that differ in one allele, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.errors import ContigError, TableError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import normalise
from pipelines import steps

Floats = NDArray[np.float64]

COLUMNS = (
    *("ID", "chr", "pos", "ref_sequence", "alt_sequence"),
    *("LogSkew.Comb", "emVar_Hit", "Regulatory_Hit"),
)
FLANK = 8_100
"""Bases of genome on each side of the variant, as for a variant of a VCF."""
_SEARCH = 300  # bases around the stated place in which a construct is looked for


@dataclass(frozen=True, slots=True)
class Construct:
    """Two sequences that differ in one allele; its span is 0-based half-open in each."""

    ref: str
    alt: str
    ref_span: tuple[int, int]
    alt_span: tuple[int, int]

    @classmethod
    def of(cls, ref: str, alt: str) -> Construct:
        """Find the allele: what is left between the longest common head and tail."""
        most = min(len(ref), len(alt))
        head = next((i for i in range(most) if ref[i] != alt[i]), most)
        tail = next((i for i in range(most - head) if ref[-1 - i] != alt[-1 - i]), most - head)
        return cls(ref, alt, (head, len(ref) - tail), (head, len(alt) - tail))

    def inside(self, left: str, right: str) -> Construct:
        """Return the construct with sequence on both sides."""
        (a, b), (c, d), n = self.ref_span, self.alt_span, len(left)
        return Construct(
            left + self.ref + right, left + self.alt + right, (a + n, b + n), (c + n, d + n)
        )


def read_variants(path: Path) -> tuple[pd.DataFrame, list[Construct]]:
    """Read the table and the constructs of its variants; `-` stands for bases that are deleted.

    Raises:
        UsageError: there is no such file.
        TableError: a column is missing, or a value is.
        SequenceError: a construct is no DNA.
    """
    steps.require(path)
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError, EOFError) as error:
        raise TableError(f"{path} is no table of comma-separated columns: {error}") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise TableError(f"{path} has no column {missing[0]}; needed are {', '.join(COLUMNS)}")
    table = table[list(COLUMNS)]
    empty = table.columns[table.isna().any()]
    if len(empty):
        raise TableError(f"{path}: column {empty[0]} has empty cells")
    constructs = [
        Construct.of(*(normalise(text.replace("-", ""), f"{name} in {path}") for text in pair))
        for name, *pair in zip(
            table["ID"], table["ref_sequence"], table["alt_sequence"], strict=True
        )
    ]
    return table, constructs


def in_genome(
    table: pd.DataFrame, constructs: Sequence[Construct], genome: Genome
) -> list[Construct | None]:
    """Put the genome around constructs; None where it does not hold the construct at its place."""
    placed: list[Construct | None] = []
    for contig, pos, construct in zip(table["chr"], table["pos"], constructs, strict=True):
        try:
            text, start = genome.fetch_clipped(str(contig), int(pos) - _SEARCH, int(pos) + _SEARCH)
        except ContigError:
            placed.append(None)
            continue
        at = text.find(construct.ref)
        if at < 0 or "N" in construct.ref:
            placed.append(None)
            continue
        variant = start + at + construct.ref_span[0]
        left, _ = genome.fetch_clipped(str(contig), variant - FLANK, start + at)
        right, _ = genome.fetch_clipped(
            str(contig), start + at + len(construct.ref), variant + FLANK
        )
        placed.append(construct.inside(left, right))
    return placed


def gc_change(constructs: Sequence[Construct]) -> Floats:
    """Change of the GC content of each construct, ALT minus REF, [N]."""

    def share(text: str) -> float:
        return (text.count("G") + text.count("C")) / len(text)

    return np.array([share(c.alt) - share(c.ref) for c in constructs])


def alleles(part: Sequence[Construct]) -> tuple[list[str], list[int]]:
    """Return REF and ALT of each construct in turn, and the first base of the allele in each."""
    texts = [text for c in part for text in (c.ref, c.alt)]
    places = [
        min(span[0], len(text) - 1)
        for c in part
        for text, span in ((c.ref, c.ref_span), (c.alt, c.alt_span))
    ]
    return texts, places
