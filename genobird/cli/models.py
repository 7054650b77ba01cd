"""Verbs about a whole model: info, doctor, import-hf, export-hf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from genobird.cli.options import JSON, MODEL, Made
from genobird.cli.running import provenance, refuse_same_file, tell
from genobird.config import Settings, argument, option
from genobird.errors import UsageError, one_line
from genobird.files import refuse_existing
from genobird.names import deferred

with deferred():
    from genobird import checkpoint as checkpoints
    from genobird import doctor as examination
    from genobird.hf import exchange
    from genobird.report import description

DIRECTORY: Final = option("Directory to write.", "-o", default=...)


class InfoOptions(Settings):
    """Which model is described, and how."""

    model: Path | None = argument("Model directory; default the bundled one.", default=None)
    as_json: bool = JSON


def info(options: InfoOptions) -> None:
    """Describe a model: shape, heads, training data, test figures and the names of its features.

    With --json, everything: also hashes, all settings and the whole evaluation.
    """
    path = options.model or checkpoints.bundled_model()
    if options.model is None and not path.is_dir():
        raise UsageError("this installation has no bundled model; name a model directory")
    facts = description.describe(path)
    typer.echo(json.dumps(facts, indent=2) if options.as_json else description.summary(facts))


class DoctorOptions(Settings):
    """Which model is checked, and how the checks are shown."""

    model: Path | None = MODEL
    as_json: bool = JSON


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
