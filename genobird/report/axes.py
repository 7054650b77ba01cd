"""Drawings for notebooks: a region's tracks, a variant's logos, as axes of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from genobird.columns import REGION_KEYS
from genobird.errors import UsageError, counted
from genobird.genome.fasta import Genome
from genobird.report.logo import COLOURS, draw_alleles
from genobird.report.plots import LITERAL, short
from genobird.report.scored import sides_of
from genobird.report.summary import summarise_variants
from genobird.scoring.alleles import Variants
from genobird.scoring.inputs import Region, region_of
from genobird.scoring.mutagenesis import TOP
from genobird.scoring.regions import bins_of, site_frames
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.sites import sites_of

MOST_BP = 100_000
"""Longest region; every 200 bp cost one window."""


def plot_region(
    scorer: Scorer,
    region: Region,
    fasta: Path | str | Genome,
    *,
    features: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw what is predicted along a region: the probabilities of each of its 200-bp bins.

    Args:
        scorer: the model.
        region: an interval, 0-based half-open, or text as `chr20:54,930,000-54,940,000`, 1-based.
        fasta: the genome.
        features: columns, names or classes of the chromatin head, beside the promoter; None is the
            `TOP` with the largest mean in the region.
        axes: where to draw; None is a new figure of pyplot.

    Raises:
        UsageError: the region is too long, or not on the genome; a feature is unknown.
    """
    interval = region_of(region)
    if interval.length > MOST_BP:
        raise UsageError(f"{interval} is {interval.length:,} bp; up to {MOST_BP:,} are allowed")
    with opened(fasta) as genome:
        bins = list(bins_of([interval], genome))
        if not bins:
            raise UsageError(f"{interval} is not on the genome; check contig and positions")
        table = pd.concat(site_frames(scorer, sites_of(bins, genome), features), ignore_index=True)
    values = table.drop(columns=list(REGION_KEYS))
    if features is None:
        best = values[scorer.features].mean().nlargest(TOP).index
        values = values[[name for name in values if name in best or name not in scorer.features]]
    edges = np.append(table["start"], table["end"].iloc[-1])
    with mpl.rc_context(LITERAL):
        axes = plt.subplots(figsize=(9, 2.8), layout="constrained")[1] if axes is None else axes
        for name in values:
            axes.stairs(values[name], edges, label=short(str(name)))
        axes.set(xlabel=f"{short(interval.contig)}, 0-based", ylabel="probability", ylim=(0, 1))
        axes.xaxis.label.set_parse_math(False)  # of axes that were made before
        axes.set_xlim(interval.start, max(interval.end, interval.start + 1))
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def plot_variant(
    scorer: Scorer, variant: Variants, fasta: Path | str | Genome, *, feature: str | None = None
) -> tuple[Axes, Axes]:
    """Draw which bases around a variant make what is predicted for REF, and for ALT.

    A letter is as high as its base matters: minus the mean change of the logit when it is replaced.

    Args:
        scorer: the model.
        variant: one, in any form that `screen_variants` takes.
        fasta: the genome.
        feature: an output; None is the feature that the variant changes most.

    Returns:
        The axes of REF and of ALT, in a new figure of pyplot.

    Raises:
        UsageError: not one variant, one that cannot be scored, or an unknown feature.
    """
    with opened(fasta) as genome:
        table = scorer.screen_variants(variant, genome)
        if len(table) != 1 or table["status"].iloc[0] != "OK":
            found = f"{counted(len(table), 'variant')} found ({', '.join(table['status'][:3])})"
            raise UsageError(f"{found}; one that is OK is wanted")
        row = summarise_variants([table], 1).top.to_dict("records")[0]
        sides = sides_of(scorer, row, genome, feature or str(row["feature"]))
        strips = [side.strip() for side in sides]
    with mpl.rc_context(LITERAL):
        figure, grid = plt.subplots(2, figsize=(6, 2.4), layout="constrained")
        draw_alleles(grid, strips, COLOURS)
        figure.suptitle(short(f"{row['chrom']}:{row['pos']:,} {sides[0].scan.names[0]}"))
    return grid[0], grid[1]
