"""Logos of the alleles of a variant: which bases around it make what is predicted.

A logo costs three windows a base and allele, so they are drawn of a few variants and a few bases.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, left_align, windows
from genobird.report.logo import Strip, pair
from genobird.report.summary import LIFTED
from genobird.scoring.mutagenesis import BASES, Scan, duration, scan_site
from genobird.scoring.regions import RegionStatus, Site
from genobird.scoring.scorer import CHROMATIN_FLANK, Scorer, opened

logger = logging.getLogger(__name__)

SPAN = 10
"""Bases on each side of a variant that its logos show."""
_LONGEST = 40  # letters of one allele with its surroundings
_OK = RegionStatus.OK


def allele_logos(
    scorer: Scorer, top: pd.DataFrame, fasta: Path | str | Genome, count: int
) -> dict[tuple[int, int], str]:
    """Draw REF and ALT logos of the first variants of a summary, for the feature that leads each.

    Args:
        scorer: the model that the table was made with.
        top: of `VariantSummary`.
        fasta: the genome of the variants, or that they were lifted to.
        count: how many variants.

    Returns:
        `(record, allele)` -> SVG.
    """
    rows = top.head(count).to_dict("records")
    sides: dict[tuple[int, int], list[_Side]] = {}
    with opened(fasta) as genome:
        for row in rows:
            key = int(row["record"]), int(row["allele"])
            sides[key] = _sides(scorer, _variant(row), genome, str(row["feature"]))
    scans = [side.scan for both in sides.values() for side in both]
    if scans:
        size = sum(scan.size for scan in scans)
        seconds = scans[0].seconds() / scans[0].size * size
        logger.info(
            "logos of %d variant(s): %s windows, %s", len(rows), f"{size:,}", duration(seconds)
        )
    return {
        (record, allele): pair([side.strip() for side in both], _title(row))
        for row, ((record, allele), both) in zip(rows, sides.items(), strict=True)
    }


@dataclass(frozen=True, eq=False)
class _Side:
    """One allele with the bases around it."""

    label: str
    scan: Scan
    mark: tuple[int, int]
    """The bases of the allele, in the scan."""

    def strip(self) -> Strip:
        return Strip(self.scan.bases, self.scan.deltas()[:, :, 0], self.label, self.mark)


def _variant(row: Mapping[Any, Any]) -> Variant:
    """Return a variant on the genome that it was scored on."""
    ref, alt = str(row["ref"]).upper(), str(row["alt"]).upper()
    if LIFTED[0] not in row:
        return Variant(str(row["chrom"]), int(row["pos"]) - 1, ref, alt)
    contig, pos, strand = (row[name] for name in LIFTED)
    if strand == "-":
        ref, alt = reverse_complement(ref), reverse_complement(alt)
    return Variant(str(contig), int(pos) - 1, ref, alt)


def _sides(scorer: Scorer, variant: Variant, genome: Genome, feature: str) -> list[_Side]:
    """Prepare both alleles in the windows that the variant was scored in."""
    variant = left_align(variant, genome)
    window = windows(variant, genome, CHROMATIN_FLANK, CHROMATIN_FLANK)
    at = Interval(variant.contig, variant.position, variant.position + 1)
    ref = _side(scorer, "REF", Site(at, _OK, window.ref, window.ref_anchor), variant.ref, feature)
    at = replace(at, strand=ref.scan.strand or ".")
    alt = _side(scorer, "ALT", Site(at, _OK, window.alt, window.alt_anchor), variant.alt, feature)
    return [ref, alt]


def _side(scorer: Scorer, label: str, site: Site, allele: str, feature: str) -> _Side:
    before = _known(site.text[max(0, site.centre - SPAN) : site.centre][::-1])
    first = site.centre - before
    end = min(site.centre + len(allele) + SPAN, first + _LONGEST)
    length = before + _known(site.text[site.centre : end])
    scan = scan_site(scorer, site, first, length, [feature])
    return _Side(label, scan, (before, min(before + len(allele), length)))


def _known(bases: str) -> int:
    """Count the bases up to the first N."""
    return sum(1 for _ in takewhile(lambda base: base in BASES, bases))


def _title(row: Mapping[Any, Any]) -> str:
    return f"Bases around {row['chrom']}:{row['pos']} that matter for {row['feature']}"
