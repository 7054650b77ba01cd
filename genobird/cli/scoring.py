"""The verb score."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import genobird
from genobird.cli.options import (
    BatchSize,
    Device,
    Features,
    Force,
    Json,
    Liftover,
    Model,
    Precision,
    Quiet,
    Resume,
    TableOutput,
    Threads,
)
from genobird.cli.outputs import refuse_early
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    split_names,
    summarise,
)
from genobird.errors import UsageError
from genobird.files import locked
from genobird.scoring.table import ENDINGS, TableWriter, check_output

if TYPE_CHECKING:
    import pandas as pd

    from genobird.genome.chain import ChainFile
    from genobird.genome.fasta import Genome
    from genobird.genome.interval import Interval
    from genobird.scoring.journal import Journal, NoJournal
    from genobird.scoring.scorer import Scorer

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
    output: TableOutput,
    fasta: Annotated[
        Path | None, typer.Option("--fasta", "-f", help="The genome; not for FASTA regions.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    precision: Precision = "float32",
    features: Features = None,
    bigwig: Annotated[
        Path | None,
        typer.Option(
            help="Folder of bigWig tracks, one per output: the 200-bp bins that the regions touch, "
            "each scored as a region."
        ),
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", help="Regions off the genome get a status instead of an error."
        ),
    ] = False,
    liftover: Liftover = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score regions or sequences: promoter and chromatin probabilities around their midpoints."""
    inputs = {"the input": regions, "--fasta": fasta, "--liftover": liftover}
    refuse_same_file({"--output": output, "--bigwig": bigwig}, inputs)
    refuse_early(output, ENDINGS, force=force, resume=resume)
    from genobird.scoring.journal import kept, may_replace

    replace = may_replace(output, force=force, resume=resume)
    check_output(output, force=replace)
    fasta_regions = regions.lower().endswith(FASTA_ENDINGS)
    if fasta is None and not fasta_regions:
        raise UsageError("--fasta is missing; regions need the FASTA file of their genome")
    if bigwig is not None:
        from genobird.scoring.tracks import check_tracks, require_backend

        if fasta_regions or liftover is not None:
            raise UsageError(
                "--bigwig needs regions of the genome itself, not lifted: a BED file or a region "
                "string"
            )
        require_backend()
        check_tracks(bigwig, (), force)
    from genobird.genome.interval import read_intervals

    intervals = [] if fasta_regions else read_intervals(regions)
    if fasta_regions and liftover is not None:
        raise UsageError("--liftover is for regions of a genome, not for FASTA regions")
    genome = open_genome(regions if fasta_regions else fasta)
    from genobird.genome.build import warn_of_training
    from genobird.scoring.alleles import chain_file

    chain = chain_file(liftover)
    if not (fasta_regions or keep_going):
        from genobird.scoring.regions import require_on_genome

        require_on_genome(intervals, genome, chain)
    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads, precision)
    meta = {"version": genobird.__version__, "model": scorer.model_hash, "command": command_line()}
    chosen = split_names(features)
    if bigwig is not None:
        from genobird.scoring.tracks import outputs_of, track_paths

        check_tracks(bigwig, track_paths(bigwig, outputs_of(scorer, chosen)).values(), force)
    warn_of_training({} if fasta_regions else scorer.checkpoint.provenance, genome)
    from genobird.scoring.identity import identity_of

    with genome, locked(*([] if bigwig is None else [bigwig])):
        with (
            kept([output], identity_of(scorer, chosen), force=force, resume=resume) as journal,
            TableWriter(output, force=replace, meta=meta) as writer,
            progress_of("regions", None if fasta_regions else len(intervals), quiet) as advance,
        ):
            frames = _frames(scorer, genome, intervals, fasta_regions, chosen, chain, journal)
            from genobird.scoring.regions import write_scores

            counts = write_scores(frames, writer, advance)
            writer.finish()
            journal.seal()
        summary: dict[str, Any] = {"regions": counts.total(), "output": output}
        if bigwig is not None:
            tracks = _tracks(scorer, genome, intervals, chosen, bigwig, force, quiet)
            summary["tracks"] = [str(path) for path in tracks]
    summarise("regions", summary, counts, scorer, began, output, quiet, as_json)


def _tracks(
    scorer: Scorer,
    genome: Genome,
    intervals: Sequence[Interval],
    features: Sequence[str] | None,
    folder: Path,
    force: bool,
    quiet: bool,
) -> list[Path]:
    from genobird.scoring.tracks import bins_of, write_tracks

    bins = sum(1 for _ in bins_of(intervals, genome))
    with progress_of("bins", bins, quiet) as advance:
        return write_tracks(
            *(scorer, bins_of(intervals, genome), genome, folder),
            features=features,
            force=force,
            progress=advance,
        )


def _frames(
    scorer: Scorer,
    genome: Genome,
    intervals: Sequence[Interval],
    fasta_regions: bool,
    features: Sequence[str] | None,
    chain: ChainFile | None,
    journal: Journal | NoJournal,
) -> Iterator[pd.DataFrame]:
    from genobird.scoring.regions import region_frames, sequence_frames

    if fasta_regions:
        return sequence_frames(scorer, genome.stream(), features, journal=journal)
    return region_frames(scorer, intervals, genome, features, chain=chain, journal=journal)
