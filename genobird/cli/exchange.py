"""Verbs that exchange checkpoints with transformers: import-hf, export-hf."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer

from genobird.cli.options import FORCE, MODEL
from genobird.cli.running import provenance, refuse_same_file
from genobird.config import Settings, argument, option
from genobird.files import refuse_existing
from genobird.names import deferred

with deferred():
    from genobird import checkpoint as checkpoints
    from genobird.hf import exchange

OUTPUT: Final = option("Directory to write.", "-o", default=...)


class ImportOptions(Settings):
    """Which checkpoint becomes which model directory."""

    directory: Path = argument("Checkpoint: config.json, weights, tokenizer.json or spiece.model.")
    output: Path = OUTPUT
    force: bool = FORCE


class ExportOptions(Settings):
    """Which model becomes which checkpoint."""

    output: Path = OUTPUT
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
