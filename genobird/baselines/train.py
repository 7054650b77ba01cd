"""Train the baselines, keep them, and let them predict what the transformer is asked.

A directory of baselines holds

```
baselines.json                 settings, sizes, sha256 of the data, minutes
composition.safetensors        chromatin.* and promoters.*: mean, scale, weights
convolution.safetensors        chromatin.* and promoters.*: weights of the networks
<baseline>.chromatin.npz       logits of a split (`genobird.datasets.Predictions`)
<baseline>.promoters.npz
```
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from torch import Tensor

from genobird.baselines.composition import (
    Composition,
    bin_composition,
    fit_composition,
    promoter_composition,
)
from genobird.baselines.convolution import (
    Convolution,
    ConvolutionConfig,
    ConvolutionSettings,
    fit_convolution,
    predict_codes,
)
from genobird.baselines.windows import (
    BinBatches,
    PromoterBatches,
    bin_codes,
    consecutive,
    generator,
    promoter_codes,
)
from genobird.datasets import UPSTREAM_BP, ChromatinDataset, Predictions, read_promoters
from genobird.errors import CheckpointError, UsageError

logger = logging.getLogger(__name__)

POSITIVE_WEIGHT = 8.0
"""Weight of a positive chromatin label, as the transformer's: calibrated by subtracting ln 8."""
FACTS = "baselines.json"
_RUN_BINS = 64
_LOG_EVERY = 100


class BaselineConfig(BaseModel):
    """Configuration of the baselines' training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    composition_bins: int = Field(
        200_000, ge=1, description="Training bins of the chromatin regressions, drawn at random."
    )
    chromatin_shape: ConvolutionConfig = ConvolutionConfig()
    chromatin_fit: ConvolutionSettings = ConvolutionSettings()
    windows: int = Field(16, ge=1, description="Windows a step of the chromatin network.")
    bins: int = Field(32, ge=1, description="Consecutive bins a window.")
    promoter_shape: ConvolutionConfig = ConvolutionConfig(hidden=64, dropout=0.5)
    promoter_fit: ConvolutionSettings = ConvolutionSettings(
        steps=300, learning_rate=1e-3, warmup_steps=50
    )
    promoter_windows: int = Field(64, ge=1, description="Windows a step of the promoter network.")
    jitter_bp: int = Field(16, ge=0, description="Most bases a promoter window is moved by.")
    seed: int = Field(0, ge=0, description="Key of the data's order.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")


def train_baselines(
    output: Path,
    *,
    chromatin: Path | None = None,
    promoters: Path | None = None,
    config: BaselineConfig | None = None,
    split: str = "test",
    force: bool = False,
) -> dict[str, Any]:
    """Train both baselines on the `train` split and predict another one.

    Args:
        output: directory, written under a temporary name and renamed.
        chromatin: dataset directory; None leaves chromatin out.
        promoters: table of promoter windows; None leaves promoters out.
        config: how to train.
        split: what to predict at the end.
        force: replace an existing directory.

    Returns:
        What `baselines.json` holds.

    Raises:
        UsageError: neither dataset is given, or the directory exists and `force` is not given.
    """
    config = config or BaselineConfig()
    if chromatin is None and promoters is None:
        raise UsageError("nothing to train on; give a chromatin dataset, a promoter table or both")
    if output.exists() and not force:
        raise UsageError(f"{output} exists; choose another place or pass --force")
    if config.threads:
        torch.set_num_threads(config.threads)
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        facts = _train(part, chromatin, promoters, config)
        predict_baselines(part, chromatin=chromatin, promoters=promoters, split=split)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if output.exists():
        shutil.rmtree(output)
    os.replace(part, output)
    return facts


def _train(
    path: Path, chromatin: Path | None, promoters: Path | None, config: BaselineConfig
) -> dict[str, Any]:
    """Train and write weights and facts."""
    composition: dict[str, NDArray[Any]] = {}
    convolution: dict[str, NDArray[Any]] = {}
    facts: dict[str, Any] = {"config": config.model_dump(mode="json")}
    for kind, source, train in (
        ("chromatin", chromatin, _train_chromatin),
        ("promoters", promoters, _train_promoters),
    ):
        if source is not None:
            regression, network, facts[kind] = train(source, config)
            for name in ("mean", "scale", "weights"):
                composition[f"{kind}.{name}"] = getattr(regression, name)
            for name, value in network.state_dict().items():
                convolution[f"{kind}.{name}"] = value.numpy()
    save_arrays(composition, path / "composition.safetensors")
    save_arrays(convolution, path / "convolution.safetensors")
    (path / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def predict_baselines(
    path: Path,
    *,
    chromatin: Path | None = None,
    promoters: Path | None = None,
    split: str = "test",
    precision: str = "float32",
) -> None:
    """Write the predictions of trained baselines for a split, beside their weights.

    Args:
        path: directory that `train_baselines` made.
        chromatin: dataset directory; None leaves chromatin out.
        promoters: table of promoter windows; None leaves promoters out.
        split: whose places are predicted: every usable bin once, every promoter window once.
        precision: of the networks' products, float32 or bf16.

    Raises:
        CheckpointError: the directory does not hold what is asked for.
    """
    if chromatin is not None:
        dataset = ChromatinDataset(chromatin)
        regression, network = load_baselines(path, "chromatin")
        places = [dataset.usable_bins(i) for i in dataset.intervals(split)]
        names = [i.contig for i in dataset.intervals(split)]
        contigs = np.repeat(np.array(names, dtype=np.str_), [len(bins) for bins in places])
        bins = np.concatenate(places)
        labels = np.concatenate([dataset.labels(c, b) for c, b in zip(names, places, strict=True)])
        inputs = [bin_composition(dataset, c, b) for c, b in zip(names, places, strict=True)]
        for name, logits in (
            ("composition", regression.predict(np.concatenate(inputs))),
            ("convolution", predict_bins(network, dataset, contigs, bins, precision=precision)),
        ):
            found = Predictions(contigs, bins, labels, logits, dataset.bin_bp)
            found.save(path / f"{name}.chromatin.npz")
    if promoters is not None:
        table = read_promoters(promoters, split)
        regression, network = load_baselines(path, "promoters")
        inputs_ = promoter_composition(table["sequence"].tolist(), UPSTREAM_BP)
        codes = promoter_codes(table, network.config.input_bp)
        found_ = predict_codes(network, codes, precision=precision, both_strands=False)
        for name, logits in (
            ("composition", regression.predict(inputs_)[:, 0]),
            ("convolution", found_[:, 0, 0]),
        ):
            Predictions.of_promoters(table, logits).save(path / f"{name}.promoters.npz")


def load_baselines(path: Path, kind: str) -> tuple[Composition, Convolution]:
    """Read the regressions and the network for `chromatin` or `promoters`.

    Raises:
        UsageError: there is no such directory.
        CheckpointError: it lacks them, or is damaged.
    """
    if not (path / FACTS).is_file():
        raise UsageError(f"{path} holds no baselines: it has no {FACTS}")
    try:
        facts = json.loads((path / FACTS).read_text())
        arrays = load_arrays(path / "composition.safetensors")
        regression = Composition(*(arrays[f"{kind}.{k}"] for k in ("mean", "scale", "weights")))
        network = Convolution(ConvolutionConfig.model_validate(facts[kind]["convolution"]["shape"]))
        state: dict[str, Tensor] = {
            name.removeprefix(f"{kind}."): torch.from_numpy(value)
            for name, value in load_arrays(path / "convolution.safetensors").items()
            if name.startswith(f"{kind}.")
        }
        network.load_state_dict(state)
    except (KeyError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} holds no usable {kind} baselines; train them again"
        ) from error
    return regression, network.eval()


def predict_bins(
    network: Convolution,
    dataset: ChromatinDataset,
    contigs: NDArray[np.str_],
    bins: NDArray[np.int64],
    *,
    precision: str = "float32",
) -> NDArray[np.float32]:
    """Return the logits of bins, both strands averaged, float32 [N, F]."""
    logits = np.empty((len(bins), network.config.outputs), dtype=np.float32)
    for run in consecutive(contigs, bins, _RUN_BINS):
        codes = bin_codes(dataset, str(contigs[run.start]), bins[run], network.config.input_bp)
        found = predict_codes(network, codes[None], precision=precision, both_strands=True)
        logits[run] = found[0]
    return logits


def _train_chromatin(
    source: Path, config: BaselineConfig
) -> tuple[Composition, Convolution, dict[str, Any]]:
    dataset = ChromatinDataset(source)
    began = time.monotonic()
    inputs, labels = [], []
    for interval in dataset.intervals("train"):
        bins = dataset.usable_bins(interval)
        inputs.append(bin_composition(dataset, interval.contig, bins))
        labels.append(dataset.labels(interval.contig, bins))
    x, y = np.concatenate(inputs), np.concatenate(labels)
    if len(x) > config.composition_bins:
        rng = generator(config.seed, 2)
        rows = np.sort(rng.choice(len(x), config.composition_bins, replace=False))
        x, y = x[rows], y[rows]
    regression = fit_composition(x, y, positive_weight=POSITIVE_WEIGHT)
    fitted = time.monotonic()
    logger.info("composition: %d bins in %.0f s", len(x), fitted - began)
    shape = config.chromatin_shape.model_copy(update={"outputs": len(dataset.features)})
    batches = BinBatches(
        dataset, "train", input_bp=shape.input_bp, windows=config.windows, bins=config.bins,
        seed=config.seed,
    )  # fmt: skip
    network = fit_convolution(
        shape, batches, config.chromatin_fit, positive_weight=POSITIVE_WEIGHT,
        log=_Log("chromatin", config.chromatin_fit.steps),
    )  # fmt: skip
    facts = _facts(source / "index.json", len(x), fitted - began, regression)
    facts["convolution"] = _network_facts(network, config.chromatin_fit, len(batches), fitted)
    return regression, network, facts


def _train_promoters(
    source: Path, config: BaselineConfig
) -> tuple[Composition, Convolution, dict[str, Any]]:
    table: pd.DataFrame = read_promoters(source, "train")
    began = time.monotonic()
    inputs = promoter_composition(table["sequence"].tolist(), UPSTREAM_BP)
    regression = fit_composition(inputs, table["label"].to_numpy(np.uint8)[:, None])
    fitted = time.monotonic()
    shape = config.promoter_shape.model_copy(update={"outputs": 1})
    batches = PromoterBatches(
        table, input_bp=shape.input_bp, windows=config.promoter_windows,
        jitter_bp=config.jitter_bp, seed=config.seed,
    )  # fmt: skip
    log = _Log("promoters", config.promoter_fit.steps)
    network = fit_convolution(shape, batches, config.promoter_fit, log=log)
    facts = _facts(source, len(table), fitted - began, regression)
    facts["convolution"] = _network_facts(network, config.promoter_fit, len(batches), fitted)
    return regression, network, facts


def _facts(source: Path, rows: int, seconds: float, regression: Composition) -> dict[str, Any]:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    sizes = {"rows": rows, "parameters": regression.weights.size, "seconds": round(seconds, 1)}
    return {"sha256": digest, "composition": sizes}


def _network_facts(
    network: Convolution, settings: ConvolutionSettings, epoch_steps: int, began: float
) -> dict[str, Any]:
    return {
        "shape": network.config.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": settings.steps,
        "epochs": round(settings.steps / epoch_steps, 2),
        "seconds": round(time.monotonic() - began, 1),
    }


class _Log:
    """A log line every hundred steps, with the mean loss since the last."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps
        self.losses: list[float] = []
        self.since = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) < _LOG_EVERY:
            return
        rate = len(self.losses) / max(1e-9, time.monotonic() - self.since)
        mean = sum(self.losses) / len(self.losses)
        logger.info(
            "%s network: step %d of %d, loss %.4f, %.1f steps/s",
            self.name, step + 1, self.steps, mean, rate,
        )  # fmt: skip
        self.losses, self.since = [], time.monotonic()
