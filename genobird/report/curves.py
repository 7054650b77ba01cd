"""Curves along a locus: probabilities around a variant, with REF and with ALT, and around a region.

A window is asked about many places. A region that is longer than what is drawn around one window is
drawn from several, side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.columns import PROMOTER, VARIANT_LIFTED
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, Window, left_align, windows
from genobird.heads import POSITIVE_WEIGHT, Head, probabilities
from genobird.report.page import Key, feature_label, keys_of, region_text
from genobird.report.plots import Line, panels
from genobird.report.summary import is_turned
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.sites import site_of
from genobird.scoring.windows import CHROMATIN_FLANK, STRANDS

Places = NDArray[np.int64]
Doubles = NDArray[np.float64]

LOCUS_BP, _STEP_BP = 1_500, 50
"""Bases on each side of its middle that a window is asked about, and between two places of it."""
_FLANK = 200
"""Bases on each side of a region that are drawn at least."""
_LEADING = 3
"""Chromatin features that are drawn of a region: those that are highest at its midpoint."""
_SIGNS = {"+": "+", "-": "\N{MINUS SIGN}"}
_PLACES: Places = np.arange(-LOCUS_BP, LOCUS_BP + 1, _STEP_BP)
_FEWER: Places = _PLACES[::2]  # of a region: a promoter costs several times what a feature costs


def variant_of(row: Mapping[Any, Any]) -> Variant:
    """Return the variant of a row of a table, on the genome that it was scored on."""
    ref, alt = str(row["ref"]).upper(), str(row["alt"]).upper()
    if VARIANT_LIFTED[0] not in row:
        return Variant(str(row["chrom"]), int(row["pos"]) - 1, ref, alt)
    contig, pos = (row[name] for name in VARIANT_LIFTED[:2])
    if is_turned(row):
        ref, alt = reverse_complement(ref), reverse_complement(alt)
    return Variant(str(contig), int(pos) - 1, ref, alt)


def windows_of(variant: Variant, genome: Genome) -> tuple[Window, Window]:
    """Return the windows of REF and ALT in which chromatin is scored."""
    return windows(variant, genome, CHROMATIN_FLANK, CHROMATIN_FLANK)


def profiles_of(
    scorer: Scorer, row: Mapping[Any, Any], genome: Genome, feature: str
) -> dict[str, Line]:
    """Predict a chromatin feature along the locus, with either allele of a row of a table.

    Returns:
        `REF` and `ALT` -> bases from POS, along the strand on which the row has the variant and
        where the genome has them, and the probability there; empty for an output that is no
        chromatin feature, or is not read at places.
    """
    if feature not in scorer.features or not _reads_places(scorer.checkpoint.chromatin):
        return {}
    written = variant_of(row)
    variant = left_align(written, genome)
    alleles = {"REF": variant.ref, "ALT": variant.alt}
    pos = written.end - 1 if is_turned(row) else written.position  # the base that POS names
    step = -1 if is_turned(row) else 1
    lines: dict[str, Line] = {}
    for (name, allele), window in zip(alleles.items(), windows_of(variant, genome), strict=True):
        beyond = len(allele) <= _PLACES
        is_in_genome = beyond | (len(variant.ref) > _PLACES)  # not within an insertion
        kept = is_in_genome & _lie_in(window, _PLACES)
        [found] = _chromatin(scorer, window, _PLACES[kept], [feature])
        across = _PLACES + beyond * (len(variant.ref) - len(allele))
        across = step * (variant.position + across[kept] - pos)
        lines[name] = across[::step].tolist(), found[::step].tolist()
    return lines


def region_lines(
    scorer: Scorer, interval: Interval, genome: Genome, features: Sequence[str]
) -> dict[str, Line]:
    """Predict promoters and chromatin features along a region and around it.

    Args:
        scorer: the model.
        interval: on the genome; promoters are asked about along its strand, without one along both.
        genome: where it lies.
        features: chromatin columns.

    Returns:
        Promoters of each strand, then the features -> bases from the midpoint along the forward
        strand, where the genome has them, and the probability there. At the midpoint these are the
        numbers that the region is scored with.
    """
    strands = STRANDS if interval.strand == "." else interval.strand
    if not _reads_places(scorer.checkpoint.promoter):
        strands = ""
    promoters = {f"{PROMOTER}, {_SIGNS[strand]} strand": strand for strand in strands}
    if not _reads_places(scorer.checkpoint.chromatin):
        features = []
    lines: dict[str, tuple[list[float], list[float]]] = {
        name: ([], []) for name in (*promoters, *features)
    }

    def extend(name: str, across: Places, up: Doubles) -> None:
        lines[name][0].extend(across.tolist())
        lines[name][1].extend(up.tolist())

    for middle in _middles(interval):
        site = site_of(Interval(interval.contig, middle, middle + 1), genome)
        if site.status is not RegionStatus.OK:
            continue
        away = middle - interval.midpoint
        for name, strand in promoters.items():
            step, window = 1 if strand == "+" else -1, site.promoter(strand)
            here = _FEWER[_lie_in(window, step * _FEWER)]
            at = window.place + step * here
            logits = scorer.promoter_logits([window.text], [at], near=interval.length > 1)
            extend(name, away + here, probabilities(logits))
        if features:
            window = Window(site.text, site.centre)
            here = _FEWER[_lie_in(window, _FEWER)]
            for name, up in zip(features, _chromatin(scorer, window, here, features), strict=True):
                extend(name, away + here, up)
    return dict(lines)


def locus_curves(
    scorer: Scorer, rows: pd.DataFrame, fasta: Path | str | Genome
) -> Iterator[tuple[Key, str]]:
    """Draw the loci of the first rows of a summary.

    A region has promoters and the features that are highest at it, a variant its leading feature.
    The genome is theirs, or that variants were lifted to; regions were not lifted.

    Yields:
        The key of each and SVG, as soon as it is drawn; empty where there is nothing to draw.
    """
    features = [name for name in rows if name in scorer.features]
    with opened(fasta) as genome:
        for key, row in zip(keys_of(rows), rows.to_dict("records"), strict=True):
            if "record" in row:
                yield key, _variant_curves(scorer, row, genome)
            else:
                leading = sorted(features, key=lambda name: -row[name])[:_LEADING]
                yield key, _region_curves(scorer, row, genome, leading)


def _variant_curves(scorer: Scorer, row: Mapping[Any, Any], genome: Genome) -> str:
    feature = str(row["feature"])
    lines = profiles_of(scorer, row, genome, feature)
    return _drawn(lines, feature_label(feature), "bp from the variant")


def _region_curves(
    scorer: Scorer, row: Mapping[Any, Any], genome: Genome, features: Sequence[str]
) -> str:
    contig, start, end = str(row["chrom"]), int(row["start"]), int(row["end"])
    interval = Interval(contig, start, end, str(row["strand"]) or ".")
    lines = region_lines(scorer, interval, genome, features)
    named = {feature_label(name): line for name, line in lines.items()}
    own = interval.start - interval.midpoint, interval.end - interval.midpoint
    return _drawn(named, region_text(row), "bp from the midpoint", own)


def _middles(interval: Interval) -> list[int]:
    """Return the places whose windows are asked: the midpoint, and others where it is long."""
    beside = interval.length // 2 + _FLANK - LOCUS_BP
    count = max(0, -(-beside // (2 * LOCUS_BP)))
    middles = (interval.midpoint + 2 * LOCUS_BP * away for away in range(-count, count + 1))
    return [middle for middle in middles if middle >= 0]


def _reads_places(head: Head | None) -> bool:
    """Tell whether a head can be asked about several places of one window; [CLS] has none."""
    return head is not None and head.config.pool != "cls"


def _lie_in(window: Window, places: Places) -> NDArray[np.bool_]:
    """Tell which places, in bases from that of a window, lie in it."""
    at = window.place + places
    return (at >= 0) & (at < len(window.text))


def _chromatin(scorer: Scorer, window: Window, places: Places, features: Sequence[str]) -> Doubles:
    """Return probabilities of F features at P places, in bases from that of a window, [F, P]."""
    logits = scorer.profiles([window.text], [window.place + places])[0]
    chosen = [scorer.features.index(name) for name in features]
    return probabilities(logits[:, chosen], POSITIVE_WEIGHT).T


def _drawn(
    lines: Mapping[str, Line], title: str, x: str, shaded: tuple[float, float] | None = None
) -> str:
    """Draw probabilities along a locus; nothing of no lines."""
    if not lines:
        return ""
    is_point = any(len(across) == 1 for across, _ in lines.values())
    return panels({title: lines}, x=x, y="probability", unit=False, markers=is_point, shaded=shaded)
