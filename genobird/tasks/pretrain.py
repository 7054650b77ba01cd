"""Masked-language-model pretraining, with next-sentence prediction if asked (appendix F.1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.checkpoint import Checkpoint
from genobird.config import explain
from genobird.errors import ConfigError
from genobird.model import PRESETS, BigBird, BigBirdConfig, MaskedLMHead
from genobird.shards import Shards
from genobird.tasks import ranks
from genobird.tasks.cross_entropy import chunked_nats
from genobird.tasks.data import MaskedBatch, MixedBatches, PretrainBatches, PretrainDataSettings
from genobird.tasks.fit import FitSettings, Task, fit, measured
from genobird.tasks.run_folder import write_model
from genobird.tokenizer import Tokenizer


class MaskedSettings(BaseModel):
    """What training by masked tokens reads, and how it trains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation_shards: Path | None = Field(None, description="Token shards of held-out sequence.")
    validation_batches: int = Field(20, ge=1, description="Batches a validation reads.")
    data: PretrainDataSettings = PretrainDataSettings()
    fit: FitSettings = FitSettings()


class WeightedShards(BaseModel):
    """One of several corpora."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        assert checkpoint.mlm is not None
        if self.freeze_encoder:
            checkpoint.encoder.eval()
        with torch.set_grad_enabled(self.training and not self.freeze_encoder):
            hidden = checkpoint.encoder(batch.batch)
        nats, pieces = chunked_nats(
            checkpoint.mlm,
            hidden[batch.targets],
            checkpoint.encoder.embedding.weight,
            batch.labels,
            batch.batch.around(batch.targets, checkpoint.mlm.reach),
        )  # [M] each
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


def pretrain(
    config: PretrainConfig,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> Checkpoint:
    """Train an encoder from scratch and write it to `output/model`.

    Args:
        config: what to read and how to train.
        output: run directory.
        resume: continue an unfinished run.
        progress: show a progress bar.
        provenance: facts to keep with the model.

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

    opened = [open_shards(one.path, tokenizer, config.tokenizer) for one in config.shards]
    parts = [masked_batches(config, shards, encoder) for shards in opened]
    weights = [one.weight for one in config.shards]
    train = parts[0] if len(parts) == 1 else MixedBatches(parts, weights)
    validation = validation_batches(config, encoder, tokenizer)
    task = Pretraining(checkpoint, config.fit)
    fit(
        *(task, train, output),
        validation=validation,
        resume=resume,
        progress=progress,
        validations=validations(config, validation),
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
        **(provenance or {}),
        "config": config.model_dump(mode="json", exclude=places),
        "genome_sha256": _only([shards.index.genome_sha256 for shards in opened]),
        **({"weights": weights} if len(weights) > 1 else {}),
        "tokens_seen": most_tokens(config),
        "validation": final_validation(task, config, validation),
    }
    write_model(output, checkpoint, "pretraining", facts)
    return checkpoint


def most_tokens(config: MaskedSettings) -> int:
    """Return how many tokens a run sees at most: the last window of a document is shorter."""
    return config.fit.batches * config.data.sequences * config.data.max_tokens


def _only(values: list[str]) -> str | list[str]:
    """Return a list, or what alone is in it."""
    return values[0] if len(values) == 1 else values


def open_shards(path: Path, tokenizer: Tokenizer, source: Path | str = "the model's") -> Shards:
    """Open shards that a model can read.

    Args:
        path: of the shards.
        tokenizer: of the model.
        source: where that comes from, for the message.

    Raises:
        ShardError: they were made with another tokenizer.
    """
    shards = Shards.open(path)
    shards.require(tokenizer, source)
    return shards


def masked_batches(
    config: MaskedSettings,
    shards: Shards,
    encoder: BigBirdConfig,
    *,
    hide_all: bool = False,
    chosen: NDArray[np.int64] | None = None,
) -> PretrainBatches:
    """Return the batches of shards.

    Args:
        config: how they are read.
        shards: what is read.
        encoder: shape of the model.
        hide_all: for validation, see `mask_tokens`.
        chosen: the documents that are read; None is all.
    """
    return PretrainBatches(
        *(shards, config.data),
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
    shards = open_shards(config.validation_shards, tokenizer)
    return masked_batches(config, shards, encoder, hide_all=True)


def validations(config: MaskedSettings, batches: PretrainBatches | None) -> int:
    """Return how many batches a validation reads."""
    return min(config.validation_batches, len(batches)) if batches else 0


def final_validation(
    task: Task, config: MaskedSettings, batches: PretrainBatches | None
) -> dict[str, float]:
    """Measure the model as it is written; nothing without validation shards.

    Not what the run logged last: that may be of an earlier step, and a run that is resumed behind
    its last step logs none.
    """
    if batches is None:
        return {}
    found = measured(task, batches, validations(config, batches))
    return {f"validation/{name}": round(value, 5) for name, value in found.items()}
