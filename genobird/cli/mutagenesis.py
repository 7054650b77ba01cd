"""The verb mutagenesis."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

import genobird
from genobird.cli.options import (
    BatchSize,
    Device,
    Fasta,
    Force,
    Json,
    Model,
    Precision,
    Quiet,
    TableOutput,
    Threads,
)
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    split_names,
    summarise,
)
from genobird.files import locked
from genobird.scoring.table import TableWriter, check_output

logger = logging.getLogger(__name__)

# A scan that takes less is not worth an estimate, which costs one window more.
_SOON = 60


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(mutagenesis)


def mutagenesis(
    region: Annotated[
        str, typer.Argument(help="1-based region, with or without strand: chr20:1,001-1,200:+.")
    ],
    fasta: Fasta,
    output: TableOutput,
    logo: Annotated[
        Path | None, typer.Option(help="Sequence logo and heat map of each output: .svg or .png.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Outputs, separated by commas: promoter, chromatin columns, cells, targets or "
            "classes; default: promoter and the five chromatin features predicted highest there."
        ),
    ] = None,
    form: Annotated[
        str, typer.Option(help="long: one row per change and output; wide: one row per change.")
    ] = "long",
    max_bp: Annotated[
        int, typer.Option(min=1, help="Longest region; each base costs three windows.")
    ] = 2_000,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    precision: Precision = "float32",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Change every base of a region to the three others and predict the effects.

    Effects are on the midpoint of the region (chromatin: the 200 bp around it; promoter: a
    transcription start there, along the strand), whichever base is changed. Values are logits.
    """
    refuse_same_file({"--output": output, "--logo": logo}, {"--fasta": fasta})
    check_output(output, force=force)
    if logo is not None:
        from genobird.report.logo import check_logo

        check_logo(logo, force)
    from genobird.genome.interval import parse_region

    interval = parse_region(region)
    from genobird.scoring.mutagenesis import check_form, duration, prepare, write_mutagenesis

    check_form(form)
    began = time.monotonic()
    with open_genome(fasta) as genome:
        genome.fetch(interval)
        scorer = open_scorer(model, device, batch_size, threads, precision)
        scan = prepare(scorer, interval, genome, features=split_names(features), most_bp=max_bp)
    if not quiet and scan.size > _SOON:
        logger.info("%s windows, %s", f"{scan.size:,}", duration(scan.seconds()))
    meta = {"version": genobird.__version__, "model": scorer.model_hash, "command": command_line()}
    with locked(output, *([] if logo is None else [logo])):
        with (
            TableWriter(output, force=force, meta=meta) as writer,
            progress_of("bases", scan.length, quiet) as advance,
        ):
            chosen = cast(Literal["long", "wide"], form)
            table = write_mutagenesis(scan, writer, chosen, advance)
        if logo is not None:
            from genobird.report.logo import draw_logo

            draw_logo(table, logo, force=force)
    summary = {"region": str(interval), "outputs": scan.names, "output": output}
    if logo is not None:
        summary["logo"] = str(logo)
    summarise("changes", summary, Counter(OK=scan.size), scorer, began, output, quiet, as_json)
