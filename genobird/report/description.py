"""What a model directory holds, as facts for people and programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genobird.checkpoint import Checkpoint
from genobird.errors import CheckpointError

EVALUATION = "evaluation.json"


def describe(path: Path) -> dict[str, Any]:
    """Gather shape, parameters, vocabulary, heads, features, hashes, origin and test figures.

    Args:
        path: a model directory; it is verified first.

    Returns:
        What can be written as JSON. `evaluation` is there where the directory has the file.

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
    heads = {"promoter": checkpoint.promoter, "chromatin": checkpoint.chromatin}
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
        "sha256": hashes,
        "provenance": provenance,
    }
    if (path / EVALUATION).is_file():
        try:
            facts["evaluation"] = json.loads((path / EVALUATION).read_text())
        except ValueError as error:
            raise CheckpointError(f"{path / EVALUATION} is damaged: {error}") from error
    return facts
