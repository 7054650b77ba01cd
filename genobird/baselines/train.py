"""Train baselines, keep them, and let them predict what the transformer is asked.

A directory of baselines holds

```
baselines.json                 settings; by kind of data, each model's sizes, sha256 of the data
features.tsv                   features of the chromatin models, in order (index, name, class)
<baseline>.safetensors         chromatin.* and promoters.*: weights
<baseline>.chromatin.npz       logits of a split (`genobird.datasets.Predictions`)
<baseline>.promoters.npz
<baseline>.scan.npz            logits of a scan, by the models of promoters
<baseline>.bases.npz           bits of every base of held-out shards (`bits_per_base.BaseBits`)
```

Models of sequence keep their bits alone: tables of n-grams are large and quickly made. Each of the
others is written when it is trained, so a run that was stopped can go on behind the last one, and
within a network of chromatin from the state that it saved last.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as pack_arrays

from genobird.baselines import network_models as networks
from genobird.baselines.config import BaselineConfig
from genobird.baselines.fitted import Arrays, BinModel, Bins, BinSource, Fitted, PromoterModel
from genobird.baselines.linear_models import CompositionModel, GappedModel, KmerModel
from genobird.baselines.ngram import Unit, open_shards, predict_sequence
from genobird.datasets import ChromatinDataset, Predictions, Sites, read_promoters
from genobird.errors import CheckpointError, UsageError
from genobird.files import Draft, Kind, file_sha256, read_json, refuse_existing, write_text
from genobird.runs import Identity, Start, begun_folder, flat
from genobird.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

FACTS, FEATURES = "baselines.json", "features.tsv"
_DATA = ("chromatin", "promoters", "sites", "auxiliary")


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
_MADE = [f"{name}.{end}" for name in MODELS for end in ("safetensors", "state", "*.npz")]
KIND = Kind("folder of baselines", FACTS, (FACTS, FEATURES, *_MADE), '"config"')


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


class SequenceSource(NamedTuple):
    """Token shards to learn from and to predict, and what made them."""

    train: Path
    held_out: Path
    tokenizer: Path


def train_baselines(
    output: Path,
    *,
    chromatin: Path | None = None,
    promoters: Path | None = None,
    scan: Path | None = None,
    sequence: SequenceSource | None = None,
    config: BaselineConfig | None = None,
    split: str = "test",
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train baselines on the `train` split and predict another one.

    Args:
        output: directory; until all is done, its content lies in `OUTPUT.partial`.
        chromatin: dataset directory; None leaves chromatin out.
        promoters: table of promoter windows; None leaves promoters out.
        scan: table of promoters among the windows of a scan, which the models of promoters predict
            too.
        sequence: token shards; None leaves n-grams out.
        config: which models, and how to train them.
        split: what of `chromatin`, `promoters` and `scan` is predicted at the end.
        resume: go on with a run that was stopped, where there is one.
        force: replace an existing directory and, without `resume`, what an unfinished run has done.

    Returns:
        What `baselines.json` holds.

    Raises:
        UsageError: no data are given, a model and the data do not fit, the directory exists and
            `force` is not given, it holds no baselines, or there is an unfinished run and neither
            is given, or it is another.
    """
    config = config or BaselineConfig()
    sources = {"chromatin": chromatin, "promoters": promoters, "sequence": sequence}
    given = [kind for kind, source in sources.items() if source is not None]
    if not given:
        raise UsageError(
            "nothing to train on; give a chromatin dataset, a promoter table or token shards"
        )
    if scan is not None and promoters is None:
        raise UsageError("a scan trains nothing; give the promoters to train on too")
    names = chosen(config.models, given)
    refuse_existing(output, force, KIND)
    if config.threads:
        torch.set_num_threads(config.threads)
    # What is asked for at the end is opened first: hours of training come between.
    for dataset in (chromatin, config.auxiliary_path):
        if dataset is not None:
            ChromatinDataset(dataset)
    for windows, needed in ((promoters, "train"), (promoters, split), (scan, split)):
        if windows is not None:
            read_promoters(windows, needed)
    facts = _facts(config, chromatin, promoters)
    start = Start(resume=resume, force=force)
    with begun_folder(output, KIND, _identity(facts), start, _unfinished) as part:
        if (part / FACTS).exists():
            facts = read_json(part / FACTS)
        else:
            _write_facts(part, facts)
        _train(part, facts, names, chromatin, promoters, sequence, config)
        predict_baselines(part, chromatin=chromatin, promoters=promoters, scan=scan, split=split)
    return facts


def _facts(
    config: BaselineConfig, chromatin: Path | None, promoters: Path | None
) -> dict[str, Any]:
    """Return the facts of a run that has trained nothing yet."""
    free = {"threads", "sites", "auxiliary_path"}
    facts: dict[str, Any] = {"config": config.model_dump(mode="json", exclude=free)}
    data = {
        "chromatin": chromatin and chromatin / "index.json",
        "promoters": promoters,
        "sites": config.sites,
        "auxiliary": config.auxiliary_path and config.auxiliary_path / "index.json",
    }
    return facts | {kind: {"sha256": file_sha256(file)} for kind, file in data.items() if file}


def _identity(facts: Mapping[str, Any]) -> Identity:
    """Return what a run must be resumed with: the settings, and the data by their kind."""
    data = {kind: facts.get(kind, {}).get("sha256") for kind in _DATA}
    return flat({**facts["config"], "sha256": data})


def _unfinished(folder: Path) -> Identity | None:
    """Return the identity of the run of which a folder holds a model, or one half trained."""
    made = {file.name for file in folder.glob("[!.]*")}
    return _identity(read_json(folder / FACTS)) if made > {FACTS} else None


def _train(
    path: Path,
    facts: dict[str, Any],
    names: Mapping[str, list[str]],
    chromatin: Path | None,
    promoters: Path | None,
    sequence: SequenceSource | None,
    config: BaselineConfig,
) -> None:
    """Train what `facts` does not hold yet, and add it there."""

    def keep(kind: str, name: str, model: Fitted, began: float) -> None:
        seconds = round(time.monotonic() - began, 1)
        file = path / f"{name}.safetensors"
        kept = load_arrays(file) if file.is_file() else {}
        kept |= {f"{kind}.{key}": np.ascontiguousarray(v) for key, v in model.arrays().items()}
        with Draft(file) as part:
            part.write_bytes(pack_arrays(kept))
        facts[kind][name] = {**model.facts, "seconds": seconds}
        _write_facts(path, facts)
        logger.info("%s of %s: %.0f s", name, kind, seconds)

    if chromatin is not None:
        dataset = ChromatinDataset(chromatin)
        sites = Sites.load(config.sites) if config.sites else None
        auxiliary = ChromatinDataset(config.auxiliary_path) if config.auxiliary_path else None
        for name in (n for n in names["chromatin"] if n not in facts["chromatin"]):
            began, train_bins = time.monotonic(), MODELS[name].chromatin
            assert train_bins is not None
            state = path / f"{name}.state"
            model = train_bins(BinSource(dataset, sites, auxiliary, state), config)
            keep("chromatin", name, model, began)
            state.unlink(missing_ok=True)
        write_text(path / FEATURES, dataset.features.to_csv(sep="\t", index=False))
    if promoters is not None:
        table = read_promoters(promoters, "train")
        for name in (n for n in names["promoters"] if n not in facts["promoters"]):
            began, train_windows = time.monotonic(), MODELS[name].promoters
            assert train_windows is not None
            keep("promoters", name, train_windows(table, config), began)
    if sequence is not None:
        facts["sequence"] = _train_sequence(path, names["sequence"], sequence, config)
        _write_facts(path, facts)


def _write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    write_text(path / FACTS, json.dumps(facts, indent=2) + "\n")


def _train_sequence(
    path: Path, names: list[str], source: SequenceSource, config: BaselineConfig
) -> dict[str, Any]:
    train, held_out = open_shards(source.train, source.held_out)
    tokenizer = Tokenizer.load(source.tokenizer)
    facts: dict[str, Any] = {
        "genome_sha256": train.index.genome_sha256,
        "corpus_sha256": train.index.corpus_sha256,
        "held_out_corpus_sha256": held_out.index.corpus_sha256,
        "tokenizer_sha256": tokenizer.sha256,
    }
    for name in names:
        began, unit = time.monotonic(), MODELS[name].sequence
        assert unit is not None
        bits, found = predict_sequence(train, held_out, tokenizer, unit, getattr(config, name))
        bits.save(path / f"{name}.bases.npz")
        facts[name] = {**found, "seconds": round(time.monotonic() - began, 1)}
    return facts


def predict_baselines(
    path: Path,
    *,
    chromatin: Path | None = None,
    promoters: Path | None = None,
    scan: Path | None = None,
    split: str = "test",
) -> None:
    """Write the predictions of trained baselines for a split, beside their weights.

    `train_baselines` made `path`; `chromatin` is a dataset's directory, `promoters` and `scan` are
    tables, and None is left out. Every usable bin and every promoter window is predicted once.

    Raises:
        CheckpointError: the directory does not hold what is asked for.
    """
    if chromatin is not None:
        dataset = ChromatinDataset(chromatin)
        bins = Bins.of_split(dataset, split)
        places = bins.contigs, bins.numbers, bins.labels()
        for name, model in load_baselines(path, "chromatin").items():
            found = Predictions(*places, model.predict_bins(bins), dataset.bin_bp)
            found.save(path / f"{name}.chromatin.npz")
    for kind, windows in (("promoters", promoters), ("scan", scan)):
        if windows is None:
            continue
        table = read_promoters(windows, split)
        for name, trained in load_baselines(path, "promoters").items():
            logits = trained.predict_promoters(table)
            Predictions.of_promoters(table, logits).save(path / f"{name}.{kind}.npz")


@overload
def load_baselines(path: Path, kind: Literal["chromatin"]) -> dict[str, BinModel]: ...


@overload
def load_baselines(path: Path, kind: Literal["promoters"]) -> dict[str, PromoterModel]: ...


def load_baselines(path: Path, kind: str) -> dict[str, Any]:
    """Read all trained models for `chromatin` or `promoters`, by name.

    Raises:
        UsageError: there is no such directory.
        CheckpointError: it has none of them, or is damaged.
    """
    if not (path / FACTS).is_file():
        raise UsageError(f"{path} holds no baselines: it has no {FACTS}")
    found: dict[str, Any] = {}
    try:
        facts = json.loads((path / FACTS).read_text())[kind]
        for name in (name for name in MODELS if name in facts):
            load = MODELS[name].load
            assert load is not None
            stored = load_arrays(path / f"{name}.safetensors")
            arrays = {
                key.removeprefix(f"{kind}."): value
                for key, value in stored.items()
                if key.startswith(f"{kind}.")
            }
            found[name] = load(arrays, facts[name])
    except (KeyError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} holds no usable {kind} baselines; train them again"
        ) from error
    return found
