"""The verb variants."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from genobird.cli import reporting
from genobird.cli.options import (
    FASTA,
    FEATURES,
    LIFTOVER,
    MODEL,
    NAMED,
    Compute,
    Names,
    ResumableRun,
)
from genobird.cli.outputs import VCF_ENDINGS, refuse_early
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    summarise,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import STDOUT, locked
from genobird.genome.streams import Peeked
from genobird.runs import Start, may_replace
from genobird.scoring.settings import EffectSettings, ScanSettings, policy_of
from genobird.scoring.table import ENDINGS, check_output

if TYPE_CHECKING:
    from genobird.genome.chain import ChainFile
    from genobird.genome.fasta import Genome
    from genobird.genome.variant import Variant
    from genobird.scoring.parts import Part
    from genobird.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

LOGOS = 3
"""Variants of a report that get logos, where nothing else is asked for."""


class VariantOptions(Settings):
    """Which variants are scored, by what, and where the scores go."""

    sources: tuple[str, ...] = argument(
        "VCF or BCF; TSV or CSV with columns chrom pos ref alt; - for any of them on standard "
        "input; or variants, 1-based: chr20:1000:A>G.",
        "VARIANTS...",
    )
    fasta: Path = FASTA
    output: Annotated[str, NAMED] = option(
        ".vcf, .vcf.gz (with index), .bcf or -; for other input than VCF, the table: .parquet, "
        ".tsv, .tsv.gz or -.",
        "-o",
        default=...,
    )
    table: Annotated[str | None, NAMED] = option(
        "All outputs of each ALT: .parquet, .tsv or .tsv.gz."
    )
    report: Path | None = option(
        "HTML report of the table; without --table the table is written beside it as .parquet."
    )
    report_logos: int | None = option(
        f"How many variants of the report get logos, about 126 windows each; default {LOGOS}.",
        ge=0,
        le=10,
    )
    model: Path | None = MODEL
    features: Names = FEATURES
    ref_mismatch: str = option(
        "If REF differs from the genome: flag (status, no scores), skip (leave it as it is), swap "
        "(score if ALT is the genome's base) or error.",
        default="flag",
    )
    liftover: Path | None = LIFTOVER
    ignore_build: bool = option("Only warn where the assembly is not the FASTA's.", default=False)
    genes: Path | None = option(
        "GTF, GFF3 or BED of genes of the FASTA's assembly; adds the nearest transcription start "
        "(GB_GENE).",
        metavar="FILE",
    )
    background: str = option(
        "Background of GB_EVALUE, GB_TOP and quantiles: a file of genobird background build, model "
        "(the one in the model directory, if any) or none.",
        metavar="FILE",
        default="model",
    )
    phased: str | None = option(
        "Also score the ALTs on each haplotype of this sample together (GB_HAP_*); costs about one "
        "more window for each ALT within 8 kb.",
        metavar="SAMPLE",
    )
    shard: str | None = option(
        "Score only part I of N, as .vcf.gz and, for --table, .parquet; genobird variants merge "
        "joins the parts.",
        metavar="I/N",
    )


@dataclass(frozen=True)
class Opened:
    """The inputs of a run, and what it writes beside its output."""

    source: Peeked | list[Variant]
    vcf: Peeked | None
    """The source, where it is a VCF or BCF."""
    part: Part | None
    table: str | None
    """The table beside a VCF, also the one that only a report asks for."""
    genome: Genome
    chain: ChainFile | None
    replace: bool


def variants(
    options: VariantOptions, effects: EffectSettings, compute: Compute, run: ResumableRun
) -> None:
    """Score variants. Records of a VCF stay as they are and gain INFO keys GB_*."""
    output, report = options.output, options.report
    _refuse_same_files(options)
    refuse_early(output, (*VCF_ENDINGS, *ENDINGS), force=run.force, resume=run.resume)
    refuse_early(options.table, ENDINGS, force=True)  # whether it may be replaced: see `_opened`
    opened = _opened(options, effects, run)
    # All that may be refused has been: torch takes seconds to load.
    from genobird.scoring.background import MODEL, background_of

    began = time.monotonic()
    scorer = open_scorer(options.model, compute, compute.precision, run.processes)
    scorer.background = background_of(scorer, options.background)
    if scorer.background is None and options.background == MODEL and not run.quiet:
        logger.info("the model has no background, so no E-values: see genobird background build")
    pages = [] if report is None else [report]  # what is scored locks its own outputs
    with locked(*pages), opened.genome:
        records, counts = _score(scorer, opened, options, effects, run)
        if report is not None:
            from genobird.report.scored import write_report

            write_report(
                *(report, scorer, opened.genome, command_line()),
                variants=Path(opened.table or output),
                logos=LOGOS if options.report_logos is None else options.report_logos,
                replace=opened.replace,
            )
    summary: dict[str, Any] = {
        **({} if opened.vcf is None else {"records": records}),
        "alleles": counts.total(),
        "output": output,
        **({} if opened.table is None else {"table": opened.table}),
        **({} if report is None else {"report": str(report)}),
    }
    summarise("alleles", summary, counts, scorer, run, began)


def _score(
    scorer: Scorer,
    opened: Opened,
    options: VariantOptions,
    effects: EffectSettings,
    run: ResumableRun,
) -> tuple[int, Counter[str]]:
    """Score what was opened; returns how many records there were, and ALTs of each status."""
    from genobird.scoring.variant_table import list_variants
    from genobird.scoring.variant_vcf import annotate_variants

    records = 0
    settings = ScanSettings(
        *(options.ref_mismatch, options.features, opened.chain, options.ignore_build),
        effects=effects,
        genes=options.genes,
    )
    unit = "alleles" if opened.vcf is None else "records"
    with progress_of(unit, None, run.quiet) as advance:

        def count(number: int) -> None:
            nonlocal records
            records += number
            advance(number)

        start = Start(run.resume, run.force, command_line(), count, run.processes)
        genome, output = opened.genome, options.output
        if opened.vcf is None:
            given = opened.source if isinstance(opened.source, Peeked) else list(options.sources)
            counts = list_variants(scorer, given, genome, output, settings, start)
        else:
            counts = annotate_variants(
                *(scorer, opened.vcf, genome, output),
                table=opened.table,
                phased=options.phased,
                part=opened.part,
                settings=settings,
                start=start,
            )
    return records, counts


def _refuse_same_files(options: VariantOptions) -> None:
    outputs = {"--output": options.output, "--table": options.table, "--report": options.report}
    inputs = {"--fasta": options.fasta, "--liftover": options.liftover, "--genes": options.genes}
    refuse_same_file(
        outputs,
        {
            **{f"the input {text}": text for text in options.sources},
            **inputs,
            "--background": options.background,
        },
    )


def _opened(options: VariantOptions, effects: EffectSettings, run: ResumableRun) -> Opened:
    """Open the inputs, and refuse what may be refused before torch is loaded."""
    from genobird.genome.vcf import require_vcf
    from genobird.scoring.alleles import chain_file, is_table, named_input
    from genobird.scoring.parts import Part

    output, table = options.output, options.table
    source = named_input(options.sources)
    vcf = source if isinstance(source, Peeked) and not is_table(source) else None
    if vcf is None:
        _refuse_what_needs_vcf(source, options)
    else:
        require_vcf(vcf.name, vcf.start)
    part = None if options.shard is None else Part.parse(options.shard)
    if effects.scores and table is None and options.report is None and vcf:
        raise UsageError("--scores are columns of the table; name one with --table or --report")
    if options.report_logos is not None and options.report is None:
        raise UsageError("--report-logos is of the report; name one with --report")
    replace = may_replace(output, Start(run.resume, run.force))
    check_output(output, VCF_ENDINGS if vcf else ENDINGS, replace)
    if options.report is not None:
        whole = reporting.table_of(
            *(options.report, table if vcf else output),
            shard=part is not None,
            replace=replace,
        )
        table = whole if vcf else None
    if table is not None:
        if table == output == STDOUT:
            raise UsageError("both outputs are standard output; name a file for --table")
        check_output(table, force=replace)
    policy_of(options.ref_mismatch)
    chain = chain_file(options.liftover)
    return Opened(source, vcf, part, table, open_genome(options.fasta), chain, replace)


def _refuse_what_needs_vcf(source: Peeked | list[Variant], options: VariantOptions) -> None:
    """Refuse options that variants which are no VCF cannot have.

    Raises:
        UsageError: there is one.
        VcfError: there is one, and it is a VCF that has lost its first lines.
    """
    from genobird.genome.vcf import require_fileformat

    if options.table is not None or options.output.endswith(VCF_ENDINGS):
        message = (
            f"{options.table or options.output} is asked for, but variants that are no VCF give "
            "one table and no VCF; name it with --output: .parquet, .tsv, .tsv.gz or -"
        )
    elif options.phased is not None:
        message = "--phased needs the genotypes of a VCF; these variants have none"
    elif options.shard is not None:
        message = "--shard is for VCF; cut a table of variants itself"
    else:
        return
    if not isinstance(source, list):
        require_fileformat(source.name, source.start)
    raise UsageError(message)
