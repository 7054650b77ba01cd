"""Verbs that exchange checkpoints with transformers: import-hf, export-hf."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.options import Force, Model
from genobird.cli.running import provenance, refuse_existing, refuse_same_file

Output = Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command("import-hf")(import_hf)
    app.command("export-hf")(export_hf)


def import_hf(
    directory: Annotated[
        Path, typer.Argument(help="Checkpoint: config.json, weights, tokenizer.json.")
    ],
    output: Output,
    force: Force = False,
) -> None:
    """Make a model directory of a DNA BigBird of transformers, with the same logits."""
    from genobird.hf.exchange import import_model

    refuse_existing(output, force)
    refuse_same_file({"--output": output}, {"the checkpoint": directory})
    checkpoint, left = import_model(directory, provenance())
    checkpoint.save(output, force=force)
    _tell(output, left)


def export_hf(
    output: Output,
    model: Model = None,
    encoder_only: Annotated[
        bool, typer.Option("--encoder-only", help="Leave out the masked-LM head.")
    ] = False,
    force: Force = False,
) -> None:
    """Make a checkpoint of transformers from a model directory."""
    from genobird.checkpoint import Checkpoint
    from genobird.hf.exchange import export_model
    from genobird.scoring.scorer import bundled_model

    refuse_same_file({"--output": output}, {"--model": model})
    checkpoint = Checkpoint.load(model or bundled_model())
    _tell(output, export_model(checkpoint, output, encoder_only=encoder_only, force=force))


def _tell(output: Path, left: list[str]) -> None:
    for part in left:
        typer.echo(f"left out: {part}", err=True)
    typer.echo(f"model written to {output}")
