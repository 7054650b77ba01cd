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
from genobird.cli.outputs import refuse_early
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
from genobird.files import locked
from genobird.genome.interval import Interval, read_intervals
from genobird.runs import Start, may_replace
from genobird.scoring.table import ENDINGS, TableWriter, check_output

if TYPE_CHECKING:
    from genobird.genome.chain import ChainFile
    from genobird.genome.fasta import Genome

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
    refuse_early(output, ENDINGS, force=run.force, resume=run.resume)
    from genobird.scoring.journal import identity_of, kept

    replace = may_replace(output, Start(run.resume, run.force))
    check_output(output, force=replace)
    genome, intervals, chain = _opened(options, run.force)
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, compute.precision, run.processes)
    from genobird.genome.build import warn_of_training
    from genobird.scoring.regions import region_frames, sequence_frames, write_scores
    from genobird.scoring.tracks import bins_of, check_tracks, outputs_of, track_paths, write_tracks

    chosen = options.features
    if bigwig is not None:
        check_tracks(bigwig, track_paths(bigwig, outputs_of(scorer, chosen)).values(), run.force)
    warn_of_training({} if options.of_fasta else scorer.checkpoint.provenance, genome)
    start = Start(run.resume, run.force, processes=run.processes)
    with genome, locked(*([] if bigwig is None else [bigwig])):
        with (
            kept([output], identity_of(scorer, chosen), start) as journal,
            TableWriter(output, force=replace, meta=origin(scorer)) as writer,
            progress_of("regions", len(intervals) or None, run.quiet) as advance,
        ):
            if options.of_fasta:
                frames = sequence_frames(scorer, genome.stream(), chosen, journal=journal)
            else:
                frames = region_frames(
                    *(scorer, intervals, genome, chosen), chain=chain, journal=journal
                )
            counts = write_scores(frames, writer, advance)
            writer.finish()
            journal.seal()
        summary: dict[str, Any] = {"regions": counts.total(), "output": output}
        if bigwig is not None:
            number = sum(1 for _ in bins_of(intervals, genome))
            with progress_of("bins", number, run.quiet) as advance:
                tracks = write_tracks(
                    *(scorer, bins_of(intervals, genome), genome, bigwig),
                    features=chosen,
                    force=run.force,
                    progress=advance,
                )
            summary["tracks"] = [str(path) for path in tracks]
    summarise("regions", summary, counts, scorer, run, began)


def _opened(options: ScoreOptions, force: bool) -> tuple[Genome, list[Interval], ChainFile | None]:
    """Open genome, regions and chain, and refuse what may be refused before torch is loaded."""
    of_fasta, liftover = options.of_fasta, options.liftover
    if options.fasta is None and not of_fasta:
        raise UsageError("--fasta is missing; regions need the FASTA file of their genome")
    if options.bigwig is not None:
        from genobird.scoring.tracks import check_tracks, require_backend

        if of_fasta or liftover is not None:
            raise UsageError(
                "--bigwig needs regions of the genome itself, not lifted: a BED file or a region "
                "string"
            )
        require_backend()
        check_tracks(options.bigwig, (), force)
    intervals = [] if of_fasta else read_intervals(options.regions)
    for name in ("fasta", "keep_going", "liftover") if of_fasta else ():
        if getattr(options, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for regions of a genome, not for FASTA regions")
    genome = open_genome(options.regions if of_fasta else options.fasta)
    from genobird.scoring.alleles import chain_file

    chain = chain_file(liftover)
    if not (of_fasta or options.keep_going):
        from genobird.scoring.regions import require_on_genome

        require_on_genome(intervals, genome, chain)
    return genome, intervals, chain
