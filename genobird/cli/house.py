"""Verbs about genobird itself, its results and its models: demo, report, serve, info, schema, ...

A schema describes an input or an output in JSON, and is made from what reads or writes it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel

from genobird.cli.options import DEVICE, JSON, MODEL, THREADS, Compute, Made
from genobird.cli.running import (
    command_line,
    is_hushed,
    open_genome,
    open_scorer,
    progress_of,
    provenance,
    refuse_same_file,
    tell,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError, counted, one_line, quoted
from genobird.files import check_folder, refuse_existing
from genobird.names import deferred
from genobird.scoring.settings import EffectSettings

with deferred():
    from genobird import checkpoint as checkpoints
    from genobird import demo as demonstration
    from genobird import doctor as examination
    from genobird.cli import app, training
    from genobird.genome import fasta
    from genobird.hf import exchange
    from genobird.report import description, multiqc, page
    from genobird.scoring import haplotypes, variant_vcf
    from genobird.scoring import scorer as scorers
    from genobird.serve import question, site

DIRECTORY: Final = option("Directory to write.", "-o", default=...)
Schema = dict[str, Any]
TABLES = {"score": "score_regions", "variants": "screen_variants"}
"""Verb -> the method of a scorer whose table it writes."""


class DemoOptions(Made):
    """Where the results go, and what computes them."""

    output: Path = option("Folder of the results.", "-o", default=Path("genobird-demo"))
    model: Path | None = MODEL
    device: str = DEVICE
    threads: int | None = THREADS


class ReportOptions(Made):
    """Which tables a report is made from."""

    output: Path = option("HTML file.", "-o", default=...)
    regions: Path | None = option("Table of genobird score, TSV or Parquet.")
    variants: Path | None = option("Table of genobird variants, TSV or Parquet.")


class MultiqcOptions(Made):
    """Which tables are counted."""

    tables: tuple[Path, ...] = argument(
        "Tables of genobird score and genobird variants, one a sample, TSV or Parquet.", "TABLE"
    )
    output: Path = option("File whose name ends with _mqc.tsv.", "-o", default=...)


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
    with progress_of("places", demonstration.count()) as advance:
        made = demonstration.run(
            *(scorer, options.output),
            force=options.force,
            command=command_line(),
            progress=advance,
        )
    if not is_hushed():
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
    tell(f"report written to {output}")


def report_multiqc(options: MultiqcOptions) -> None:
    """Count the rows of score tables by status, in a file that MultiQC shows."""
    tables = {f"the table {path}": path for path in options.tables}
    refuse_same_file({"--output": options.output}, tables)
    multiqc.write_statuses(options.output, options.tables, options.force)
    tell(f"statuses of {counted(len(tables), 'table')} written to {options.output}")


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
            line = f"{check.finding.value:<7} {check.name:<10} {check.detail}"
            typer.echo(one_line(line))
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
    tell("Ctrl-C ends it")


class ImportOptions(Made):
    """Which checkpoint becomes which model directory."""

    directory: Path = argument("Checkpoint: config.json, weights, tokenizer.json or spiece.model.")
    output: Path = DIRECTORY


class ExportOptions(Made):
    """Which model becomes which checkpoint."""

    output: Path = DIRECTORY
    model: Path | None = MODEL
    encoder_only: bool = option("Leave out the masked-LM head.", default=False)


def import_hf(options: ImportOptions) -> None:
    """Make a model directory of a DNA BigBird of transformers, with the same logits."""
    refuse_existing(options.output, options.force, checkpoints.KIND)
    refuse_same_file({"--output": options.output}, {"the checkpoint": options.directory})
    checkpoint, left = exchange.import_model(options.directory, provenance())
    checkpoint.save(options.output, force=options.force)
    _tell_model(options.output, left)


def export_hf(options: ExportOptions) -> None:
    """Make a checkpoint of transformers from a model directory."""
    refuse_existing(options.output, options.force, exchange.KIND)
    refuse_same_file({"--output": options.output}, {"--model": options.model})
    checkpoint = checkpoints.Checkpoint.load(options.model or checkpoints.bundled_model())
    left = exchange.export_model(
        checkpoint, options.output, encoder_only=options.encoder_only, force=options.force
    )
    _tell_model(options.output, left)


def _tell_model(output: Path, left: list[str]) -> None:
    for part in left:
        tell(f"left out: {part}")
    tell(f"model written to {output}")


class SchemaOptions(Settings):
    """What is described, of which model."""

    words: tuple[str, ...] = argument("What to describe; without it, the names.", "[NAME]", ())
    model: Path | None = MODEL


def schema(options: SchemaOptions) -> None:
    """Write the JSON schema of a verb's options, of a configuration, a table or the INFO keys.

    Columns and keys are those of a model: the bundled one by default.
    """
    known, name = _known(options.model), " ".join(options.words)
    if not name:
        typer.echo("\n".join(known))
    elif name in known:
        described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **known[name]()}
        typer.echo(json.dumps(described, indent=2))
    else:
        raise UsageError(f"{quoted(name)} has no schema; genobird schema lists the names")


def _known(model: Path | None) -> dict[str, Callable[[], Schema]]:
    """Return what makes each schema, by name."""
    return {
        **{name: partial(_options, name) for name in app.VERBS},
        **{
            f"{name} configuration": partial(_configuration, name)
            for name in training.CONFIGURATIONS
        },
        **{f"{name} table": partial(_table, name, model) for name in TABLES},
        "variants INFO": partial(_info, model),
    }


def _options(name: str) -> Schema:
    """Describe the options and arguments of a verb."""
    verb = app.load_verb(name)
    merged: Schema = {"title": f"genobird {name}", "description": inspect.getdoc(verb) or ""}
    merged |= {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            part = kind.model_json_schema()
            merged["properties"] |= part["properties"]
            merged["required"] += part.get("required", [])
            if definitions := part.get("$defs"):
                merged["$defs"] = merged.get("$defs", {}) | definitions
    return merged


def _configuration(name: str) -> Schema:
    return training.configuration(name).model_json_schema()


def _table(name: str, model: Path | None) -> Schema:
    """Describe a row of a table."""
    with fasta.Genome(demonstration.bundled(demonstration.GENOME)) as genome:
        frame = getattr(scorers.load(model), TABLES[name])([], genome)
    columns = {str(column): {"type": _type_of(kind)} for column, kind in frame.dtypes.items()}
    return _object(f"Row of the table of genobird {name}", columns)


def _info(model: Path | None) -> Schema:
    """Describe the INFO keys of a VCF, those of options included."""
    settings = EffectSettings(embedding=True)
    fields = [
        *variant_vcf.info_fields(scorers.load(model), lifted=True, settings=settings),
        *variant_vcf.GENES,
        *haplotypes.FIELDS,
    ]
    types = {"Float": "number", "Integer": "integer", "String": "string"}
    keys = {
        field.id: {
            "type": "array",
            "items": {"type": [types[field.type], "null"]},
            "description": field.description,
            "number": field.number,
        }
        for field in fields
    }
    return _object("INFO of genobird variants", keys)


def _object(title: str, properties: Mapping[str, Any]) -> Schema:
    return {"title": title, "type": "object", "properties": properties}


def _type_of(kind: Any) -> Any:
    return {"f": ["number", "null"], "i": "integer", "u": "integer"}.get(kind.kind, "string")
