"""A trained model -> the directory that ships inside the package.

Weights become float16, which halves the size; provenance keeps commands and settings but no path of
the machine that trained; the card lies beside the weights as `README.md`. What is evaluated must be
what ships: bundle first, evaluate the bundled model, then bundle it again with its card. Bundling
twice changes no byte of the weights. The figures lie there too, as `evaluation.json`, and the
background of common variants, made with the rounded model too, as `background.npz`.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import torch
import typer

from genobird.checkpoint import KIND, WEIGHTS, Checkpoint
from genobird.errors import BackgroundError, CheckpointError, InputError, OutputError
from genobird.files import read_json, refuse_existing
from genobird.scoring.background import FILE as BACKGROUND
from genobird.scoring.background import Background
from pipelines import steps

logger = logging.getLogger(__name__)

CARD, EVALUATION = "README.md", "evaluation.json"
ASSEMBLY = "GRCh37"
"""What the pipelines train on; scoring says when a genome is of another assembly."""
_ABSOLUTE = re.compile(r"(^|[=,])(/[^=,]+)")


def scrub(value: Any) -> Any:
    """Return provenance with each absolute path cut to its file name, in command lines too."""
    if isinstance(value, dict):
        return {key: scrub(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item) for item in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    try:
        words = shlex.split(value)
    except ValueError:  # a quote without its partner: no command line
        return " ".join(map(_cut, value.split()))
    short = [_cut(word) for word in words]
    return value if short == words else shlex.join(short)


def _cut(word: str) -> str:
    return _ABSOLUTE.sub(lambda match: match[1] + PurePosixPath(match[2]).name, word)


def bundle(
    model: steps.ModelFolder,
    output: steps.OutputFolder,
    card: Annotated[Path | None, typer.Option(help="Model card, Markdown.")] = None,
    *,
    evaluation: Annotated[Path | None, typer.Option(help="Its test figures, JSON.")] = None,
    max_mb: Annotated[float, typer.Option(help="Most megabytes (10^6 bytes) that may ship.")] = 25,
    background: Annotated[
        Path | None, typer.Option(help="Its effects among common variants, .npz.")
    ] = None,
    notes: Annotated[
        list[str] | None, typer.Option("--note", help="For the card; repeatable.")
    ] = None,
    force: steps.Force = False,
) -> Checkpoint:
    """Round a model to float16, drop the machine's paths, put card and figures beside it.

    Figures and background are of the model that ships. Without notes those that there are stay.

    Returns:
        The checkpoint, with the provenance that was written.

    Raises:
        UsageError: an input is missing, or `output` exists and `force` is not set.
        CheckpointError: the model is damaged, or a weight is too large for float16.
        InputError: the figures are no JSON, or those of another model.
        BackgroundError: the background is damaged, or of another model.
        OutputError: the result would be larger than `max_mb`.
    """
    refuse_existing(output, force, KIND)
    if card is not None:
        steps.require(card)
    figures = None if evaluation is None else read_json(evaluation)
    effects = None if background is None else Background.load(background)
    checkpoint = Checkpoint.load(model)
    _refuse_overflow(checkpoint, model)
    checkpoint.provenance = {"assembly": ASSEMBLY, **scrub(checkpoint.provenance)}
    if notes:
        checkpoint.provenance["notes"] = list(notes)
    with steps.new_directory(output, force, KIND) as folder:
        checkpoint.save(folder, dtype=torch.float16, force=True)
        if card is not None:
            shutil.copyfile(card, folder / CARD)
        if figures is not None:
            if figures.get("model_sha256") != checkpoint.provenance["sha256"][WEIGHTS]:
                raise InputError(
                    f"{evaluation} measures another model than {model}, rounded to float16; "
                    "evaluate the bundled model"
                )
            (folder / EVALUATION).write_text(json.dumps(scrub(figures), indent=2) + "\n")
        if effects is not None:
            if effects.model != checkpoint.hash:
                raise BackgroundError(
                    f"{background} is of another model than {model}, rounded to float16; "
                    "build it with the bundled model"
                )
            replace(effects, facts=scrub(effects.facts)).save(folder / BACKGROUND)
        for file in folder.iterdir():
            file.chmod(0o644)  # weights are written for their owner alone, a package is for all
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        if size > max_mb:
            raise OutputError(
                f"the bundle of {model} has {size:.1f} MB, at most {max_mb:g} MB may ship; "
                "train a smaller model"
            )
    logger.info("%s: %.1f MB, model %s", output, size, checkpoint.hash)
    return checkpoint


def _refuse_overflow(checkpoint: Checkpoint, model: Path) -> None:
    for name, module in checkpoint.modules().items():
        for key, value in module.named_parameters():
            if not torch.isfinite(value.half()).all():
                raise CheckpointError(
                    f"{model}: {name}.{key} has values beyond float16; the training diverged"
                )


if __name__ == "__main__":
    steps.run(bundle)
