"""The report of tables that have just been made, with the model and the genome still open.

Pictures of the alleles of a variant show which bases around it make what is predicted, and where. A
logo costs three windows per base and allele, so they are drawn of a few variants and a few bases;
the profile along the locus costs one window per allele.
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

import numpy as np
import pandas as pd

import genobird
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, Window, left_align, windows
from genobird.heads import POSITIVE_WEIGHT
from genobird.report.logo import Strip, pair
from genobird.report.page import Key, feature_label, report
from genobird.report.plots import Line, panels
from genobird.report.summary import LIFTED, is_turned
from genobird.scoring.effects import probabilities
from genobird.scoring.mutagenesis import BASES, Scan, duration, scan_site
from genobird.scoring.regions import Site
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.windows import CHROMATIN_FLANK

logger = logging.getLogger(__name__)

SPAN = 10
"""Bases on each side of a variant that its logos show."""
_LONGEST = 40  # letters of one allele with its surroundings
LOCUS_BP, _STEP_BP = 1_500, 50
"""Bases on each side of a variant that its profile shows, and between two places of it."""
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
    force: bool = False,
) -> None:
    """Write the report of tables that a model has just made of a genome; see `page.report`.

    A model of neither promoters nor profiles has no logos.
    """
    parts = scorer.checkpoint
    is_drawn = parts.promoter is not None or parts.chromatin is not None
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
        facts=facts,
        force=force,
    )


def allele_logos(
    scorer: Scorer, rows: pd.DataFrame, fasta: Path | str | Genome
) -> Iterator[tuple[Key, str]]:
    """Draw logos and profiles of REF and ALT, for the feature that leads each.

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
            logger.info("%s: %s windows left, %s", of, f"{left:,}", duration(left * each))
            began = time.monotonic()
            logos = pair([side.strip() for side in sides], _title(row))
            yield (row["record"], row["allele"]), logos + _profiles(scorer, row, genome)
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


def _variant(row: Mapping[Any, Any]) -> Variant:
    """Return a variant on the genome that it was scored on."""
    ref, alt = str(row["ref"]).upper(), str(row["alt"]).upper()
    if LIFTED[0] not in row:
        return Variant(str(row["chrom"]), int(row["pos"]) - 1, ref, alt)
    contig, pos = (row[name] for name in LIFTED[:2])
    if is_turned(row):
        ref, alt = reverse_complement(ref), reverse_complement(alt)
    return Variant(str(contig), int(pos) - 1, ref, alt)


def profiles_of(
    scorer: Scorer, row: Mapping[Any, Any], genome: Genome, feature: str
) -> dict[str, Line]:
    """Predict a chromatin feature along the locus, with either allele of a row of a table.

    Returns:
        `REF` and `ALT` -> bases from POS, along the strand on which the row has the variant and
        where the genome has them, and the probability there; empty for an output that is no
        chromatin feature.
    """
    if feature not in scorer.features:
        return {}
    written = _variant(row)
    variant = left_align(written, genome)
    alleles = {"REF": variant.ref, "ALT": variant.alt}
    pos = written.end - 1 if is_turned(row) else written.position  # the base that POS names
    step = -1 if is_turned(row) else 1
    lines: dict[str, Line] = {}
    for (name, allele), (text, anchor) in zip(
        alleles.items(), _windows(variant, genome), strict=True
    ):
        places = np.arange(anchor - LOCUS_BP, anchor + LOCUS_BP + 1, _STEP_BP)
        beyond = places >= anchor + len(allele)
        is_in_genome = beyond | (places < anchor + len(variant.ref))  # not within an insertion
        kept = is_in_genome & (places >= 0) & (places < len(text))
        logits = scorer.profiles([text], [places[kept]])[0][:, scorer.features.index(feature)]
        across = places - anchor + beyond * (len(variant.ref) - len(allele))
        across = step * (variant.position + across[kept] - pos)
        found = probabilities(logits, POSITIVE_WEIGHT)
        lines[name] = across[::step].tolist(), found[::step].tolist()
    return lines


def _profiles(scorer: Scorer, row: Mapping[Any, Any], genome: Genome) -> str:
    """Draw the profiles of the leading feature, if it has any."""
    feature = str(row["feature"])
    lines = profiles_of(scorer, row, genome, feature)
    if not lines:
        return ""
    is_point = any(len(across) == 1 for across, _ in lines.values())
    return panels(
        {feature_label(feature): lines},
        x="bp from the variant",
        y="probability",
        unit=False,
        markers=is_point,
    )


def _windows(variant: Variant, genome: Genome) -> tuple[Window, Window]:
    return windows(variant, genome, CHROMATIN_FLANK, CHROMATIN_FLANK)


def sides_of(scorer: Scorer, row: Mapping[Any, Any], genome: Genome, feature: str) -> list[Side]:
    """Prepare both alleles of a row of a table in the windows that the variant was scored in."""
    variant, turned = left_align(_variant(row), genome), is_turned(row)
    is_anchored = len(variant.ref) != len(variant.alt) and variant.ref[0] == variant.alt[0]
    shift = int(turned and is_anchored)  # the table has an indel's anchor at its other end
    with_ref, with_alt = _windows(variant, genome)
    at = Interval(variant.contig, variant.position, variant.position + 1)
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
