"""The verbs variants and variants merge."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from genobird.cli.options import (
    FASTA,
    FEATURES,
    LIFTOVER,
    MODEL,
    NAMED,
    Compute,
    Names,
    ResumableRun,
    Run,
)
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
from genobird.files import PAGES, STDOUT, TABLES, VCFS, check_output, locked
from genobird.genome.streams import Peeked
from genobird.names import deferred
from genobird.runs import may_replace
from genobird.scoring.settings import EffectSettings, ScanSettings, policy_of

if TYPE_CHECKING:
    from genobird.genome.chain import ChainFile
    from genobird.genome.fasta import Genome
    from genobird.genome.variant import Variant
    from genobird.scoring.parts import Part
    from genobird.scoring.scorer import Scorer

with deferred():
    from genobird.genome import vcf as vcfs
    from genobird.report import scored
    from genobird.scoring import alleles, background, parts, variant_table, variant_vcf

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
        "All outputs of each ALT: .parquet, .tsv, .tsv.gz, or - beside a VCF that is a file."
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
    names = ("fasta", "liftover", "genes", "background")
    inputs = {f"the input {text}": text for text in options.sources}
    inputs |= {f"--{name}": getattr(options, name) for name in names}
    refuse_same_file({"--output": output, "--table": options.table, "--report": report}, inputs)
    opened = _opened(options, effects, run)
    # All that may be refused has been: torch takes seconds to load.
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, compute.precision, run.processes)
    scorer.background = background.background_of(scorer, options.background)
    if scorer.background is None and options.background == background.MODEL:
        logger.info("the model has no background, so no E-values: see genobird background build")
    pages = [] if report is None else [report]  # what is scored locks its own outputs
    with locked(*pages), opened.genome:
        records, counts = _score(scorer, opened, options, effects, run)
        if report is not None:
            scored.write_report(
                report,
                scorer,
                opened.genome,
                command_line(),
                variants=Path(opened.table or output),
                logos=LOGOS if options.report_logos is None else options.report_logos,
                force=opened.replace,
            )
    summary: dict[str, Any] = {
        **({} if opened.vcf is None else {"records": records}),
        "alleles": counts.total(),
        "output": output,
        **({} if opened.table is None else {"table": opened.table}),
        **({} if report is None else {"report": str(report)}),
    }
    summarise("allele", summary, counts, scorer, run, began)


def _score(
    scorer: Scorer,
    opened: Opened,
    options: VariantOptions,
    effects: EffectSettings,
    run: ResumableRun,
) -> tuple[int, Counter[str]]:
    """Score what was opened; returns how many records there were, and ALTs of each status."""
    records = 0
    settings = ScanSettings(
        options.ref_mismatch,
        options.features,
        opened.chain,
        options.ignore_build,
        effects=effects,
        genes=options.genes,
    )
    unit = "alleles" if opened.vcf is None else "records"
    with progress_of(unit, None) as advance:

        def count(number: int) -> None:
            nonlocal records
            records += number
            advance(number)

        start = run.start(count)
        genome, output = opened.genome, options.output
        if opened.vcf is None:
            given = opened.source if isinstance(opened.source, Peeked) else list(options.sources)
            counts = variant_table.list_variants(
                scorer, given, genome, output, settings=settings, start=start
            )
        else:
            counts = variant_vcf.annotate_variants(
                scorer,
                opened.vcf,
                genome,
                output,
                table=opened.table,
                phased=options.phased,
                part=opened.part,
                settings=settings,
                start=start,
            )
    return records, counts


def _opened(options: VariantOptions, effects: EffectSettings, run: ResumableRun) -> Opened:
    """Open the inputs, and refuse what may be refused before torch is loaded."""
    output, report = options.output, options.report
    replace = may_replace(output, run.start())
    source = alleles.named_input(options.sources)
    vcf = source if isinstance(source, Peeked) and not alleles.is_table(source) else None
    if vcf is None:
        _refuse_what_needs_vcf(source, options)
    else:
        vcfs.require_vcf(vcf.name, vcf.start)
    part = None if options.shard is None else parts.Part.parse(options.shard)
    if vcf is not None and part is not None:
        parts.require_part_outputs(None, vcf.source, output, options.table)
    if effects.scores and options.table is None and report is None and vcf:
        raise UsageError("--scores are columns of the table; name one with --table or --report")
    if options.report_logos is not None and report is None:
        raise UsageError("--report-logos is of the report; name one with --report")
    table = _table_beside(options, is_vcf=vcf is not None)
    if table == output == STDOUT:
        raise UsageError("both outputs are standard output; name a file for --table")
    check_output(output, VCFS if vcf else TABLES, replace, stdout=True)
    if table is not None:
        check_output(table, TABLES, replace, stdout=True)
    if report is not None:
        check_output(report, PAGES, replace)
    policy_of(options.ref_mismatch)
    chain = alleles.chain_file(options.liftover)
    return Opened(source, vcf, part, table, open_genome(options.fasta), chain, replace)


def _table_beside(options: VariantOptions, *, is_vcf: bool) -> str | None:
    """Return the table beside a VCF, if one is wanted; UsageError if a report has no whole one."""
    table, report = options.table, options.report
    if report is None:
        return table
    if options.shard is not None:
        raise UsageError(
            "--report is for a whole run; merge the shards, then: genobird report --variants TABLE"
        )
    if STDOUT in (table, None if is_vcf else options.output):
        raise UsageError("--report is made from the table; name a file for it instead of -")
    return table or str(report.with_suffix(".parquet")) if is_vcf else None


def _refuse_what_needs_vcf(source: Peeked | list[Variant], options: VariantOptions) -> None:
    """Refuse options that variants which are no VCF cannot have.

    Raises:
        UsageError: there is one.
        VcfError: there is one, and it is a VCF that has lost its first lines.
    """
    if options.table is not None or options.output.endswith(VCFS):
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
        vcfs.require_fileformat(source.name, source.start)
    raise UsageError(message)


class MergeOptions(Settings):
    """Which shards become which file."""

    shards: tuple[Path, ...] = argument(
        "All shards of a run: all .vcf.gz, or all .parquet.", "SHARD"
    )
    output: Annotated[str, NAMED] = option(
        ".vcf, .vcf.gz (with index), .bcf or - for VCF; .parquet, .tsv, .tsv.gz or - for tables.",
        "-o",
        default=...,
    )


def merge(options: MergeOptions, run: Run) -> None:
    """Join the shards of genobird variants --shard into the file of a single run."""
    shards, output = options.shards, options.output
    refuse_same_file({"--output": output}, {f"the shard {path}": path for path in shards})
    began = time.monotonic()
    with progress_of("records", None) as advance:
        counts = parts.merge(
            shards, output, force=run.force, command=command_line(), progress=advance
        )
    summary = {"shards": len(shards), "alleles": counts.total(), "output": output}
    summarise("allele", summary, counts, None, run, began)
