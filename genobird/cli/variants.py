"""The verb variants."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobird.cli import merging, reporting
from genobird.cli.options import (
    BatchSize,
    Device,
    Fasta,
    Features,
    Force,
    IgnoreBuild,
    Json,
    Liftover,
    Model,
    Precision,
    Quiet,
    Resume,
    Threads,
)
from genobird.cli.outputs import VCF_ENDINGS, as_named, refuse_early
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
from genobird.files import STDOUT, locked
from genobird.scoring.settings import DEFAULT, SCORES, EffectSettings
from genobird.scoring.table import ENDINGS, check_output

if TYPE_CHECKING:
    from genobird.genome.streams import Peeked
    from genobird.genome.variant import Variant

logger = logging.getLogger(__name__)

LOGOS = 3
"""Variants of a report that get logos, where nothing else is asked for."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(variants)
    merging.register(app)


def variants(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANTS...",
            help="VCF or BCF; TSV or CSV with columns chrom pos ref alt; - for any of them on "
            "standard input; or variants, 1-based: chr20:1000:A>G.",
        ),
    ],
    fasta: Fasta,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            callback=as_named,
            help=".vcf, .vcf.gz (with index), .bcf or -; for other input than VCF, the table: "
            ".parquet, .tsv, .tsv.gz or -.",
        ),
    ],
    table: Annotated[
        str | None,
        typer.Option(callback=as_named, help="All outputs of each ALT: .parquet, .tsv or .tsv.gz."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="HTML report of the table; without --table the table is written beside it as "
            ".parquet."
        ),
    ] = None,
    report_logos: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10,
            help="How many variants of the report get logos, about 126 windows each; default "
            f"{LOGOS}.",
        ),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    precision: Precision = "float32",
    features: Features = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Further columns of the table (--table or --report, or a table as output), "
            f"separated by commas: {', '.join(SCORES)}."
        ),
    ] = None,
    shifts: Annotated[
        int, typer.Option(help="Window offsets over which promoter and chromatin are averaged.")
    ] = DEFAULT.shifts,
    segmentations: Annotated[
        int,
        typer.Option(help="Ways to cut the sequence into tokens over which GB_LLR is averaged."),
    ] = DEFAULT.segmentations,
    seed: Annotated[int, typer.Option(help="Seed of the segmentations.")] = DEFAULT.seed,
    window_grid: Annotated[
        int,
        typer.Option(
            metavar="BP",
            help="Centre windows on the nearest multiple of BP, so that neighbouring variants "
            "share the window of REF: faster where variants are dense; 0 centres on each variant.",
        ),
    ] = DEFAULT.grid,
    embedding: Annotated[
        bool,
        typer.Option("--embedding", help="Add the distance between hidden states of REF and ALT."),
    ] = False,
    ref_mismatch: Annotated[
        str,
        typer.Option(
            help="If REF differs from the genome: flag (status, no scores), skip (leave it as it "
            "is), swap (score if ALT is the genome's base) or error."
        ),
    ] = "flag",
    liftover: Liftover = None,
    ignore_build: IgnoreBuild = False,
    background: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Background of GB_EVALUE, GB_TOP and quantiles: a file of genobird background "
            "build, model (the one in the model directory, if any) or none.",
        ),
    ] = "model",
    phased: Annotated[
        str | None,
        typer.Option(
            metavar="SAMPLE",
            help="Also score the ALTs on each haplotype of this sample together (GB_HAP_*); costs "
            "about one more window for each ALT within 8 kb.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Score only part I of N, as .vcf.gz and, for --table, .parquet; genobird variants "
            "merge joins the parts.",
        ),
    ] = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score variants. Records of a VCF stay as they are and gain INFO keys GB_*."""
    refuse_same_file(
        {"--output": output, "--table": table, "--report": report},
        {
            **{f"the input {text}": text for text in sources},
            **{"--fasta": fasta, "--liftover": liftover, "--background": background},
        },
    )
    refuse_early(output, (*VCF_ENDINGS, *ENDINGS), force=force, resume=resume)
    refuse_early(table, ENDINGS, force=True)  # whether it may be replaced depends on the output
    from genobird.genome.streams import Peeked
    from genobird.genome.vcf import require_vcf
    from genobird.scoring.alleles import chain_file, is_table, named_input, policy_of
    from genobird.scoring.background import MODEL, background_of
    from genobird.scoring.journal import may_replace
    from genobird.scoring.shard import Shard

    source = named_input(sources)
    listed = not isinstance(source, Peeked) or is_table(source)
    if isinstance(source, Peeked) and not listed:
        require_vcf(source.name, source.start)
    if listed:
        _refuse_what_needs_vcf(source, output, table, phased, shard)
    part = None if shard is None else Shard.parse(shard)
    named = tuple(split_names(scores) or ())
    settings = EffectSettings(shifts, segmentations, seed, window_grid, named, embedding)
    if named and table is None and report is None and not listed:
        raise UsageError("--scores are columns of the table; name one with --table or --report")
    if report_logos is not None and report is None:
        raise UsageError("--report-logos is of the report; name one with --report")
    replace = may_replace(output, force=force, resume=resume)
    check_output(output, ENDINGS if listed else VCF_ENDINGS, replace)
    if report is not None:
        whole = reporting.table_of(
            report, output if listed else table, shard=shard is not None, replace=replace
        )
        table = None if listed else whole
    if table is not None:
        if table == output == STDOUT:
            raise UsageError("both outputs are standard output; name a file for --table")
        check_output(table, force=replace)
    policy_of(ref_mismatch)
    chains = chain_file(liftover)
    genome = open_genome(fasta)
    # All that may be refused has been: torch takes seconds to load.
    from genobird.scoring.annotation import annotate_variants
    from genobird.scoring.listing import list_variants

    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads, precision)
    scorer.background = background_of(scorer, background)
    if scorer.background is None and background == MODEL and not quiet:
        logger.info("the model has no background, so no E-values: see genobird background build")
    records = 0
    common: dict[str, Any] = {
        "ref_mismatch": ref_mismatch,
        "features": split_names(features),
        "settings": settings,
        "liftover": chains,
        "ignore_build": ignore_build,
        "resume": resume,
        "force": force,
        "command": command_line(),
    }
    pages = [] if report is None else [report]  # what is scored locks its own outputs
    unit = "alleles" if listed else "records"
    with locked(*pages), genome, progress_of(unit, None, quiet) as advance:

        def count(number: int) -> None:
            nonlocal records
            records += number
            advance(number)

        if listed:
            given = source if isinstance(source, Peeked) else sources
            counts = list_variants(scorer, given, genome, output, progress=advance, **common)
        else:
            assert isinstance(source, Peeked)
            files: dict[str, Any] = {"table": table, "shard": part, "progress": count}
            files["phased"] = phased
            counts = annotate_variants(scorer, source, genome, output, **files, **common)
        if report is not None:
            # What was written has the IDs too, and unlike a pipe it can be read again.
            vcfs = [output, source.source] if isinstance(source, Peeked) and not listed else []
            reporting.write_report(
                *(report, whole, scorer, genome),
                vcf=next((Path(vcf) for vcf in vcfs if Path(vcf).is_file()), None),
                logos=LOGOS if report_logos is None else report_logos,
                replace=replace,
            )
    summary: dict[str, Any] = {
        **({} if listed else {"records": records}),
        "alleles": counts.total(),
        "output": output,
    }
    if table is not None:
        summary["table"] = table
    if report is not None:
        summary["report"] = str(report)
    data = STDOUT if STDOUT in (output, table) else output
    summarise("alleles", summary, counts, scorer, began, data, quiet, as_json)


def _refuse_what_needs_vcf(
    source: Peeked | list[Variant],
    output: str,
    table: str | None,
    phased: str | None,
    shard: str | None,
) -> None:
    """Refuse options that variants which are no VCF cannot have.

    Raises:
        UsageError: there is one.
        VcfError: there is one, and it is a VCF that has lost its first lines.
    """
    from genobird.genome.vcf import require_fileformat

    if table is not None or output.endswith(VCF_ENDINGS):
        message = (
            f"{table or output} is asked for, but variants that are no VCF give one table and no "
            "VCF; name it with --output: .parquet, .tsv, .tsv.gz or -"
        )
    elif phased is not None:
        message = "--phased needs the genotypes of a VCF; these variants have none"
    elif shard is not None:
        message = "--shard is for VCF; cut a table of variants itself"
    else:
        return
    if not isinstance(source, list):
        require_fileformat(source.name, source.start)
    raise UsageError(message)
