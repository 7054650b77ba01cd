"""The verb score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from genobird.cli.options import (
    FEATURES,
    LIFTOVER,
    MODEL,
    NAMED,
    TABLE,
    Compute,
    Names,
    ResumableRun,
)
from genobird.cli.running import (
    open_genome,
    open_scorer,
    origin,
    progress_of,
    refuse_same_file,
    summarise,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import TABLES, check_folder, check_output, locked
from genobird.genome.interval import Interval, read_intervals
from genobird.names import deferred
from genobird.runs import Start, may_replace

if TYPE_CHECKING:
    from genobird.genome.chain import ChainFile
    from genobird.genome.fasta import Genome

with deferred():
    from genobird.genome import build
    from genobird.scoring import alleles, journal, regions, tracks
    from genobird.scoring import table as tables

FASTA_ENDINGS = tuple(
    f".{kind}{packing}" for kind in ("fa", "fasta", "fna") for packing in ("", ".gz", ".bgz")
)


class ScoreOptions(Settings):
    """Which regions are scored, by what, and where the scores go."""

    regions: str = argument(
        "BED (0-based), FASTA (each record around its midpoint), - for BED on standard input, or "
        "one region, 1-based: chr20:1,000-2,000."
    )
    output: Annotated[str, NAMED] = TABLE
    fasta: Path | None = option("The genome; not for FASTA regions.", "-f")
    model: Path | None = MODEL
    features: Names = FEATURES
    bigwig: Path | None = option(
        "Folder of bigWig tracks, one per output: the 200-bp bins that the regions touch, each "
        "scored as a region."
    )
    keep_going: bool = option(
        "Regions off the genome get a status instead of an error; not for FASTA regions.",
        default=False,
    )
    liftover: Path | None = LIFTOVER

    @property
    def of_fasta(self) -> bool:
        """Whether the regions are the records of a FASTA file."""
        return self.regions.lower().endswith(FASTA_ENDINGS)


def score(options: ScoreOptions, compute: Compute, run: ResumableRun) -> None:
    """Score regions or sequences: promoter and chromatin probabilities around their midpoints."""
    output, bigwig = options.output, options.bigwig
    inputs = {"the input": options.regions, "--fasta": options.fasta}
    inputs["--liftover"] = options.liftover
    refuse_same_file({"--output": output, "--bigwig": bigwig}, inputs)
    replace = may_replace(output, Start(run.resume, run.force))
    check_output(output, TABLES, replace, stdout=True)
    genome, intervals, chain = _opened(options)
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, compute.precision, run.processes)
    chosen = options.features
    if bigwig is not None:
        files = tracks.track_paths(bigwig, tracks.outputs_of(scorer, chosen)).values()
        check_folder(bigwig, files, run.force)
    build.warn_of_training({} if options.of_fasta else scorer.checkpoint.provenance, genome)
    start = Start(run.resume, run.force, processes=run.processes)
    with genome, locked(*([] if bigwig is None else [bigwig])):
        with (
            journal.kept([output], journal.identity_of(scorer, chosen), start) as kept,
            tables.TableWriter(output, force=replace, meta=origin(scorer)) as writer,
            progress_of("regions", len(intervals) or None, run.quiet) as advance,
        ):
            if options.of_fasta:
                frames = regions.sequence_frames(scorer, genome.stream(), chosen, journal=kept)
            else:
                frames = regions.region_frames(
                    *(scorer, intervals, genome, chosen), chain=chain, journal=kept
                )
            counts = regions.write_scores(frames, writer, advance)
            writer.finish()
            kept.seal()
        summary: dict[str, Any] = {"regions": counts.total(), "output": output}
        if bigwig is not None:
            number = sum(1 for _ in tracks.bins_of(intervals, genome))
            with progress_of("bins", number, run.quiet) as advance:
                paths = tracks.write_tracks(
                    *(scorer, tracks.bins_of(intervals, genome), genome, bigwig),
                    features=chosen,
                    force=run.force,
                    progress=advance,
                )
            summary["tracks"] = [str(path) for path in paths]
    summarise("regions", summary, counts, scorer, run, began)


def _opened(options: ScoreOptions) -> tuple[Genome, list[Interval], ChainFile | None]:
    """Open genome, regions and chain, and refuse what may be refused before torch is loaded."""
    of_fasta, liftover = options.of_fasta, options.liftover
    if options.fasta is None and not of_fasta:
        raise UsageError("--fasta is missing; regions need the FASTA file of their genome")
    if options.bigwig is not None:
        if of_fasta or liftover is not None:
            raise UsageError(
                "--bigwig needs regions of the genome itself, not lifted: a BED file or a region "
                "string"
            )
        tracks.require_backend()
        check_folder(options.bigwig)
    intervals = [] if of_fasta else read_intervals(options.regions)
    for name in ("fasta", "keep_going", "liftover") if of_fasta else ():
        if getattr(options, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for regions of a genome, not for FASTA regions")
    genome = open_genome(options.regions if of_fasta else options.fasta)
    chain = alleles.chain_file(liftover)
    if not (of_fasta or options.keep_going):
        regions.require_on_genome(intervals, genome, chain)
    return genome, intervals, chain
