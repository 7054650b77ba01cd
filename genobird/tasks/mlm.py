"""The masked-language-model head alone: counts of neighbouring pieces on a frozen encoder.

What is trained are the head's own layers and how much each neighbour counts, a few ten thousand
numbers. A text that was counted looks better known than any other, so they are trained on documents
that were left out of the count; then all are counted. Other heads of the model stay as they are.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from genobird.bits_per_base import extent
from genobird.checkpoint import Checkpoint
from genobird.errors import InputError, UsageError
from genobird.pair_log_odds import PairLogOdds
from genobird.peaks import Cover
from genobird.shards import Shards
from genobird.tasks.fit import fit
from genobird.tasks.pretrain import (
    MaskedSettings,
    Pretraining,
    final_validation,
    masked_batches,
    most_tokens,
    open_shards,
    validation_batches,
    validations,
)
from genobird.tasks.run_folder import write_model

logger = logging.getLogger(__name__)

_EVERY = 10


class MLMConfig(MaskedSettings):
    """Configuration of `genobird finetune mlm`."""

    shards: Path = Field(description="Token shards to count and to train on.")
    checkpoint: Path = Field(description="Model to start from; its other heads are kept.")
    least: tuple[int, ...] = Field(
        (4, 8),
        min_length=1,
        max_length=8,
        description="For pieces 1, 2, ... apart: how often the shards hold a pair that is kept.",
    )


def finetune_mlm(
    config: MLMConfig,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> Checkpoint:
    """Count pairs of pieces, train the masked-LM head, and write the model to `output/model`.

    Args:
        config: what to read and how to train.
        output: run directory.
        resume: continue an unfinished run.
        progress: show a progress bar.
        provenance: facts to keep with the model.

    Raises:
        UsageError: the model has no masked-LM head.
        ShardError: shards that were made with another tokenizer.
    """
    torch.manual_seed(config.fit.seed)
    checkpoint = Checkpoint.load(config.checkpoint)
    if checkpoint.mlm is None:
        raise UsageError(f"{config.checkpoint} has no masked-LM head; pretrain a model with one")
    encoder, tokenizer = checkpoint.encoder.config, checkpoint.tokenizer
    shards = open_shards(config.shards, tokenizer)
    validation = validation_batches(config, encoder, tokenizer)
    counted, asked = parted(shards, tokenizer.lengths)
    train = masked_batches(config, shards, encoder, chosen=asked)
    checkpoint.encoder.config = encoder.model_copy(update={"neighbours": len(config.least)})
    checkpoint.mlm.neighbours = _counted(shards, counted, encoder.vocab_size, config.least)
    task = Pretraining(checkpoint, config.fit, freeze_encoder=True)
    fit(
        *(task, train, output),
        validation=validation,
        resume=resume,
        progress=progress,
        validations=validations(config, validation),
        facts={
            **config.model_dump(),
            "checkpoint": checkpoint.hash,
            "shards": shards.index.corpus_sha256,
        },
    )
    everything = _counted(shards, np.arange(len(shards)), encoder.vocab_size, config.least)
    everything.weights = checkpoint.mlm.neighbours.weights
    checkpoint.mlm.neighbours = everything
    config = config.model_copy(update={"fit": task.settings})
    places = {"shards", "validation_shards", "checkpoint"}
    facts = {
        **(provenance or {}),
        "config": config.model_dump(mode="json", exclude=places),
        "genome_sha256": shards.index.genome_sha256,
        "tokens_counted": shards.index.tokens,
        "tokens_seen": most_tokens(config),
        "validation": final_validation(task, config, validation),  # all is counted
    }
    write_model(output, checkpoint, "mlm", facts)
    return checkpoint


def parted(
    shards: Shards, lengths: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part documents in those that are counted and those that are asked about meanwhile.

    Args:
        shards: the documents.
        lengths: bases of each piece, [V].

    Returns:
        Documents to count, and every tenth document of the first pass; no base is in both.

    Raises:
        InputError: too few documents.
    """
    extents = [extent(shards, i, lengths) for i in range(len(shards))]
    firsts = [
        i for i, d in enumerate(shards.documents) if not shards.index.files[d.file].pass_index
    ]
    asked = np.array(firsts[_EVERY - 1 :: _EVERY] or firsts[1:2], dtype=np.int64)
    taken = Cover(extents[i] for i in asked)
    counted = [
        i for i, own in enumerate(extents) if not taken.touches(own.contig, own.start, own.end)
    ]
    if not len(asked) or not counted:
        raise InputError(
            f"{shards.path} has {len(shards)} documents; to count some and ask about others, "
            "give shards of more sequence"
        )
    return np.array(counted, dtype=np.int64), asked


def _counted(
    shards: Shards, documents: NDArray[np.int64], vocab_size: int, least: tuple[int, ...]
) -> PairLogOdds:
    found = PairLogOdds.counted((shards.document(int(i)) for i in documents), vocab_size, least)
    kept = ", ".join(f"{found.pairs(d + 1):,} pairs {d + 1} apart" for d in range(len(least)))
    logger.info("counted %s tokens: %s are kept", f"{int(found.counts.sum()):,}", kept)
    return found
