"""Verbs about genobird itself, its results and its models: demo, report, serve, info, doctor."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from genobird.cli.options import DEVICE, FORCE, JSON, MODEL, QUIET, THREADS, Compute
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    provenance,
    refuse_same_file,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import check_folder, refuse_existing
from genobird.names import deferred

with deferred():
    from genobird import checkpoint as checkpoints
    from genobird import demo as demonstration
    from genobird import doctor as examination
    from genobird.hf import exchange
    from genobird.report import description, page
    from genobird.scoring import scorer as scorers
    from genobird.serve import question, site

DIRECTORY: Final = option("Directory to write.", "-o", default=...)


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
    path = options.model or checkpoints.bundled_model()
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
    typer.echo("Ctrl-C ends it", err=True)


class ImportOptions(Settings):
    """Which checkpoint becomes which model directory."""

    directory: Path = argument("Checkpoint: config.json, weights, tokenizer.json or spiece.model.")
    output: Path = DIRECTORY
    force: bool = FORCE


class ExportOptions(Settings):
    """Which model becomes which checkpoint."""

    output: Path = DIRECTORY
    model: Path | None = MODEL
    encoder_only: bool = option("Leave out the masked-LM head.", default=False)
    force: bool = FORCE


def import_hf(options: ImportOptions) -> None:
    """Make a model directory of a DNA BigBird of transformers, with the same logits."""
    refuse_existing(options.output, options.force, checkpoints.KIND)
    refuse_same_file({"--output": options.output}, {"the checkpoint": options.directory})
    checkpoint, left = exchange.import_model(options.directory, provenance())
    checkpoint.save(options.output, force=options.force)
    _tell(options.output, left)


def export_hf(options: ExportOptions) -> None:
    """Make a checkpoint of transformers from a model directory."""
    refuse_same_file({"--output": options.output}, {"--model": options.model})
    checkpoint = checkpoints.Checkpoint.load(options.model or checkpoints.bundled_model())
    left = exchange.export_model(
        checkpoint, options.output, encoder_only=options.encoder_only, force=options.force
    )
    _tell(options.output, left)


def _tell(output: Path, left: list[str]) -> None:
    for part in left:
        typer.echo(f"left out: {part}", err=True)
    typer.echo(f"model written to {output}", err=True)
