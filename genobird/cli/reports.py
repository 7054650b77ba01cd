"""Verbs that show scores to people: demo, report, report multiqc, serve."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import typer

from genobird.cli.options import DEVICE, MODEL, THREADS, Compute, Made
from genobird.cli.running import (
    command_line,
    is_hushed,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    tell,
)
from genobird.config import Settings, argument, option
from genobird.errors import counted
from genobird.files import check_folder
from genobird.names import deferred

with deferred():
    from genobird import demo as demonstration
    from genobird.report import multiqc, page
    from genobird.scoring import scorer as scorers
    from genobird.serve import question, site


class DemoOptions(Made):
    """Where the results go, and what computes them."""

    output: Path = option("Folder of the results.", "-o", default=Path("genobird-demo"))
    model: Path | None = MODEL
    device: str = DEVICE
    threads: int | None = THREADS


def demo(options: DemoOptions) -> None:
    """Score the bundled regions and variants with the bundled model.

    Real sequence of GRCh37 chr20 with its EPDnew promoters, places without one, and SNPs of dbSNP;
    the model was not trained on it. Writes regions.tsv, variants.vcf.gz, variants.parquet and
    report.html.
    """
    check_folder(options.output, options.output.glob("*"), options.force)
    scorer = scorers.load(options.model, options.device, threads=options.threads)
    with progress_of("places", demonstration.count()) as advance:
        made = demonstration.run(
            scorer, options.output, force=options.force, command=command_line(), progress=advance
        )
    if not is_hushed():
        demonstration.show(made)


class ReportOptions(Made):
    """Which tables a report is made from."""

    output: Path = option("HTML file.", "-o", default=...)
    regions: Path | None = option("Table of genobird score, TSV or Parquet.")
    variants: Path | None = option("Table of genobird variants, TSV or Parquet.")


def report(options: ReportOptions) -> None:
    """Make a one-file HTML report of score tables.

    Regions whose name begins with "background" are compared with the others.
    """
    output, regions, variants = options.output, options.regions, options.variants
    tables = {"the region table": regions, "the variant table": variants}
    refuse_same_file({"the report": output}, tables)
    facts = {"command": command_line()}
    page.report(output, regions=regions, variants=variants, facts=facts, force=options.force)
    tell(f"report written to {output}")


class MultiqcOptions(Made):
    """Which tables are counted."""

    tables: tuple[Path, ...] = argument(
        "Tables of genobird score and genobird variants, one per sample, TSV or Parquet.", "TABLE"
    )
    output: Path = option("File whose name ends with _mqc.tsv.", "-o", default=...)


def report_multiqc(options: MultiqcOptions) -> None:
    """Count the rows of score tables by status, in a file that MultiQC shows."""
    tables = {f"the table {path}": path for path in options.tables}
    refuse_same_file({"--output": options.output}, tables)
    multiqc.write_statuses(options.output, options.tables, options.force)
    tell(f"statuses of {counted(len(tables), 'table')} written to {options.output}")


class ServeOptions(Settings):
    """What a page is about, and how much it takes."""

    fasta: Path | None = option(
        "The genome: plain, gzip or BGZF; the demo's stretch of GRCh37 chr20 by default.", "-f"
    )
    model: Path | None = MODEL
    port: int = option("Port of 127.0.0.1; 0 is any that is free.", ge=0, le=65_535, default=0)
    max_mib: int = option("Largest file, in MiB.", ge=1, le=1_024, default=20)
    max_places: int = option("Most regions or ALTs of one question.", ge=1, default=2_000)


def serve(options: ServeOptions, compute: Compute) -> None:
    """Open a page on this machine to look up variants, regions and short VCF files.

    Only this machine reaches it, by the address that is written; nothing is kept. Ctrl-C ends it.
    """
    place = site.place_of(None if options.fasta is None else open_genome(options.fasta))
    scorer = open_scorer(options.model, compute, compute.precision)
    limits = question.Limits(options.max_mib << 20, options.max_places)
    with place.genome, suppress(KeyboardInterrupt):
        site.serve(scorer, place, options.port, limits, _announce)


def _announce(address: str) -> None:
    typer.echo(f"open {address}")
    tell("Ctrl-C ends it")
