"""Measure a model on held-out data, beside baselines on the same windows, and write it down.

`predict.py` asks the model, `figures.py` measures; here both are put together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field

import genobird
from genobird.bits import BaseBits
from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset, Predictions, read_promoters
from genobird.errors import InputError, UsageError
from genobird.files import file_sha256, write_text
from genobird.shards import Shards
from genobird.tasks.data import PretrainDataSettings
from genobird.tasks.figures import (
    Logits,
    evaluate_chromatin,
    evaluate_masked,
    evaluate_promoters,
)
from genobird.tasks.masked import MaskedTokens, Repeats, predict_masked
from genobird.tasks.predict import predict_chromatin, predict_promoters

EVALUATION, PER_FEATURE = "evaluation.json", "per_feature.tsv"
BASELINES = "baselines.json"
KINDS = ("masked", "bases", "promoters", "scan", "chromatin")
"""Predictions are `<name>.<kind>.npz`."""


class EvaluateSettings(BaseModel):
    """How a model is evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    both_strands: bool = Field(True, description="Average both strands of chromatin windows.")
    context_bp: int = Field(8_000, ge=0, description="Least context of a bin on either side.")
    window_bp: int = Field(30_000, ge=200, description="Longest chromatin window.")
    masked: PretrainDataSettings = PretrainDataSettings(sequences=1)
    masked_batches: int = Field(64, ge=1, description="Most batches of masked tokens.")
    masked_context: int = Field(
        0, ge=0, description="Tokens seen at once, specials included; 0 shows windows whole."
    )
    group_bp: int = Field(250_000, ge=1, description="Stretch that the bootstrap resamples.")
    resamples: int = Field(200, ge=1, description="Resamples of the bootstrap.")
    seed: int = Field(0, ge=0, description="Key of the resamples and masks.")
    precision: Literal["float32", "bf16"] = Field("float32", description="Of matrix products.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to predict.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")


def evaluate(
    model: Path,
    output: Path,
    *,
    chromatin: Path | None = None,
    promoters: Path | None = None,
    scan: Path | None = None,
    shards: Path | None = None,
    repeats: Sequence[Path] = (),
    split: str = "test",
    baselines: Sequence[Path] = (),
    name: str | None = None,
    settings: EvaluateSettings | None = None,
    force: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a model and write `evaluation.json` and, with chromatin, `per_feature.tsv`.

    Args:
        model: checkpoint directory.
        output: directory of the files.
        chromatin: dataset directory.
        promoters: table of promoter windows.
        scan: table of promoters among all the windows of a scan.
        shards: token shards of held-out sequence.
        repeats: BED files; masked tokens are then measured inside and outside repeats too.
        split: part of `chromatin`, `promoters` and `scan` that is measured.
        baselines: directories of predictions for the same places: what `train_baselines` wrote, or
            evaluations of other models that were given a `name`.
        name: also write the predictions, as `<name>.chromatin.npz` and the like, so that another
            model can be compared with this one.
        settings: how to measure.
        force: replace an existing evaluation.
        provenance: facts to keep, such as the command.

    Returns:
        What `evaluation.json` holds.

    Raises:
        UsageError: nothing to measure, a missing head, file or split, an existing evaluation, a
            folder without predictions, a name that is none for files.
        InputError: a baseline's predictions are for other places.
    """
    settings = settings or EvaluateSettings()
    if all(source is None for source in (chromatin, promoters, scan, shards)):
        raise UsageError("nothing to measure; give a chromatin dataset, promoters or token shards")
    if (output / EVALUATION).exists() and not force:
        raise UsageError(f"{output / EVALUATION} exists; choose another place or pass --force")
    if name is not None and (not name or Path(name).name != name or name.startswith(".")):
        raise UsageError(f"name {name!r} begins file names; it is not empty and has no / in it")
    _refuse_empty(baselines, promoters=promoters, scan=scan, chromatin=chromatin)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    checkpoint = Checkpoint.load(model)
    result: dict[str, Any] = {
        "genobird": genobird.__version__,
        **(provenance or {}),
        **_identity(checkpoint),
        "split": split,
        "settings": settings.model_dump(mode="json"),
        "data": {},
    }
    known, compared = _known(baselines)
    if known:
        result["data"]["baselines"] = known
    if compared:
        result["data"]["compared"] = compared
    bootstrapping = {"resamples": settings.resamples, "seed": settings.seed}
    features: pd.DataFrame | None = None
    kept: dict[str, Predictions | MaskedTokens] = {}
    # What takes longest comes last: baselines of other places are refused when theirs are known.
    if shards is not None:
        opened = Shards.open(shards)
        result["data"]["shards"] = {
            "tokens": opened.tokens, "genome_sha256": opened.index.genome_sha256
        }  # fmt: skip
        kept["masked"] = masked = predict_masked(
            checkpoint, opened, settings.masked, settings.masked_batches,
            context=settings.masked_context, repeats=Repeats(repeats) if repeats else None,
            tracks={k: BaseBits.load(path) for k, path in _files(baselines, "bases").items()},
            seed=settings.seed, group_bp=settings.group_bp, precision=settings.precision,
            device=settings.device,
        )  # fmt: skip
        others = _read_masked(baselines, masked)
        result["masked"] = evaluate_masked(masked, baselines=others, **bootstrapping)
    for kind, windows in (("promoters", promoters), ("scan", scan)):
        if windows is None:
            continue
        table = read_promoters(windows, split)
        logits = predict_promoters(
            checkpoint, table, precision=settings.precision, device=settings.device
        )  # fmt: skip
        kept[kind] = predictions = Predictions.of_promoters(table, logits)
        result["data"][kind] = {"sha256": file_sha256(windows), "windows": len(table)}
        result[kind] = evaluate_promoters(
            predictions.labels[:, 0], logits, predictions.groups(settings.group_bp),
            baselines=read_baselines(baselines, kind, predictions), **bootstrapping,
        )  # fmt: skip
    if chromatin is not None:
        dataset = ChromatinDataset(chromatin)
        keys = ("left_out", "splits", "bins", "sources")
        result["data"]["chromatin"] = {
            "sha256": file_sha256(chromatin / "index.json"),
            "features": len(dataset.features),
            **{key: dataset.index.get(key) for key in keys},
        }
        kept["chromatin"] = predictions = predict_chromatin(
            checkpoint, dataset, split, both_strands=settings.both_strands,
            context_bp=settings.context_bp, window_bp=settings.window_bp,
            precision=settings.precision, device=settings.device,
        )  # fmt: skip
        found = evaluate_chromatin(
            predictions, dataset.features, group_bp=settings.group_bp, **bootstrapping,
            baselines=read_baselines(baselines, "chromatin", predictions),
        )  # fmt: skip
        features = found.pop("per_feature")
        result["chromatin"] = found
    output.mkdir(parents=True, exist_ok=True)
    if name is not None:
        for kind, answers in kept.items():
            answers.save(output / f"{name}.{kind}.npz")
    if features is not None:
        text = features.to_csv(sep="\t", index=False, float_format="%.5f")
        write_text(output / PER_FEATURE, text)
    write_text(output / EVALUATION, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


def read_baselines(
    folders: Sequence[Path], kind: str, predictions: Predictions
) -> dict[str, Logits]:
    """Read the logits of every baseline in some directories, by name; none without a directory.

    Raises:
        InputError: predictions for other places, or in another order.
    """
    found = {}
    for name, file in _files(folders, kind).items():
        other = Predictions.load(file)
        if not predictions.same_places(other):
            raise InputError(
                f"{file} holds {len(other.bins)} windows that are not, with their labels, the "
                f"{len(predictions.bins)} of this split; predict them again from the same data"
            )
        found[name] = other.logits
    return found


def _read_masked(folders: Sequence[Path], masked: MaskedTokens) -> dict[str, MaskedTokens]:
    """Read the answers of other masked language models, by name."""
    found = {}
    for name, file in _files(folders, "masked").items():
        found[name] = MaskedTokens.load(file)
        if not masked.same_tokens(found[name]):
            raise InputError(
                f"{file} answers for other tokens; evaluate its model again with the same shards, "
                "repeats, seed and masked settings"
            )
    return found


def _refuse_empty(folders: Sequence[Path], **measured: Path | None) -> None:
    """Refuse folders of baselines without what is to be compared, before anything is computed.

    Args:
        folders: of predictions.
        measured: labelled data, by kind; None is not measured.

    Raises:
        UsageError: naming the folder and the files.
    """
    for folder in folders:
        if not any(_files([folder], kind) for kind in KINDS):
            raise UsageError(
                f"{folder} has no predictions <name>.<kind>.npz of baselines; train them with "
                "`genobird baselines`, or evaluate another model with --name"
            )
    for kind, data in measured.items():
        if folders and data is not None and not _files(folders, kind):
            where = ", ".join(map(str, folders))
            raise UsageError(f"{where} has no predictions *.{kind}.npz; train the baselines first")


def _files(folders: Sequence[Path], kind: str) -> dict[str, Path]:
    """Find `<name>.<kind>.npz` in directories, by name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob(f"*.{kind}.npz")):
            name = file.name.removesuffix(f".{kind}.npz")
            if name in found:
                raise UsageError(f"{found[name]} and {file} have one name; leave one of them out")
            found[name] = file
    return found


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Say which model it is and how it was trained."""
    facts = checkpoint.provenance
    return {
        "model_sha256": facts["sha256"]["model.safetensors"],
        "encoder": checkpoint.encoder.config.model_dump(mode="json"),
        "training": {k: facts[k] for k in ("pretraining", "chromatin", "promoter") if k in facts},
    }


def _known(folders: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read how baselines, and other evaluated models by their name, were trained."""
    known: dict[str, Any] = {}
    compared: dict[str, Any] = {}
    for folder in folders:
        if (folder / BASELINES).is_file():
            for kind, facts in json.loads((folder / BASELINES).read_text()).items():
                known.setdefault(kind, {}).update(facts)
        if (folder / EVALUATION).is_file():
            facts = json.loads((folder / EVALUATION).read_text())
            keys = ("model_sha256", "encoder", "training", "settings", "command")
            names = {name for kind in KINDS for name in _files([folder], kind)}
            compared |= {name: {k: facts[k] for k in keys if k in facts} for name in names}
    return known, compared
