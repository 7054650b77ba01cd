"""Training by masked tokens: pretraining, and the masked-language-model head of a trained model.

Pretraining may have next-sentence prediction beside (paper, appendix F.1). The head alone, on a
frozen encoder, is given counts of neighbouring pieces: what is trained are its own layers and how
much each neighbour counts, a few ten thousand numbers. A text that was counted looks better known
than any other, so they are trained on documents that were left out of the count; then all are
counted. Other heads of the model stay as they are.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genobird.batch import PackedBatch
from genobird.bits_per_base import extent
from genobird.checkpoint import Checkpoint
from genobird.config import Strict, explain
from genobird.errors import ConfigError, InputError, UsageError
from genobird.model import PRESETS, BigBird, BigBirdConfig, MaskedLMHead
from genobird.pair_log_odds import PairLogOdds
from genobird.peaks import Cover
from genobird.shards import Shards
from genobird.tasks import ranks
from genobird.tasks.data import MaskedBatch, MixedBatches, PretrainBatches, PretrainDataSettings
from genobird.tasks.fit import FitSettings, Run, Task, fit, measured
from genobird.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_EVERY = 10

# Logits that exist at once: 128 MB of float32, and 1,024 targets of a vocabulary of 32,000 keep a
# GPU busy.
CHUNK_LOGITS = 1 << 25


def plain_nats(
    head: MaskedLMHead,
    hidden: Tensor,
    embedding: Tensor,
    labels: Tensor,
    around: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return -ln p of each label and the likeliest piece, from the logits of all M targets, [M, V].

    Targets have hidden states [M, D] and true pieces, int64 [M]; the embedding is [V, D]. A head
    may read the pieces around the targets too, int64 [M, R, 2].

    Returns:
        Nats, float32 [M] (float64 for float64 logits), and pieces, int64 [M].
    """
    logits = head(hidden, embedding, around)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1)


def chunked_nats(
    head: MaskedLMHead,
    hidden: Tensor,
    embedding: Tensor,
    labels: Tensor,
    around: Tensor | None = None,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor]:
    """Return what `plain_nats` returns, from at most `chunk_logits` logits at a time.

    They are made again in the backward pass.
    """
    rows = max(1, chunk_logits // len(embedding))
    if len(hidden) <= rows:
        return plain_nats(head, hidden, embedding, labels, around)
    parts = []
    for part in (slice(first, first + rows) for first in range(0, len(hidden), rows)):
        beside = None if around is None else around[part]
        given = head, hidden[part], embedding, labels[part], beside
        parts.append(checkpoint(plain_nats, *given, use_reentrant=False, preserve_rng_state=False))
    nats, pieces = zip(*parts, strict=True)
    return torch.cat(nats), torch.cat(pieces)


def masked_nats(
    checkpoint: Checkpoint, batch: PackedBatch, hidden: Tensor, targets: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return -ln p of the pieces [M] at some tokens [M] of a batch, and the likeliest, [M] each."""
    mlm = checkpoint.mlm
    assert mlm is not None
    around = batch.around(targets, mlm.reach)
    return chunked_nats(mlm, hidden[targets], checkpoint.encoder.embedding.weight, labels, around)


class MaskedSettings(Strict):
    """What training by masked tokens reads, and how it trains."""

    validation_shards: Path | None = Field(None, description="Token shards of held-out sequence.")
    validation_batches: int = Field(20, ge=1, description="Batches per validation.")
    data: PretrainDataSettings = PretrainDataSettings()
    fit: FitSettings = FitSettings()


class WeightedShards(Strict):
    """One of several corpora."""

    path: Path = Field(description="Token shards.")
    weight: float = Field(1.0, gt=0, description="Share of the sequences beside the others'.")


class PretrainConfig(MaskedSettings):
    """Configuration of `genobird pretrain`."""

    shards: tuple[WeightedShards, ...] = Field(
        min_length=1,
        max_length=100,
        description="Token shards to train on: a path, or a list of several, each `{path: ..., "
        "weight: ...}`.",
    )
    tokenizer: Path = Field(description="The tokenizer that made the shards.")
    preset: str = Field("mini", description="Shape of the encoder: base, mini or tiny.")
    model: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the preset: any of these, here as in base."
    )

    @field_validator("shards", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return ({"path": value},) if isinstance(value, str | Path) else value

    def encoder(self, vocab_size: int) -> BigBirdConfig:
        """Return the shape of the encoder for a tokenizer."""
        if self.preset not in PRESETS:
            raise ConfigError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")
        if "vocab_size" in self.model:
            raise ConfigError(f"model.vocab_size is the tokenizer's, {vocab_size}; leave it out")
        if self.model.get("neighbours"):
            raise ConfigError(
                "model.neighbours are counted, not pretrained; leave them out here, and give them "
                "to the trained model with `genobird finetune mlm`"
            )
        values = {**PRESETS[self.preset], "vocab_size": vocab_size, **self.model}
        try:
            shape = BigBirdConfig.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"model: {explain(error, BigBirdConfig)}") from error
        if shape.position == "absolute" and self.data.max_tokens > shape.max_tokens:
            raise ConfigError(
                f"data.max_tokens is {self.data.max_tokens}, the model takes {shape.max_tokens}; "
                "lower the one, raise model.max_tokens, or choose model.position: rope"
            )
        return shape


class Pretraining(Task):
    """Cross-entropy at the masked tokens, plus that of the next-sentence head where there is one.

    With `freeze_encoder` the masked-language-model head alone is trained.

    Logged: `loss` (nats per token), `accuracy`, `bits_per_base` (sum of -log2 p over masked tokens
    divided by the bases in them), and `bits_per_base_no_n` over tokens without N.
    """

    has_n: Tensor

    def __init__(
        self, checkpoint: Checkpoint, settings: FitSettings, *, freeze_encoder: bool = False
    ) -> None:
        super().__init__(checkpoint, settings)
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            for name, part in self.parts.items():
                part.requires_grad_(name == "mlm")
        has_n = torch.from_numpy((checkpoint.tokenizer.bases == 4).any(axis=1))
        self.register_buffer("has_n", has_n, persistent=False)

    def model_step(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch."""
        checkpoint = self.checkpoint
        if self.freeze_encoder:
            checkpoint.encoder.eval()
        with torch.set_grad_enabled(self.training and not self.freeze_encoder):
            hidden = checkpoint.encoder(batch.batch)
        nats, pieces = masked_nats(checkpoint, batch.batch, hidden, batch.targets, batch.labels)
        loss = nats.mean() if len(nats) else nats.sum()  # 0 where nothing is asked for
        bases = self.lengths[batch.labels]
        metrics = {"weight": torch.tensor(len(nats))}
        if len(nats):
            metrics["accuracy"] = (pieces == batch.labels).float().mean()
            metrics["bits_per_base"] = nats.sum() / bases.sum() / math.log(2)
        plain = ~self.has_n[batch.labels]
        if plain.any():
            bits = nats[plain].sum() / bases[plain].sum() / math.log(2)
            metrics["bits_per_base_no_n"] = bits
        if checkpoint.nsp is not None:
            follows = checkpoint.nsp(hidden[batch.batch.starts]).float()
            nsp = F.cross_entropy(follows, batch.follows)
            metrics["nsp_accuracy"] = (follows.argmax(-1) == batch.follows).float().mean()
            loss = loss + nsp
        return {"loss": loss, **metrics}


def pretrain(config: PretrainConfig, run: Run) -> Checkpoint:
    """Train an encoder from scratch and write it to `output/model`; see `training.pretrain`.

    Raises:
        ShardError: shards that were made with another tokenizer.
    """
    ranks.launch(config.fit)
    torch.manual_seed(config.fit.seed)
    tokenizer = Tokenizer.load(config.tokenizer)
    encoder = config.encoder(tokenizer.vocab_size)
    checkpoint = Checkpoint(
        BigBird(encoder, tokenizer.bases),
        tokenizer,
        mlm=MaskedLMHead(encoder),
        nsp=nn.Linear(encoder.width, 2) if encoder.nsp else None,
    )

    opened = [_opened(one.path, tokenizer, config.tokenizer) for one in config.shards]
    parts = [_batches(config, shards, encoder) for shards in opened]
    weights = [one.weight for one in config.shards]
    train = parts[0] if len(parts) == 1 else MixedBatches(parts, weights)
    validation = validation_batches(config, encoder, tokenizer)
    task = Pretraining(checkpoint, config.fit)
    fit(
        task,
        train,
        run,
        validation=validation,
        validations=_validations(config, validation),
        facts={
            **config.model_dump(exclude={"preset"}),
            "model": encoder.model_dump(),
            "shards": _only([shards.index.corpus_sha256 for shards in opened]),
            "weights": weights if len(weights) > 1 else None,
            "tokenizer": tokenizer.sha256,
        },
    )
    config = config.model_copy(update={"fit": task.settings})
    places = {"shards", "validation_shards", "tokenizer"}
    facts = {
        "config": config.model_dump(mode="json", exclude=places),
        "genome_sha256": _only([shards.index.genome_sha256 for shards in opened]),
        **({"weights": weights} if len(weights) > 1 else {}),
        "tokens_seen": _most_tokens(config),
        "validation": _final_validation(task, config, validation),
    }
    run.write_model(checkpoint, "pretraining", facts)
    return checkpoint


def _most_tokens(config: MaskedSettings) -> int:
    """Return how many tokens a run sees at most: the last window of a document is shorter."""
    return config.fit.batches * config.data.sequences * config.data.max_tokens


def _only(values: list[str]) -> str | list[str]:
    """Return a list, or what alone is in it."""
    return values[0] if len(values) == 1 else values


def _opened(path: Path, tokenizer: Tokenizer, source: Path | str = "the model's") -> Shards:
    """Open shards that were made with a tokenizer; `source` is where that comes from."""
    shards = Shards.open(path)
    shards.require(tokenizer, source)
    return shards


def _batches(
    config: MaskedSettings,
    shards: Shards,
    encoder: BigBirdConfig,
    *,
    hide_all: bool = False,
    chosen: NDArray[np.int64] | None = None,
) -> PretrainBatches:
    """Return the batches of shards; arguments as of `PretrainBatches`."""
    return PretrainBatches(
        shards,
        config.data,
        vocab_size=encoder.vocab_size,
        block_size=encoder.block_size,
        nsp=encoder.nsp,
        seed=config.fit.seed,
        hide_all=hide_all,
        chosen=chosen,
    )


def validation_batches(
    config: MaskedSettings, encoder: BigBirdConfig, tokenizer: Tokenizer
) -> PretrainBatches | None:
    """Return batches of the validation shards, if there are any; all targets are hidden."""
    if config.validation_shards is None:
        return None
    shards = _opened(config.validation_shards, tokenizer)
    return _batches(config, shards, encoder, hide_all=True)


def _validations(config: MaskedSettings, batches: PretrainBatches | None) -> int:
    """Return how many batches a validation reads."""
    return min(config.validation_batches, len(batches)) if batches else 0


def _final_validation(
    task: Task, config: MaskedSettings, batches: PretrainBatches | None
) -> dict[str, float]:
    """Measure the model as it is written; nothing without validation shards.

    Not what the run logged last: that may be of an earlier step, and a run that is resumed behind
    its last step logs none.
    """
    if batches is None:
        return {}
    found = measured(task, batches, _validations(config, batches))
    return {f"validation/{name}": round(value, 5) for name, value in found.items()}


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


def finetune_mlm(config: MLMConfig, run: Run) -> Checkpoint:
    """Count pairs of pieces, train the masked-LM head, and write the model to `output/model`.

    Raises:
        UsageError: the model has no masked-LM head.
        ShardError: shards that were made with another tokenizer.
    """
    torch.manual_seed(config.fit.seed)
    checkpoint = Checkpoint.load(config.checkpoint)
    if checkpoint.mlm is None:
        raise UsageError(f"{config.checkpoint} has no masked-LM head; pretrain a model with one")
    encoder, tokenizer = checkpoint.encoder.config, checkpoint.tokenizer
    shards = _opened(config.shards, tokenizer)
    validation = validation_batches(config, encoder, tokenizer)
    counted, asked = parted(shards, tokenizer.lengths)
    train = _batches(config, shards, encoder, chosen=asked)
    checkpoint.encoder.config = encoder.model_copy(update={"neighbours": len(config.least)})
    checkpoint.mlm.neighbours = _counted(shards, counted, encoder.vocab_size, config.least)
    task = Pretraining(checkpoint, config.fit, freeze_encoder=True)
    fit(
        task,
        train,
        run,
        validation=validation,
        validations=_validations(config, validation),
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
        "config": config.model_dump(mode="json", exclude=places),
        "genome_sha256": shards.index.genome_sha256,
        "tokens_counted": shards.index.tokens,
        "tokens_seen": _most_tokens(config),
        "validation": _final_validation(task, config, validation),  # all is counted
    }
    run.write_model(checkpoint, "mlm", facts)
    return checkpoint


def parted(
    shards: Shards, lengths: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part documents in those that are counted and those that are asked about meanwhile.

    `lengths` are the bases of each piece, [V].

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
