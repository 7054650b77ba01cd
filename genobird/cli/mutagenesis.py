"""The verb mutagenesis."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, cast

from genobird.cli.options import FASTA, MODEL, NAMED, TABLE, Compute, Names, Run
from genobird.cli.running import (
    open_genome,
    open_scorer,
    origin,
    progress_of,
    refuse_same_file,
    summarise,
)
from genobird.config import Settings, argument, option
from genobird.files import PICTURES, TABLES, check_output, locked
from genobird.genome.interval import parse_region
from genobird.names import deferred

with deferred():
    from genobird.report import logo as logos
    from genobird.scoring import mutagenesis as scans
    from genobird.scoring import table as tables

logger = logging.getLogger(__name__)

# A scan that takes less is not worth an estimate, which costs one window more.
_SOON = 60


class MutagenesisOptions(Settings):
    """Which region is scanned, by what, and where the effects go."""

    region: str = argument("1-based region, with or without strand: chr20:1,001-1,200:+.")
    fasta: Path = FASTA
    output: Annotated[str, NAMED] = TABLE
    logo: Path | None = option("Sequence logo and heat map of each output: .svg or .png.")
    features: Names = option(
        "Outputs, separated by commas: promoter, chromatin columns, cells, targets or classes; "
        "default: promoter and the five chromatin features predicted highest there."
    )
    form: str = option(
        "long: one row per change and output; wide: one row per change.", default="long"
    )
    max_bp: int = option("Longest region; each base costs three windows.", ge=1, default=2_000)
    model: Path | None = MODEL


def mutagenesis(options: MutagenesisOptions, compute: Compute, run: Run) -> None:
    """Change every base of a region to the three others and predict the effects.

    Effects are on the midpoint of the region (chromatin: the 200 bp around it; promoter: a
    transcription start there, along the strand), whichever base is changed. Values are logits.
    """
    output, logo = options.output, options.logo
    refuse_same_file({"--output": output, "--logo": logo}, {"--fasta": options.fasta})
    check_output(output, TABLES, run.force, stdout=True)
    if logo is not None:
        check_output(logo, PICTURES, run.force)
    interval = parse_region(options.region)
    scans.check_form(options.form)
    form = cast(Literal["long", "wide"], options.form)
    began = time.monotonic()
    with open_genome(options.fasta) as genome:
        genome.fetch(interval)
        scorer = open_scorer(options.model, compute, compute.precision)
        scan = scans.prepare(
            scorer, interval, genome, features=options.features, most_bp=options.max_bp
        )
    if not run.quiet and scan.size > _SOON:
        logger.info("%s windows, %s", f"{scan.size:,}", scans.duration(scan.seconds()))
    summary = {"region": str(interval), "outputs": scan.names, "output": output}
    with locked(output, *([] if logo is None else [logo])):
        with (
            tables.TableWriter(output, force=run.force, meta=origin(scorer)) as writer,
            progress_of("bases", scan.length, run.quiet) as advance,
        ):
            table = scans.write_mutagenesis(scan, writer, form, advance)
        if logo is not None:
            logos.draw_logo(table, logo, force=run.force)
            summary["logo"] = str(logo)
    summarise("changes", summary, Counter(OK=scan.size), scorer, run, began)
