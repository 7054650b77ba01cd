"""What a model directory holds, as facts for people and programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from genobird.checkpoint import Checkpoint, feature_columns
from genobird.errors import CheckpointError, counted
from genobird.report.evaluation import Facts, as_written, shown

EVALUATION = "evaluation.json"

_WIDTH = 100


def describe(path: Path) -> dict[str, Any]:
    """Gather shape, vocabulary, heads, features, hashes, origin and test figures of a model.

    Returns:
        What can be written as JSON. `feature_names` are the columns of each class;
        `evaluation` is there where the directory has the file.

    Raises:
        UsageError: there is no such directory.
        CheckpointError: it is incomplete or altered.
    """
    checkpoint = Checkpoint.load(path)
    tokenizer = checkpoint.tokenizer
    provenance = dict(checkpoint.provenance)
    hashes = provenance.pop("sha256", {})
    counts = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in checkpoint.modules().items()
    }
    heads = {
        "promoter": checkpoint.promoter,
        "chromatin": checkpoint.chromatin,
        "table": checkpoint.table,
    }
    facts: dict[str, Any] = {
        "hash": checkpoint.hash,
        "parameters": {"total": sum(counts.values()), **counts},
        "encoder": checkpoint.encoder.config.model_dump(mode="json"),
        "tokenizer": {
            "kind": tokenizer.kind,
            "pieces": tokenizer.vocab_size,
            "longest_bp": int(tokenizer.lengths.max()),
            "sha256": tokenizer.sha256,
        },
        "heads": {
            name: head.config.model_dump(mode="json") for name, head in heads.items() if head
        },
        "features": {
            "total": len(checkpoint.features),
            **{str(k): int(n) for k, n in checkpoint.features["class"].value_counts().items()},
        },
        "feature_names": _names(checkpoint),
        **({"targets": checkpoint.targets.columns} if checkpoint.targets else {}),
        "sha256": hashes,
        "provenance": provenance,
    }
    if (path / EVALUATION).is_file():
        try:
            facts["evaluation"] = json.loads((path / EVALUATION).read_text())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path / EVALUATION} is damaged: {error}") from error
    return facts


def summary(facts: Facts) -> str:
    """Write the facts of `describe` for people, within a page or two.

    Figures are medians over features (chromatin) or single ones, without baselines and curves.

    Raises:
        InputError: what is known of the training or the figures is of another shape.
    """
    with as_written("the model's provenance or evaluation"):
        return _summary(facts)


def _summary(facts: Facts) -> str:
    total = f"{facts['parameters']['total']:,} parameters"
    title = f"genobird model {facts['hash']}: a BigBird transformer over DNA, {total}"
    parts = {
        title: _wrapped(_shape(facts["encoder"], facts["tokenizer"])),
        "heads": _heads(facts["heads"], "mlm" in facts["parameters"]),
        "training": _training(facts["provenance"]),
        "figures on held-out sequence, of features the median [95 % interval]": _figures(facts),
        **_features(facts["feature_names"]),
        "targets of the table head": _wrapped(", ".join(facts.get("targets", []))),
        "everything else, with the evaluation and its curves": ["  genobird info --json"],
    }
    paragraphs = ([heading, *lines] for heading, lines in parts.items())
    return "\n\n".join("\n".join(lines) for lines in paragraphs if len(lines) > 1)


def _names(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Return the columns of the features by class."""
    made: dict[str, list[str]] = {}
    columns = feature_columns(checkpoint.features)
    for name, kind in zip(columns, checkpoint.features["class"], strict=True):
        made.setdefault(str(kind), []).append(name)
    return made


def _wrapped(text: str) -> list[str]:
    made = fill(
        text,
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return made.splitlines()


def _shape(encoder: Facts, tokenizer: Facts) -> str:
    stem = "" if encoder["stem"] == "none" else f" behind a {encoder['stem']} of convolutions"
    return (
        f"encoder: {encoder['layers']} layers of width {encoder['width']}, {encoder['heads']} "
        f"heads, attention {encoder['pattern']} in blocks of {encoder['block_size']} tokens{stem}; "
        f"{tokenizer['pieces']:,} {tokenizer['kind']} pieces of up to {tokenizer['longest_bp']} bp"
    )


def _heads(heads: Mapping[str, Facts], masked: bool) -> Iterator[str]:
    for name, head in heads.items():
        outputs = counted(head["outputs"], "output")
        around = f"{head['before_bp']:,} bp before and {head['after_bp']:,} bp after the place"
        yield f"  {name}: {outputs}, reads {around}"
    if masked:
        yield "  masked tokens: log-likelihood ratios of variants"


def _training(provenance: Facts) -> Iterator[str]:
    """Yield a line on the data of each stage; a model of another origin may say less."""
    if "assembly" in provenance:
        yield f"  assembly: {provenance['assembly']}"
    stages = {name: provenance.get(name, {}) for name in ("pretraining", "chromatin")}
    stages["local network"] = provenance.get("combined", {}).get("local", {})
    stages |= {name: provenance.get(name, {}) for name in ("promoter", "mlm", "table")}
    for stage, facts in stages.items():
        data = facts.get("data", {})
        bins = [f"{number:,} {split} bins" for split, number in data.get("bins", {}).items()]
        counts = [f"{data[unit]:,} {unit}" for unit in ("windows", "positives") if unit in data]
        numbers = {unit: _seen(facts, unit) for unit in ("tokens", "bases")}
        seen = [f"{number:,} {unit} seen" for unit, number in numbers.items() if number]
        files = [f"of {', '.join(data['sources'])}"] if data.get("sources") else []
        if said := ", ".join([*bins, *counts, *seen]):
            yield from _wrapped(" ".join([f"{stage}: {said}", *files]))


def _seen(facts: Facts, unit: str) -> int:
    """Return how much a stage has seen, with the stages that it went on from."""
    seen = 0
    while facts:
        seen += facts.get(f"{unit}_seen", 0)
        facts = facts.get("earlier", {})
    return seen


def _figures(facts: Facts) -> Iterator[str]:
    evaluation = facts.get("evaluation", {})
    classes = evaluation.get("chromatin", {}).get("all_bins", {}).get("classes", {})
    for kind, cells in classes.items():
        if cells["features"]:
            yield f"  chromatin, {kind} ({cells['features']}): {_areas(cells)}"
    for name, title in (("promoters", "promoters"), ("scan", "promoters in a scan")):
        if found := evaluation.get(name):
            counts = f"{found['positives']:,} among {found['windows']:,} windows"
            yield f"  {title}, {counts}: {_areas(found['figures'])}"
    masked = evaluation.get("masked")
    if masked:
        yield f"  masked tokens: {shown(masked['bits_per_base'])} bits per base"


def _areas(figures: Facts) -> str:
    return f"AUROC {shown(figures['auroc'])}, AUPRC {shown(figures['auprc'])}"


def _features(names: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the lines of each class: its names, as --features takes them."""
    return {
        f"{kind} features ({len(columns)})": _wrapped(", ".join(columns))
        for kind, columns in names.items()
    }
