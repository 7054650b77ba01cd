"""Training of networks over bases, and their predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from genobird.baselines.config import BaselineConfig, PublishedTraining
from genobird.baselines.fitted import Arrays, BinModel, Bins, BinSource, Logits, PromoterModel
from genobird.baselines.network import (
    CNNProm,
    Convolution,
    ConvolutionConfig,
    DanQ,
    DeePromoter,
    DeepSEA,
    Network,
    NetworkSettings,
    fit_network,
    predict_codes,
)
from genobird.baselines.windows import (
    BinBatches,
    PlaceBatches,
    PromoterBatches,
    bin_codes,
    consecutive,
    place_codes,
    promoter_codes,
)
from genobird.enriched import EnrichedBatches
from genobird.heads import POSITIVE_WEIGHT

logger = logging.getLogger(__name__)

PUBLISHED: dict[str, type[DeepSEA | DanQ | CNNProm | DeePromoter]] = {
    "deepsea": DeepSEA,
    "danq": DanQ,
    "cnnprom": CNNProm,
    "deepromoter": DeePromoter,
}
CONVOLUTION = "convolution"
_RUN_BINS = 64
_LOG_EVERY = 100


class NetworkModel(BinModel, PromoterModel):
    """A network and how it was made."""

    def __init__(self, network: Network, facts: dict[str, Any]) -> None:
        self.network, self.facts = network, facts

    @classmethod
    def load(cls, name: str, arrays: Arrays, facts: dict[str, Any]) -> NetworkModel:
        """Read what `arrays` and `facts` gave."""
        network = build(name, facts["shape"])
        network.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
        return cls(network.eval(), facts)

    def arrays(self) -> Arrays:
        """Weights and running means."""
        return {name: value.numpy() for name, value in self.network.state_dict().items()}

    def predict_bins(self, bins: Bins) -> Logits:
        """Return the logits of bins, both strands averaged, [N, F]."""
        logits = np.empty((len(bins), self.network.outputs), dtype=np.float32)
        for run in consecutive(bins.contigs, bins.numbers, _RUN_BINS):
            contig = str(bins.contigs[run.start])
            codes = bin_codes(bins.dataset, contig, bins.numbers[run], self.network.input_bp)
            logits[run] = predict_codes(self.network, codes[None], both_strands=True)[0]
        return logits

    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, both strands averaged, [S, F]."""
        before = self.network.before_bp
        after = self.network.input_bp - before
        codes = place_codes(sequences, places, before, after)
        return predict_codes(self.network, codes, both_strands=True)[:, 0]

    def predict_promoters(self, table: pd.DataFrame) -> Logits:
        """Return the logits of promoter windows, read along their strand, [N]."""
        codes = promoter_codes(table, self.network.input_bp, self.network.before_bp)
        return predict_codes(self.network, codes, both_strands=False)[:, 0, 0]


def build(name: str, shape: dict[str, Any]) -> Network:
    """Make a network of random weights from its name and shape."""
    if name == CONVOLUTION:
        return Convolution(ConvolutionConfig.model_validate(shape))
    return PUBLISHED[name](**shape)


def _outline(name: str, shape: dict[str, Any]) -> Network:
    """Make a network without weights, to ask what it reads."""
    with torch.device("meta"):
        return build(name, shape)


def train_chromatin(name: str, source: BinSource, config: BaselineConfig) -> NetworkModel:
    """Train a network on all usable bins of the training split, or on enriched places."""
    dataset = source.dataset
    auxiliary = source.auxiliary if config.enriched else None
    features = len(dataset.features)
    outputs = features + (len(auxiliary.features) if auxiliary else 0)
    if name == CONVOLUTION:
        shape = config.chromatin_shape.model_copy(update={"outputs": outputs}).model_dump()
        settings, windows, bins = config.chromatin_fit, config.windows, config.bins
    else:
        training: PublishedTraining = getattr(config, name)
        shape = {"outputs": outputs, "width": training.width}
        settings, windows, bins = training.fit, training.windows, training.bins
    input_bp = _outline(name, shape).input_bp
    if config.enriched is None:
        every = BinBatches(
            dataset, "train", input_bp=input_bp, windows=windows, bins=bins, seed=config.seed
        )
        weight = POSITIVE_WEIGHT
        return _train(name, shape, every, settings, positive_weight=weight, state=source.state)
    places = EnrichedBatches(
        dataset,
        "train",
        config.enriched,
        span_bp=input_bp,
        sites=source.sites,
        auxiliary=auxiliary,
        seed=config.seed,
    )
    enriched = PlaceBatches(places, features, config.auxiliary_weight)
    model = _train(name, shape, enriched, settings, state=source.state)
    return _narrowed(name, model, features)


def _narrowed(name: str, model: NetworkModel, outputs: int) -> NetworkModel:
    """Return a network that gives the first outputs of another one alone."""
    shape = {**model.facts["shape"], "outputs": outputs}
    narrow = build(name, shape)
    wanted = narrow.state_dict()
    narrow.load_state_dict(
        {
            key: value if value.shape == wanted[key].shape else value[:outputs]
            for key, value in model.network.state_dict().items()
        }
    )
    return NetworkModel(narrow.eval(), {**model.facts, "shape": shape})


def train_promoters(name: str, table: pd.DataFrame, config: BaselineConfig) -> NetworkModel:
    """Train a network on promoter windows and their negatives."""
    if name == CONVOLUTION:
        shape = config.promoter_shape.model_copy(update={"outputs": 1}).model_dump()
        settings, windows = config.promoter_fit, config.promoter_windows
    else:
        training: PublishedTraining = getattr(config, name)
        shape = {"outputs": 1, "width": training.width}
        settings, windows = training.fit, training.windows
    network = _outline(name, shape)
    batches = PromoterBatches(
        table,
        input_bp=network.input_bp,
        before_bp=network.before_bp,
        windows=windows,
        jitter_bp=config.jitter_bp,
        seed=config.seed,
    )
    return _train(name, shape, batches, settings)


def _train(
    name: str,
    shape: dict[str, Any],
    batches: BinBatches | PlaceBatches | PromoterBatches,
    settings: NetworkSettings,
    *,
    positive_weight: float = 1.0,
    state: Path | None = None,
) -> NetworkModel:
    network = fit_network(
        partial(build, name, shape),
        batches,
        settings,
        positive_weight=positive_weight,
        log=_Log(name, settings.steps),
        state=state,
    )
    facts = {
        "shape": shape,
        "parameters": network.parameters_trained,
        "steps": settings.steps,
        "epochs": round(settings.steps / len(batches), 2),
    }
    return NetworkModel(network, facts)


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
        facts = self.name, step + 1, self.steps, mean, rate
        logger.info("%s: step %d of %d, loss %.4f, %.1f steps/s", *facts)
        self.losses, self.since = [], time.monotonic()
