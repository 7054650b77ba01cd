"""Verbs about genobird itself and its results: demo, report, info, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.options import DEVICE, FORCE, JSON, MODEL, QUIET, THREADS
from genobird.cli.running import command_line, progress_of, refuse_same_file
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import check_folder
from genobird.names import deferred

with deferred():
    from genobird import checkpoint
    from genobird import demo as demonstration
    from genobird import doctor as examination
    from genobird.report import description, page
    from genobird.scoring import scorer as scorers


class DemoOptions(Settings):
    """Where the results go, and what computes them."""

    output: Path = option("Folder of the results.", "-o", default=Path("genobird-demo"))
    model: Path | None = MODEL
    device: str = DEVICE
    threads: int | None = THREADS
    force: bool = FORCE
    quiet: bool = QUIET


class ReportOptions(Settings):
    """Which tables a report is made from."""

    output: Path = option("HTML file.", "-o", default=...)
    regions: Path | None = option("Table of genobird score, TSV or Parquet.")
    variants: Path | None = option("Table of genobird variants, TSV or Parquet.")
    force: bool = FORCE


class InfoOptions(Settings):
    """Which model is described, and how."""

    model: Path | None = argument("Model directory; default the bundled one.", default=None)
    as_json: bool = JSON


class DoctorOptions(Settings):
    """Which model is checked, and how the checks are shown."""

    model: Path | None = MODEL
    as_json: bool = JSON


def demo(options: DemoOptions) -> None:
    """Score the bundled regions and variants with the bundled model.

    Real sequence of GRCh37 chr20 with its EPDnew promoters, places without one, and SNPs of dbSNP;
    the model was not trained on it. Writes regions.tsv, variants.vcf.gz, variants.parquet and
    report.html.
    """
    check_folder(options.output, options.output.glob("*"), options.force)
    scorer = scorers.load(options.model, options.device, threads=options.threads)
    with progress_of("places", demonstration.count(), options.quiet) as advance:
        made = demonstration.run(
            *(scorer, options.output),
            force=options.force,
            command=command_line(),
            progress=advance,
        )
    demonstration.show(made)


def report(options: ReportOptions) -> None:
    """Make a one-file HTML report of score tables.

    Regions whose name begins with "background" are compared with the others.
    """
    output, regions, variants = options.output, options.regions, options.variants
    tables = {"the region table": regions, "the variant table": variants}
    refuse_same_file({"the report": output}, tables)
    facts = {"command": command_line()}
    page.report(output, regions=regions, variants=variants, facts=facts, force=options.force)
    typer.echo(f"report written to {output}", err=True)


def info(options: InfoOptions) -> None:
    """Describe a model: shape, heads, training data, test figures and the names of its features.

    With --json, everything: also hashes, all settings and the whole evaluation.
    """
    path = options.model or checkpoint.bundled_model()
    if options.model is None and not path.is_dir():
        raise UsageError("this installation has no bundled model; name a model directory")
    facts = description.describe(path)
    typer.echo(json.dumps(facts, indent=2) if options.as_json else description.summary(facts))


def doctor(
    options: DoctorOptions, record: Annotated[Path | None, typer.Option(hidden=True)] = None
) -> int:
    """Check this installation: versions, devices, the model and its predictions.

    Exits with 1 when something essential is broken.
    """
    if record is not None:
        examination.record(record, options.model)
        return 0
    checks = []
    for check in examination.examine(options.model):
        checks.append(check)
        if not options.as_json:
            typer.echo(f"{check.finding.value:<7} {check.name:<10} {check.detail}")
    if options.as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=2))
    return 0 if examination.healthy(checks) else 1
