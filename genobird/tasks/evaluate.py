"""Measure a model on held-out data, beside baselines on the same windows, and write it down.

The model is asked about every place of a split once, in long windows; `figures.py` measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

import genobird
from genobird.bits_per_base import BaseBits
from genobird.checkpoint import Checkpoint
from genobird.config import MOST_SEED, Strict, settings_of
from genobird.datasets import UPSTREAM_BP, ChromatinDataset, Predictions, read_promoters
from genobird.errors import InputError, UsageError
from genobird.files import file_sha256, read_json, refuse_existing, write_text
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.inference import Inference
from genobird.shards import Shards
from genobird.targets import Floats
from genobird.tasks.data import PretrainDataSettings
from genobird.tasks.figures import (
    Logits,
    evaluate_chromatin,
    evaluate_masked,
    evaluate_promoters,
    evaluate_targets,
)
from genobird.tasks.label_table import Labels, LabelTable, labels_of, signals_by_name
from genobird.tasks.masked import MaskedTokens, Repeats, predict_masked
from genobird.tasks.metrics import Resampling
from genobird.tasks.settings import EvaluateData

EVALUATION, PER_FEATURE = "evaluation.json", "per_feature.tsv"
BASELINES = "baselines.json"
_ON_PLACES = ("promoters", "scan", "chromatin")
KINDS = ("masked", "bases", *_ON_PLACES)
"""Predictions are `<name>.<kind>.npz`."""
STAGES = ("pretraining", "chromatin", "promoter", "table")
"""Trainings of a model that are told of."""
_ANSWERS = {"shards": "masked"}
"""What is predicted, where that is called otherwise than its data."""
_WINDOWS = 64  # predicted at once: as many sequences are held in memory


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch that is read at once, and the bins of it that are kept.

    Attributes:
        contig: its name.
        start: first base, 0-based.
        end: base after the last.
        bins: int64 [n], ascending; their context lies in [start, end) or beyond the contig.
    """

    contig: str
    start: int
    end: int
    bins: NDArray[np.int64]


def windows_over(
    dataset: ChromatinDataset, split: str, context_bp: int, window_bp: int
) -> Iterator[Window]:
    """Cover each usable bin of a split once.

    A window reaches `context_bp` beyond its bins on both sides, also where that leaves the split:
    the sequence there is context, its labels are never read. It is clipped at the contig's ends.

    Raises:
        UsageError: a window has no room for a bin.
    """
    width = dataset.bin_bp
    room = (window_bp - 2 * context_bp) // width
    if room < 1:
        raise UsageError(
            f"window_bp {window_bp} has no bin with {context_bp} bp of context on both sides; "
            f"it is at least {2 * context_bp + width}"
        )
    for interval in dataset.intervals(split):
        usable = dataset.usable_bins(interval)
        stretch = (usable - -(-interval.start // width)) // room
        for bins in np.split(usable, np.flatnonzero(np.diff(stretch)) + 1):
            if len(bins):
                start = int(bins[0]) * width - context_bp
                end = int(bins[-1] + 1) * width + context_bp
                length = dataset.length(interval.contig)
                yield Window(interval.contig, max(0, start), min(end, length), bins)


def predict_chromatin(
    inference: Inference,
    dataset: ChromatinDataset,
    split: str,
    *,
    both_strands: bool = True,
    context_bp: int = 8_000,
    window_bp: int = 30_000,
) -> Predictions:
    """Predict every usable bin of a split once.

    Bins share long windows, so most see more than `context_bp` on a side, none sees less unless its
    contig ends. Windows reach over the split's borders for sequence, never for labels.

    Args:
        inference: runs a model with a chromatin head.
        dataset: its features are those of the head.
        split: whose bins are predicted.
        both_strands: average the logits of both strands.
        context_bp: least context of a bin on either side.
        window_bp: longest window.

    Raises:
        UsageError: the model has no chromatin head.
        InputError: the head has other features than the dataset, or the split has no usable bin.
    """
    head = inference.head("chromatin")
    names = inference.checkpoint.features["name"].tolist()
    if names != dataset.features["name"].tolist():
        raise InputError(
            f"the model's {len(names)} features are not the {len(dataset.features)} of "
            f"{dataset.path}; evaluate it on the dataset that it was trained on"
        )
    width, windows = dataset.bin_bp, list(windows_over(dataset, split, context_bp, window_bp))
    if not windows:
        raise InputError(f"{dataset.path}: split {split} has no bin without N")
    logits = []
    for first in range(0, len(windows), _WINDOWS):
        part = windows[first : first + _WINDOWS]
        sequences = [dataset.sequence(window.contig, window.start, window.end) for window in part]
        centres = [window.bins * width + width // 2 - window.start for window in part]
        logits.append(
            inference.predict([head], head.config, sequences, centres, both_strands=both_strands)
        )
    return Predictions(
        np.concatenate([np.full(len(window.bins), window.contig) for window in windows]),
        np.concatenate([window.bins for window in windows]),
        np.concatenate([dataset.labels(window.contig, window.bins) for window in windows]),
        np.concatenate(logits),
        width,
    )


def predict_promoters(inference: Inference, table: pd.DataFrame) -> NDArray[np.float32]:
    """Predict the windows of a promoter table as they are, oriented along their strand.

    Args:
        inference: runs a model with a promoter head.
        table: N rows with a column `sequence` whose transcription start is base 5,000.

    Returns:
        Logits of a start at that base, and of the likeliest one near it (`Head.starts`), float32
        [N, 2].

    Raises:
        UsageError: the model has no promoter head.
    """
    head = inference.head("promoter")
    texts = [str(text) for text in table["sequence"]]
    places = [np.array([UPSTREAM_BP], dtype=np.int64)] * len(texts)
    return inference.predict([head.starts], head.config, texts, places)


def window(genome: Genome, region: Interval, window_bp: int) -> tuple[str, int]:
    """Return the bases around a region's midpoint, and where in them it is."""
    flank = window_bp // 2
    text, start = genome.fetch_clipped(region.contig, *region.window(flank, flank))
    return text, region.midpoint - start


def predict_table(inference: Inference, labels: Labels, genome: Genome) -> Floats:
    """Predict N regions, [N, O]: values in the units given, or probabilities of classes."""
    found = []
    for first in range(0, len(labels), _WINDOWS):
        regions = labels.regions[first : first + _WINDOWS]
        read = [window(genome, region, labels.targets.window_bp) for region in regions]
        texts, places = zip(*read, strict=True)
        at = [np.array([place], dtype=np.int64) for place in places]
        found.append(inference.target_values(texts, at, [region.strand for region in regions]))
    return np.concatenate(found)


class EvaluateSettings(Strict):
    """How a model is evaluated."""

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
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Key of the resamples and masks.")
    precision: Literal["float32", "bf16"] = Field("float32", description="Of matrix products.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to predict.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.group_bp, self.resamples, self.seed)


class EvaluateConfig(EvaluateSettings, EvaluateData):
    """What a model is measured on, and how."""


def evaluate(
    model: Path | str,
    output: Path | str,
    settings: EvaluateSettings | None = None,
    *,
    force: bool = False,
    provenance: Mapping[str, Any] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Measure a model and write `evaluation.json` and, with chromatin, `per_feature.tsv`.

    Args:
        model: checkpoint directory.
        output: directory of the files.
        settings: how to measure, and on what; see `EvaluateConfig`.
        force: replace an existing evaluation.
        provenance: facts to keep, such as the command.
        values: fields of `EvaluateConfig`, before those of `settings`. What is measured:
            `chromatin` (a dataset's directory), `promoters` and `scan` (tables), of which the part
            `split`; `shards` of tokens, also inside and outside `repeats` (BED files); a
            `table` of regions on a `fasta`, for a model of `finetune table`. `baselines`:
            directories of predictions for the same places, by `train_baselines` or by evaluations
            with a `name`, under which predictions are written as `<name>.chromatin.npz`.

    Returns:
        What `evaluation.json` holds.

    Raises:
        ConfigError: an unknown field, or a value out of range.
        UsageError: nothing to measure, a missing head, file or split, an existing evaluation, a
            folder without predictions, a name that is none for files.
        InputError: a baseline's predictions are for other places.
    """
    asked = settings_of(EvaluateConfig, settings, values)
    model, output = Path(model), Path(output)
    _refuse(asked, output, force)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    checkpoint = Checkpoint.load(model)
    inference = Inference(checkpoint, asked.device, precision=asked.precision)
    known, compared = _known(asked.baselines)
    measured = {
        kind: _MEASURES[kind](inference, path, asked) for kind, path in _sources(asked).items()
    }
    result: dict[str, Any] = {
        "genobird": genobird.__version__,
        **(provenance or {}),
        **_identity(checkpoint),
        "split": asked.split,
        "settings": asked.model_dump(mode="json", include=set(EvaluateSettings.model_fields)),
        "data": {
            **({"baselines": known} if known else {}),
            **({"compared": compared} if compared else {}),
            **{kind: found.data for kind, found in measured.items()},
        },
        **{_ANSWERS.get(kind, kind): found.figures for kind, found in measured.items()},
    }
    output.mkdir(parents=True, exist_ok=True)
    for kind, found in measured.items():
        if asked.name is not None and found.answers is not None:
            found.answers.save(output / f"{asked.name}.{_ANSWERS.get(kind, kind)}.npz")
        if found.per_feature is not None:
            text = found.per_feature.to_csv(sep="\t", index=False, float_format="%.5f")
            write_text(output / PER_FEATURE, text)
    write_text(output / EVALUATION, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


class _Measured(NamedTuple):
    """What was measured on one kind of data."""

    data: dict[str, Any]
    """Which data it was."""
    figures: dict[str, Any]
    answers: Predictions | MaskedTokens | None
    per_feature: pd.DataFrame | None = None


def _sources(asked: EvaluateConfig) -> dict[str, Path]:
    """Return what is measured, by its kind."""
    paths = {kind: getattr(asked, kind) for kind in _MEASURES}
    return {kind: path for kind, path in paths.items() if path is not None}


def _refuse(asked: EvaluateConfig, output: Path, force: bool) -> None:
    """Refuse what cannot be measured or written, before anything is computed."""
    name, sources = asked.name, _sources(asked)
    if not sources:
        raise UsageError(
            "nothing to measure; give a chromatin dataset, promoters, a table or token shards"
        )
    if asked.table is not None and asked.fasta is None:
        raise UsageError("--table needs the genome that its regions lie on; give it with --fasta")
    if name is not None and (not name or Path(name).name != name or name.startswith(".")):
        raise UsageError(f"name {name!r} begins file names; it is not empty and has no / in it")
    made = [EVALUATION, *([PER_FEATURE] if asked.chromatin else [])]
    if name is not None:
        kinds = (_ANSWERS.get(kind, kind) for kind in sources if kind != "table")
        made += [f"{name}.{kind}.npz" for kind in kinds]
    for file in made:
        refuse_existing(output / file, force)
    _refuse_baselines(asked.baselines, [kind for kind in _ON_PLACES if kind in sources])


def _refuse_baselines(folders: Sequence[Path], kinds: Sequence[str]) -> None:
    """Refuse folders without predictions, or without those of a kind that is measured."""
    for folder in folders:
        if not any(_files([folder], kind) for kind in KINDS):
            raise UsageError(
                f"{folder} has no predictions <name>.<kind>.npz of baselines; train them with "
                "`genobird baselines`, or evaluate another model with --name"
            )
    for kind in kinds if folders else ():
        if not _files(folders, kind):
            where = ", ".join(map(str, folders))
            raise UsageError(f"{where} has no predictions *.{kind}.npz; train the baselines first")


def _on_shards(inference: Inference, path: Path, asked: EvaluateConfig) -> _Measured:
    shards = Shards.open(path)
    masked = predict_masked(
        inference,
        shards,
        asked.masked,
        asked.masked_batches,
        context=asked.masked_context,
        repeats=Repeats(asked.repeats) if asked.repeats else None,
        tracks={k: BaseBits.load(file) for k, file in _files(asked.baselines, "bases").items()},
        seed=asked.seed,
        group_bp=asked.group_bp,
    )
    others = _read_masked(asked.baselines, masked)
    data = {"tokens": shards.tokens, "genome_sha256": shards.index.genome_sha256}
    return _Measured(data, evaluate_masked(masked, asked.resampling, baselines=others), masked)


def _on_promoters(kind: str, inference: Inference, path: Path, asked: EvaluateConfig) -> _Measured:
    table = read_promoters(path, asked.split)
    logits = predict_promoters(inference, table)[:, 0]
    predictions = Predictions.of_promoters(table, logits)
    figures = evaluate_promoters(
        predictions, asked.resampling, baselines=read_baselines(asked.baselines, kind, predictions)
    )
    return _Measured({"sha256": file_sha256(path), "windows": len(table)}, figures, predictions)


def _on_chromatin(inference: Inference, path: Path, asked: EvaluateConfig) -> _Measured:
    dataset = ChromatinDataset(path)
    predictions = predict_chromatin(
        inference,
        dataset,
        asked.split,
        both_strands=asked.both_strands,
        context_bp=asked.context_bp,
        window_bp=asked.window_bp,
    )
    figures = evaluate_chromatin(
        predictions,
        dataset.features,
        asked.resampling,
        baselines=read_baselines(asked.baselines, "chromatin", predictions),
    )
    data = {
        "sha256": file_sha256(path / "index.json"),
        "features": len(dataset.features),
        **{key: dataset.index.get(key) for key in ("left_out", "splits", "bins", "sources")},
    }
    return _Measured(data, figures, predictions, figures.pop("per_feature"))


def _on_table(inference: Inference, path: Path, asked: EvaluateConfig) -> _Measured:
    inference.head("table")
    targets = inference.checkpoint.targets
    assert targets is not None
    with Genome(asked.fasta) as genome:
        table = LabelTable.read(path, genome)
        splits = table.splits()
        if splits is None:
            raise UsageError(
                f"{path} has no column split; rows that a model was trained on measure nothing, so "
                "add it, with test in the rows to measure on"
            )
        signals = signals_by_name(asked.bigwig)
        labels = labels_of(table, splits, genome, targets, signals)
        labels = labels.of_split(asked.split)
        predicted = predict_table(inference, labels, genome)
        figures = evaluate_targets(labels, predicted, asked.resampling)
    return _Measured({"sha256": file_sha256(path), "regions": len(labels)}, figures, None)


_MEASURES: Final[dict[str, Callable[[Inference, Path, EvaluateConfig], _Measured]]] = {
    "shards": _on_shards,
    "promoters": partial(_on_promoters, "promoters"),
    "scan": partial(_on_promoters, "scan"),
    "table": _on_table,
    "chromatin": _on_chromatin,
}
"""What measures each kind of data. What takes longest comes last: baselines of other places are
refused when theirs are known."""


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
        "training": {key: facts[key] for key in STAGES if key in facts},
    }


def _known(folders: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read how baselines, and other evaluated models by their name, were trained."""
    known: dict[str, Any] = {}
    compared: dict[str, Any] = {}
    for folder in folders:
        if (folder / BASELINES).is_file():
            for kind, facts in read_json(folder / BASELINES).items():
                if not isinstance(facts, dict):
                    raise InputError(f"{folder / BASELINES} is damaged; train the baselines again")
                known.setdefault(kind, {}).update(facts)
        if (folder / EVALUATION).is_file():
            facts = read_json(folder / EVALUATION)
            keys = ("model_sha256", "encoder", "training", "settings", "command")
            names = {name for kind in KINDS for name in _files([folder], kind)}
            compared |= {name: {k: facts[k] for k in keys if k in facts} for name in names}
    return known, compared
