"""The report of tables that have just been made, with the model and the genome still open.

Logos of the alleles of a variant show which bases around it make what is predicted. A logo costs
three windows per base and allele, so they are drawn of a few variants and a few bases. Curves along
the locus (`curves`) cost one per allele, or a few per region.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

import genobird
from genobird.errors import counted
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus
from genobird.genome.variant import left_align
from genobird.report.curves import locus_curves, variant_of, windows_of
from genobird.report.logo import Strip, pair, unit_of
from genobird.report.page import Key, report
from genobird.report.summary import is_turned
from genobird.scoring.mutagenesis import BASES, Scan, duration, scan_site
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.sites import Site

logger = logging.getLogger(__name__)

SPAN = 10
"""Bases on each side of a variant that its logos show."""
CURVES = 5
"""Regions, or variants, that get curves."""
_LONGEST = 40  # letters of one allele with its surroundings
_OK = RegionStatus.OK


def write_report(
    output: Path,
    scorer: Scorer,
    genome: Genome,
    command: str,
    *,
    regions: Path | None = None,
    variants: Path | None = None,
    logos: int = 0,
    curves: int = CURVES,
    force: bool = False,
) -> None:
    """Write the report of tables that a model has just made of a genome; see `page.report`.

    A model of neither promoters nor profiles nor a table has no pictures. Regions were not lifted.
    """
    parts = scorer.checkpoint
    is_drawn = any(head is not None for head in (parts.promoter, parts.chromatin, parts.table))
    facts = {
        "genome": f"{genome.path.name}, {genome.assembly or 'unknown assembly'}",
        "model": f"{scorer.model_hash or 'unsaved'}, on {scorer.device}",
        "command": command,
        "version": genobird.__version__,
    }
    report(
        output,
        regions=regions,
        variants=variants,
        logos=logos,
        draw=partial(allele_logos, scorer, fasta=genome) if is_drawn else None,
        curves=curves,
        trace=partial(locus_curves, scorer, fasta=genome) if is_drawn else None,
        facts=facts,
        force=force,
    )


def allele_logos(
    scorer: Scorer, rows: pd.DataFrame, fasta: Path | str | Genome
) -> Iterator[tuple[Key, str]]:
    """Draw logos of REF and ALT, for the feature that leads each.

    Rows are of `VariantSummary.top`; the genome is theirs, or that they were lifted to.

    Yields:
        `(record, allele)` and SVG, as soon as it is drawn.
    """
    with opened(fasta) as genome:
        found = [
            (row, sides_of(scorer, row, genome, str(row["feature"])))
            for row in rows.to_dict("records")
        ]
        windows = [sum(side.scan.size for side in sides) for _, sides in found]
        each = found[0][1][0].scan.seconds() / found[0][1][0].scan.size if found else 0.0
        for place, (row, sides) in enumerate(found):
            left = sum(windows[place:])
            of = f"logo {place + 1} of {len(found)}"
            logger.info("%s: %s left, %s", of, counted(left, "window"), duration(left * each))
            began = time.monotonic()
            unit = unit_of(str(row["feature"]))
            logos = pair([side.strip() for side in sides], _title(row), unit)
            yield (row["record"], row["allele"]), logos
            each = (time.monotonic() - began) / windows[place]


@dataclass(frozen=True, eq=False)
class Side:
    """One allele with the bases around it."""

    label: str
    scan: Scan
    mark: tuple[int, int]
    """The bases of the allele, in the scan."""
    is_turned: bool = False
    """Whether the table has the variant on the other strand."""

    def strip(self) -> Strip:
        """Compute what changing its bases does; they read as the table has the variant."""
        strip = Strip(self.scan.bases, self.scan.deltas()[:, :, 0], self.label, self.mark)
        return strip.turned() if self.is_turned else strip


def sides_of(scorer: Scorer, row: Mapping[Any, Any], genome: Genome, feature: str) -> list[Side]:
    """Prepare both alleles of a row of a table in the windows that the variant was scored in."""
    variant, turned = left_align(variant_of(row), genome), is_turned(row)
    is_anchored = len(variant.ref) != len(variant.alt) and variant.ref[0] == variant.alt[0]
    shift = int(turned and is_anchored)  # the table has an indel's anchor at its other end
    with_ref, with_alt = windows_of(variant, genome)
    # Of two bases: one would name a start, and a variant is asked about the likeliest near it.
    at = Interval(variant.contig, variant.position, variant.position + 2)
    ref = _side(scorer, Site(at, _OK, *with_ref), shift, len(variant.ref), feature)
    at = replace(at, strand=ref[0].strand or ".")
    alt = _side(scorer, Site(at, _OK, *with_alt), shift, len(variant.alt), feature)
    return [Side("REF", *ref, turned), Side("ALT", *alt, turned)]


def _side(
    scorer: Scorer, site: Site, shift: int, length: int, feature: str
) -> tuple[Scan, tuple[int, int]]:
    """Return the bases around an allele, ready to be changed, and which of them are its own."""
    centre = site.centre + shift
    before = _known(site.text[max(0, centre - SPAN) : centre][::-1])
    first = centre - before
    end = min(centre + length + SPAN, first + _LONGEST)
    known = before + _known(site.text[centre:end])
    return scan_site(scorer, site, first, known, [feature]), (before, min(before + length, known))


def _known(bases: str) -> int:
    """Count the bases up to the first N."""
    return sum(1 for _ in takewhile(lambda base: base in BASES, bases))


def _title(row: Mapping[Any, Any]) -> str:
    return f"Bases around {row['chrom']}:{row['pos']} that matter for {row['feature']}"
