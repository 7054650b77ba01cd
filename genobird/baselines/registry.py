"""All baselines by name: what each reads, how it is trained and how it is read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from genobird.baselines import network_models as networks
from genobird.baselines.config import BaselineConfig
from genobird.baselines.fitted import Arrays, BinModel, BinSource, Fitted, PromoterModel
from genobird.baselines.linear_models import CompositionModel, GappedModel, KmerModel
from genobird.baselines.sequence import Unit
from genobird.errors import UsageError


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        title: what it is, in words.
        chromatin: trains it on bins; None where it reads none.
        promoters: trains it on promoter windows.
        load: reads it again; None where nothing is kept but predictions.
        sequence: what an n-gram is made of, for a model of sequence.
    """

    title: str
    chromatin: Callable[[BinSource, BaselineConfig], BinModel] | None = None
    promoters: Callable[[pd.DataFrame, BaselineConfig], PromoterModel] | None = None
    load: Callable[[Arrays, dict[str, Any]], Fitted] | None = None
    sequence: Unit | None = None

    def reads(self, kind: str) -> bool:
        """Say whether it can be trained on `chromatin`, `promoters` or `sequence`."""
        return getattr(self, kind) is not None


def _network(name: str, title: str, *kinds: str) -> Baseline:
    chromatin = partial(networks.train_chromatin, name) if "chromatin" in kinds else None
    promoters = partial(networks.train_promoters, name) if "promoters" in kinds else None
    return Baseline(title, chromatin, promoters, partial(networks.NetworkModel.load, name))


MODELS: dict[str, Baseline] = {
    "composition": Baseline(
        "GC/CpG logistic regression",
        CompositionModel.train_chromatin,
        CompositionModel.train_promoters,
        CompositionModel.load,
    ),
    "kmers": Baseline(
        "k-mer logistic regression", promoters=KmerModel.train_promoters, load=KmerModel.load
    ),
    "gapped_kmers": Baseline(
        "gapped k-mer model",
        GappedModel.train_chromatin,
        GappedModel.train_promoters,
        GappedModel.load,
    ),
    "convolution": _network(
        networks.CONVOLUTION, "small convolutional network", "chromatin", "promoters"
    ),
    "cnnprom": _network("cnnprom", "CNNProm-shaped network", "promoters"),
    "deepromoter": _network("deepromoter", "DeePromoter-shaped network", "promoters"),
    "deepsea": _network("deepsea", "DeepSEA-shaped network", "chromatin"),
    "danq": _network("danq", "DanQ-shaped network", "chromatin"),
    "ngram_bases": Baseline("n-gram model of bases", sequence="bases"),
    "ngram_tokens": Baseline("n-gram model of tokens", sequence="tokens"),
}


def chosen(names: Iterable[str], kinds: Iterable[str]) -> dict[str, list[str]]:
    """Say which baselines are trained on each kind of data.

    Args:
        names: of the baselines that are wanted.
        kinds: data at hand: `chromatin`, `promoters`, `sequence`.

    Returns:
        Their names by kind.

    Raises:
        UsageError: an unknown name, one that reads none of the data, or data that none reads.
    """
    wanted, kinds = list(dict.fromkeys(names)), list(kinds)
    if unknown := [name for name in wanted if name not in MODELS]:
        raise UsageError(f"baseline {unknown[0]!r} is not one of {', '.join(MODELS)}")
    found = {kind: [name for name in wanted if MODELS[name].reads(kind)] for kind in kinds}
    for kind, readers in found.items():
        if not readers:
            able = [name for name, model in MODELS.items() if model.reads(kind)]
            raise UsageError(
                f"none of {', '.join(wanted)} reads {kind} data; add one of {', '.join(able)}"
            )
    idle = [name for name in wanted if not any(name in readers for readers in found.values())]
    if idle:
        needs = [k for k in ("chromatin", "promoters", "sequence") if MODELS[idle[0]].reads(k)]
        raise UsageError(
            f"{idle[0]} reads {' or '.join(needs)} data, and there are none; give them"
        )
    return found
