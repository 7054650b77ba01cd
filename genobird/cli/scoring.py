"""The verb score."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import genobird
from genobird.cli.options import BatchSize, Device, Features, Force, Json, Model, Quiet, Threads
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    split_names,
    summarise,
)
from genobird.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from genobird.genome.fasta import Genome
    from genobird.genome.interval import Interval
    from genobird.scoring.scorer import Scorer

BED_ENDINGS = (".bed", ".bed.gz", ".bed.bgz")
FASTA_ENDINGS = tuple(
    f".{kind}{packing}" for kind in ("fa", "fasta", "fna") for packing in ("", ".gz", ".bgz")
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(score)


def score(
    regions: Annotated[
        str,
        typer.Argument(
            help="BED (0-based), FASTA (each record around its midpoint), - for BED on standard "
            "input, or one region, 1-based: chr20:1,000-2,000."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help=".tsv, .tsv.gz, .parquet or -.")],
    fasta: Annotated[
        Path | None, typer.Option("--fasta", "-f", help="The genome; not for FASTA regions.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    features: Features = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Regions off the genome get a status, not an error."),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score regions or sequences: promoter and chromatin probabilities around their midpoints."""
    from genobird.scoring.table import TableWriter, check_output

    check_output(output, force=force)
    fasta_regions = regions.lower().endswith(FASTA_ENDINGS)
    if fasta is None and not fasta_regions:
        raise UsageError("--fasta is missing; regions need the FASTA file of their genome")
    intervals = [] if fasta_regions else _intervals(regions)
    genome = open_genome(regions if fasta_regions else fasta)
    if not (fasta_regions or keep_going):
        from genobird.scoring.regions import require_on_genome

        require_on_genome(intervals, genome)
    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads)
    meta = {"version": genobird.__version__, "model": scorer.model_hash, "command": command_line()}
    with (
        genome,
        TableWriter(output, force=force, meta=meta) as writer,
        progress_of("regions", None if fasta_regions else len(intervals), quiet) as advance,
    ):
        frames = _frames(scorer, genome, intervals, fasta_regions, split_names(features))
        from genobird.scoring.regions import write_scores

        counts = write_scores(frames, writer, advance)
    summary = {"regions": counts.total(), "output": output}
    summarise("regions", summary, counts, scorer, began, output, quiet, as_json)


def _intervals(regions: str) -> list[Interval]:
    from genobird.genome.interval import parse_region, read_bed

    path = Path(regions)
    if regions == "-" or regions.lower().endswith(BED_ENDINGS) or path.exists():
        return list(read_bed(regions))
    return [parse_region(regions)]


def _frames(
    scorer: Scorer,
    genome: Genome,
    intervals: Sequence[Interval],
    fasta_regions: bool,
    features: Sequence[str] | None,
) -> Iterator[pd.DataFrame]:
    from genobird.scoring.regions import region_frames, sequence_frames

    if fasta_regions:
        return sequence_frames(scorer, genome.stream(), features)
    return region_frames(scorer, intervals, genome, features)
