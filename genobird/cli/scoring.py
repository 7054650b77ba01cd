"""Verbs that score regions: score, mutagenesis."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from genobird.cli.options import (
    FASTA,
    FEATURES,
    LIFTOVER,
    MODEL,
    NAMED,
    TABLE,
    Compute,
    Names,
    ResumableRun,
    Run,
)
from genobird.cli.running import (
    is_hushed,
    open_genome,
    open_scorer,
    origin,
    progress_of,
    refuse_same_file,
    summarise,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import PICTURES, TABLES, check_folder, check_output, locked
from genobird.genome.interval import Interval, parse_region, read_intervals
from genobird.names import deferred
from genobird.runs import may_replace

if TYPE_CHECKING:
    from genobird.genome.chain import ChainFile
    from genobird.genome.fasta import Genome
    from genobird.scoring.sites import Site

with deferred():
    from genobird.genome import locus
    from genobird.report import logo as logos
    from genobird.scoring import alleles, regions, sites
    from genobird.scoring import mutagenesis as scans
    from genobird.scoring import table as tables

FASTA_ENDINGS = tuple(
    f".{kind}{packing}" for kind in ("fa", "fasta", "fna") for packing in ("", ".gz", ".bgz")
)

logger = logging.getLogger(__name__)
# A scan that takes less is not worth an estimate, which costs one window more.
_SOON = 60


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
    check_output(output, TABLES, may_replace(output, run.start()), stdout=True)
    genome, intervals, chain = _opened(options)
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, compute.precision, run.processes)
    chosen = options.features
    if bigwig is not None:
        files = regions.track_paths(bigwig, sites.Outputs.of(scorer, chosen).names).values()
        check_folder(bigwig, files, run.force)
    locus.warn_of_training({} if options.of_fasta else scorer.checkpoint.provenance, genome)
    with genome, locked(*([] if bigwig is None else [bigwig])):
        asked: Iterable[Site]
        if options.of_fasta:
            asked = starmap(sites.sequence_site, genome.stream(empty=True))
        else:
            asked = sites.sites_of(intervals, genome, chain)
        with progress_of("regions", len(intervals) or None) as advance:
            counts = regions.write_regions(
                scorer, asked, output, chosen, lifted=chain is not None, start=run.start(advance)
            )
        summary: dict[str, Any] = {"regions": counts.total(), "output": output}
        if bigwig is not None:
            number = sum(1 for _ in regions.bins_of(intervals, genome))
            with progress_of("bins", number) as advance:
                paths = regions.write_tracks(
                    scorer,
                    regions.bins_of(intervals, genome),
                    genome,
                    bigwig,
                    features=chosen,
                    force=run.force,
                    progress=advance,
                )
            summary["tracks"] = [str(path) for path in paths]
    summarise("region", summary, counts, scorer, run, began)


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
        regions.require_backend()
        check_folder(options.bigwig)
    intervals = [] if of_fasta else read_intervals(options.regions)
    for name in ("fasta", "keep_going", "liftover") if of_fasta else ():
        if getattr(options, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for regions of a genome, not for FASTA regions")
    genome = open_genome(options.regions if of_fasta else options.fasta)
    chain = alleles.chain_file(liftover)
    if not (of_fasta or options.keep_going):
        remedy = " (--keep-going scores the other regions)"
        locus.require_on_genome(intervals, genome, chain, remedy)
    return genome, intervals, chain


class MutagenesisOptions(Settings):
    """Which region is scanned, by what, and where the effects go."""

    region: str = argument("1-based region, with or without strand: chr20:1,001-1,200:+.")
    fasta: Path = FASTA
    output: Annotated[str, NAMED] = TABLE
    logo: Path | None = option("Sequence logo and heat map of each output: .svg or .png.")
    features: Names = option(
        "Outputs, separated by commas: promoter, chromatin columns, cells, targets or classes, "
        "table|NAME of a table head; default: promoter, the five chromatin features predicted "
        "highest there and a table head's outputs."
    )
    form: str = option(
        "long: one row per change and output; wide: one row per change.", default="long"
    )
    max_bp: int = option("Longest region; each base costs three windows.", ge=1, default=2_000)
    model: Path | None = MODEL


def mutagenesis(options: MutagenesisOptions, compute: Compute, run: Run) -> None:
    """Change every base of a region to the three others and predict the effects.

    Effects are on the midpoint of the region, whichever base is changed (chromatin: the 200 bp
    around it; promoter: along the strand, a transcription start there if the region is one base,
    else the likeliest one near it). Values are logits; a table head's are in its own units.
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
    if scan.size > _SOON and not is_hushed():
        logger.info("%s windows, %s", f"{scan.size:,}", scans.duration(scan.seconds()))
    summary = {"region": str(interval), "outputs": scan.names, "output": output}
    with locked(output, *([] if logo is None else [logo])):
        with (
            tables.TableWriter(output, force=run.force, meta=origin(scorer)) as writer,
            progress_of("bases", scan.length) as advance,
        ):
            table = scans.write_mutagenesis(scan, writer, form, advance)
        if logo is not None:
            logos.draw_logo(table, logo, force=run.force)
            summary["logo"] = str(logo)
    summarise("change", summary, Counter(OK=scan.size), scorer, run, began)
