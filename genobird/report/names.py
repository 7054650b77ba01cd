"""What models are called in cards and tables."""

from __future__ import annotations

from genobird.baselines.registry import MODELS

NAMES = {
    **{name: model.title for name, model in MODELS.items()},
    "bert_512": "dense transformer of 512 tokens",
    "counts": "counts of neighbouring pieces alone",
}


def name_of(model: str) -> str:
    """Return what a model is called; one that is not known keeps its name."""
    return NAMES.get(model, model)
