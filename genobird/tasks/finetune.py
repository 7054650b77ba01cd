"""Fine-tuning of the promoter and the chromatin head (paper, appendix F.2 and F.3)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor
from torch.nn import functional as F

from genobird.batch import LabelledBatch
from genobird.checkpoint import Checkpoint, feature_columns, require_free_names
from genobird.config import Strict
from genobird.datasets import ChromatinDataset, Sites, read_promoters
from genobird.enriched import EnrichedBatches, EnrichedSettings
from genobird.errors import UsageError
from genobird.files import file_sha256, write_text
from genobird.heads import POSITIVE_WEIGHT, Head, HeadConfig
from genobird.inference import Inference, Precision, settled_precision
from genobird.motifs import distinct, read_motifs
from genobird.tasks.data import (
    ChromatinBatches,
    ChromatinDataSettings,
    PromoterBatches,
    PromoterDataSettings,
    Visits,
)
from genobird.tasks.features import FeatureBatches, encode_batches
from genobird.tasks.fit import FitSettings, Run, Task, fit
from genobird.tasks.pretrain import masked_nats
from genobird.tasks.run_folder import ENCODED, SavedRun
from genobird.tasks.task import WHOLE, EncoderPart, limit, merge

logger = logging.getLogger(__name__)

_SOURCES = ("data_path", "auxiliary_path", "sites", "motifs")
"""What of a configuration names data."""


class HeadTraining(Strict):
    """What of a model is trained with a head, and how."""

    validation_batches: int = Field(20, ge=1, description="Batches per validation.")
    freeze_encoder: bool = Field(False, description="Train the head alone.")
    encoder: EncoderPart = WHOLE
    fit: FitSettings = FitSettings()

    @model_validator(mode="after")
    def _trains_encoder(self) -> Self:
        if self.freeze_encoder and not self.encoder.is_whole:
            raise ValueError(
                "freeze_encoder trains the head alone; leave out encoder, or set freeze_encoder "
                "to false"
            )
        return self


class _Source(BaseModel):
    checkpoint: Path = Field(description="Model to start from; its other heads are kept.")
    data_path: Path = Field(description="Labelled data, as the pipelines write them.")


class _FinetuneConfig(HeadTraining, _Source):
    pass


class ChromatinConfig(_FinetuneConfig):
    """Configuration of `genobird finetune chromatin`."""

    head: HeadConfig = HeadConfig(outputs=1, hidden=512)
    keep_head: bool = Field(
        False,
        description="Go on with the chromatin head that is there, wider if head says so, with new "
        "outputs for features it lacks; with head.pool = local, with its local network alone.",
    )
    auxiliary_path: Path | None = Field(
        None,
        description="Further labels of the same bins: they are learnt beside, and the model that "
        "is written does not predict them.",
    )
    auxiliary_weight: float = Field(
        0.25,
        ge=0,
        description="Weight of one auxiliary label beside one of data_path; 0 leaves them out.",
    )
    add_layers: int = Field(0, ge=0, description="Transformer layers appended before training.")
    mlm_weight: float = Field(
        0.0, ge=0, description="Weight of the masked tokens' loss (data.mask_rate), in nats."
    )
    data: ChromatinDataSettings = ChromatinDataSettings()
    enriched: EnrichedSettings | None = Field(
        None, description="Train a head with pool = local on single places instead of windows."
    )
    sites: Path | None = Field(None, description="With enriched: placed sites of other contigs.")
    motifs: Path | None = Field(
        None, description="With head.local: matrices (JASPAR) that the first filters begin with."
    )
    motifs_held: float = Field(
        0.0, ge=0, le=1, description="Share of the steps in which these filters do not change."
    )

    @model_validator(mode="after")
    def _local(self) -> ChromatinConfig:
        if (self.enriched is None) != (self.head.pool != "local"):
            raise ValueError("enriched places are for head.pool = local, and that head for them")
        if self.enriched and not self.encoder.is_whole:
            raise ValueError("enriched places are read without the encoder; leave out encoder")
        return self


class PromoterConfig(_FinetuneConfig):
    """Configuration of `genobird finetune promoter`."""

    head: HeadConfig = HeadConfig(outputs=1, before_bp=300, after_bp=200)
    draws: int = Field(
        0,
        ge=0,
        description="With a frozen encoder: draws of each window that are encoded once, on the "
        "CPU, and then trained on; 0 encodes in every step.",
    )
    places: int = Field(64, ge=1, description="Windows per batch, of those encoded before.")
    data: PromoterDataSettings = PromoterDataSettings()

    @model_validator(mode="after")
    def _frozen(self) -> PromoterConfig:
        if self.draws and not self.freeze_encoder:
            raise ValueError("draws are encoded once: freeze_encoder must be true, or draws 0")
        if self.draws and self.fit.processes > 1:
            raise ValueError("draws are encoded by one process: fit.devices must be 1, or draws 0")
        if self.draws and self.head.pool == "cells":
            raise ValueError(
                "draws are pooled once, and cells want training there; choose pool bin"
            )
        return self


class Finetuning(Task):
    """Binary cross-entropy over the places of a batch, or another loss of their labels.

    Args:
        checkpoint: holds the encoder and the head.
        settings: how to train.
        head: `promoter`, `chromatin` or `table`.
        positive_weight: weight of a positive label.
        freeze_encoder: train the head alone.
        mlm_weight: weight of the masked tokens' loss beside the labels'.
        outputs: the head's first ones, which the labels are for; those behind are auxiliary. None
            is all.
        auxiliary_weight: weight of one auxiliary label beside one of the others.
        held: first filters of the head's local network that do not change.
        held_steps: for so many steps.
        encoder: what of it is trained, where it is not frozen.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: FitSettings,
        head: str,
        *,
        positive_weight: float = 1.0,
        freeze_encoder: bool = False,
        mlm_weight: float = 0.0,
        outputs: int | None = None,
        auxiliary_weight: float = 0.0,
        held: int = 0,
        held_steps: int = 0,
        encoder: EncoderPart = WHOLE,
    ) -> None:
        super().__init__(checkpoint, settings)
        found = checkpoint.modules()[head]
        assert isinstance(found, Head)
        self.head = found
        self.positive_weight, self.freeze_encoder = positive_weight, freeze_encoder
        self.mlm_weight = mlm_weight
        self.outputs, self.auxiliary_weight = outputs or found.config.outputs, auxiliary_weight
        self.held, self.held_steps = held, held_steps
        for name, part in self.parts.items():
            part.requires_grad_(part is self.head or (name == "mlm" and mlm_weight > 0))
        if checkpoint.mlm is not None and checkpoint.mlm.neighbours is not None:
            # Their weights are right for text that was not counted; this one was (`finetune_mlm`).
            checkpoint.mlm.neighbours.requires_grad_(False)
        kept = [name for name in self.parts if name not in ("encoder", head)]
        if mlm_weight:
            kept.remove("mlm")
        if kept and not freeze_encoder:
            logger.warning(
                "the encoder is trained; other heads (%s) are not, and read what it becomes: train "
                "or measure them again, or set freeze_encoder to true",
                ", ".join(kept),
            )
        checkpoint.encoder.requires_grad_(not freeze_encoder)
        self.still = [checkpoint.encoder] if freeze_encoder else limit(checkpoint.encoder, encoder)

    @property
    def skips_parameters(self) -> bool:
        """Only some batches hide tokens."""
        return self.mlm_weight > 0

    def optimizer_step(self, *args: Any, **given: Any) -> None:
        """Take a step, in which filters that are held stay as they are."""
        if self.global_step >= self.held_steps:
            super().optimizer_step(*args, **given)
            return
        assert self.head.local is not None
        filters = self.head.local.motifs.weight.data[: self.held]
        kept = filters.clone()
        super().optimizer_step(*args, **given)
        filters.copy_(kept)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each label, [P, F + A]."""
        weight = torch.full_like(logits[0], self.positive_weight)
        return F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weight, reduction="none"
        )

    def model_step(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch."""
        hidden, pooled = None, batch.pooled
        if batch.bases is not None:
            assert self.head.local is not None
            pooled = self.head.local(batch.bases)
        elif pooled is None:
            places = batch.places
            assert places is not None
            for part in self.still:
                part.eval()
            with torch.set_grad_enabled(self.training and not self.freeze_encoder):
                hidden = self.checkpoint.encoder(places.batch)
            pooled = self.head.pool(hidden, places)
        logits = self.head.answer(pooled).float()
        losses = self.losses(logits, batch.labels)
        if batch.known is not None:
            losses = losses * batch.known
        share = batch.weights / len(batch.weights)  # a batch's own sum would undo its weights
        loss = share @ losses[:, : self.outputs].mean(1)
        metrics = {"weight": torch.tensor(len(logits))}
        if losses.shape[1] > self.outputs:
            others = share @ losses[:, self.outputs :].sum(1) / self.outputs
            metrics |= {"labels": loss.detach(), "auxiliary": others.detach()}
            loss = loss + self.auxiliary_weight * others
        if len(batch.targets) and self.mlm_weight:
            assert hidden is not None
            assert batch.places is not None
            asked = batch.places.batch, hidden, batch.targets, batch.pieces
            nats, _ = masked_nats(self.checkpoint, *asked)
            metrics = {"labels": loss.detach(), **metrics, "masked": nats.detach().mean()}
            loss = loss + self.mlm_weight * nats.mean()
        return {"loss": loss, **metrics}


class _Labels:
    """What a chromatin head learns: labels of bins, further ones beside, and placed sites."""

    def __init__(self, config: ChromatinConfig) -> None:
        self.config, self.dataset = config, ChromatinDataset(config.data_path)
        further = config.auxiliary_path if config.auxiliary_weight else None
        self.auxiliary = ChromatinDataset(further) if further else None
        self.sites = Sites.load(config.sites) if config.sites else None
        self.known = len(self.dataset.features)
        self.outputs = self.known + (len(self.auxiliary.features) if self.auxiliary else 0)

    def batches(
        self, split: str, checkpoint: Checkpoint, shape: HeadConfig, *, augment: bool
    ) -> ChromatinBatches | EnrichedBatches:
        """Return batches for a head of a shape."""
        config, seed = self.config, self.config.fit.seed
        if config.enriched:
            assert shape.local is not None
            return EnrichedBatches(
                self.dataset,
                split,
                config.enriched,
                span_bp=2 * shape.local.reach_bp,
                sites=self.sites,
                auxiliary=self.auxiliary,
                seed=seed,
                augment=augment,
            )
        return ChromatinBatches(
            self.dataset,
            split,
            config.data,
            tokenizer=checkpoint.tokenizer,
            head=shape,
            block_size=checkpoint.encoder.config.block_size,
            seed=seed,
            augment=augment,
            auxiliary=self.auxiliary,
        )

    @property
    def bases_per_batch(self) -> int:
        """Bases that a batch reads."""
        if self.config.enriched:
            assert self.config.head.local is not None
            return self.config.enriched.places * self.config.head.local.span_bp
        return self.config.data.sequences * self.config.data.window_bp

    def facts(self) -> dict[str, Any]:
        """Return which data they are."""
        found = {key: self.dataset.index.get(key) for key in ("split", "bins", "sources")}
        if self.sites:
            found["sites"] = {"sites": len(self.sites), "sha256": file_sha256(self.sites.path)}
        if self.auxiliary:
            sources = self.auxiliary.index.get("sources")
            found["auxiliary"] = {"features": self.outputs - self.known, "sources": sources}
        return found


def finetune_chromatin(config: ChromatinConfig, run: Run) -> Checkpoint:
    """Train a chromatin head (and the encoder) densely, and write the model to `output/model`."""
    torch.manual_seed(config.fit.seed)
    checkpoint = Checkpoint.load(config.checkpoint)
    labels = _Labels(config)
    shape = config.head.model_copy(update={"outputs": labels.outputs})
    if config.mlm_weight and checkpoint.mlm is None:
        raise UsageError(f"{config.checkpoint} has no masked-LM head; set mlm_weight to 0")
    if not config.keep_head:
        checkpoint.chromatin = Head(shape, checkpoint.encoder.config.width)
    else:
        checkpoint.chromatin = _kept_head(checkpoint, config, labels.dataset, shape)
    if labels.auxiliary:
        _expect_rates(checkpoint.chromatin, labels.auxiliary)
    checkpoint.encoder.deepen(config.add_layers)
    require_free_names(labels.dataset.features)
    checkpoint.features = labels.dataset.features
    held = 0
    if config.motifs and not config.keep_head:
        names = checkpoint.features["name"].tolist()
        held = _begin_with_motifs(checkpoint.chromatin, config.motifs, names)
    task = Finetuning(
        checkpoint,
        config.fit,
        "chromatin",
        # Enriched places show positives often enough, and no tokens.
        positive_weight=1.0 if config.enriched else POSITIVE_WEIGHT,
        freeze_encoder=config.freeze_encoder or config.enriched is not None,
        mlm_weight=config.mlm_weight,
        outputs=labels.known,
        auxiliary_weight=config.auxiliary_weight,
        held=held,
        held_steps=round(config.motifs_held * config.fit.steps),
        encoder=config.encoder,
    )
    train = labels.batches("train", checkpoint, shape, augment=True)
    validation = labels.batches("validation", checkpoint, shape, augment=False)
    settled = _fit(task, train, validation, config, run)
    bases = config.fit.batches * labels.bases_per_batch
    facts: dict[str, Any] = {"bases_seen": bases}
    if config.keep_head:
        earlier = checkpoint.provenance.get("chromatin")
        if shape.pool == "local":  # of a head that was combined, the local part's history
            earlier = checkpoint.provenance.pop("combined", {"local": earlier})["local"]
        facts["earlier"] = earlier
    else:
        checkpoint.provenance.pop("combined", None)
    if labels.auxiliary:
        checkpoint.chromatin = checkpoint.chromatin.narrowed(labels.known)
    facts |= {"config": settled, "data": labels.facts()}
    run.write_model(checkpoint, "chromatin", facts)
    return checkpoint


def _kept_head(
    checkpoint: Checkpoint, config: ChromatinConfig, dataset: ChromatinDataset, shape: HeadConfig
) -> Head:
    """Return the model's chromatin head, wider where the configuration asks for it."""
    head = checkpoint.chromatin
    if head is None:
        raise UsageError(
            f"{config.checkpoint} has no chromatin head; set keep_head to false for a new one"
        )
    if shape.pool == "local" and head.local is not None:
        head = head.local_alone()
    columns = _columns(checkpoint, config, dataset)
    if not head.config.widens_to(shape):
        new = shape.model_dump()
        changes = [
            f"{key} {old} -> {new[key]}"
            for key, old in head.config.model_dump().items()
            if new[key] != old
        ]
        raise UsageError(
            f"the chromatin head of {config.checkpoint} cannot change so: {', '.join(changes)}; "
            "only cell_width may grow, dropout and shifts change and local be added; set "
            "keep_head to false for a new one"
        )
    return head.widened(shape, columns)


def _columns(
    checkpoint: Checkpoint, config: ChromatinConfig, dataset: ChromatinDataset
) -> list[int]:
    """Return where the outputs of a kept head stand among the features of the data."""
    place = {name: column for column, name in enumerate(feature_columns(dataset.features))}
    wanted = feature_columns(checkpoint.features)
    missing = [name for name in wanted if name not in place]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(checkpoint.features)} features of {config.checkpoint} are "
            f"not in {config.data_path}, {missing[0]!r} the first; a head is kept for all of its "
            "features; set keep_head to false for a new one"
        )
    return [place[name] for name in wanted]


def _expect_rates(head: Head, auxiliary: ChromatinDataset) -> None:
    """Let new outputs begin with how often their labels are positive: they learn slower alone."""
    index = auxiliary.index
    rates = torch.tensor(index["positives"]["train"]).clamp(min=1) / index["bins"]["train"]
    bias = (head.layers[-1] if head.far else head.local_out).bias
    assert isinstance(bias, Tensor)
    bias.data[-len(rates) :] = (POSITIVE_WEIGHT * rates / (1 - rates)).log()


def _begin_with_motifs(head: Head, path: Path, features: Sequence[str]) -> int:
    """Let the first filters of a new local network be motifs, of the features' factors first.

    Returns:
        How many filters they are: one per strand of each motif.
    """
    if head.local is None:
        raise UsageError("motifs are for a head with a local network; give head.local too")
    factors = {part.upper() for name in features for part in name.split("|")}
    chosen = distinct(read_motifs(path), factors, head.local.config.filters // 2)
    head.local.set_motifs([motif.odds for motif in chosen])
    return 2 * len(chosen)


def finetune_promoter(config: PromoterConfig, run: Run) -> Checkpoint:
    """Train a promoter head (and the encoder), and write the model to `output/model`."""
    torch.manual_seed(config.fit.seed)
    checkpoint = Checkpoint.load(config.checkpoint)
    checkpoint.promoter = _promoter_head(config, checkpoint)
    shape = checkpoint.promoter.config

    train, validation = (
        PromoterBatches(
            read_promoters(config.data_path, split),
            config.data,
            tokenizer=checkpoint.tokenizer,
            head=shape,
            block_size=checkpoint.encoder.config.block_size,
            seed=config.fit.seed,
            augment=split == "train",
        )
        for split in ("train", "validation")
    )
    sources = {"windows": len(train.table), "positives": int(train.table["label"].sum())}
    task = Finetuning(
        checkpoint,
        config.fit,
        "promoter",
        freeze_encoder=config.freeze_encoder,
        encoder=config.encoder,
    )
    drawn: Any = train
    checked: Any = validation
    if config.draws:
        drawn, checked = encoded_once(
            *(task, train, validation, run.output / ENCODED),
            draws=config.draws,
            places=config.places,
            facts={"windows": _sha256(config.data_path), "data": config.data.model_dump()},
        )
    settled = _fit(task, drawn, checked, config, run)
    facts = {"config": settled, "data": sources}
    run.write_model(checkpoint, "promoter", facts)
    return checkpoint


def _promoter_head(config: PromoterConfig, checkpoint: Checkpoint) -> Head:
    """Make a head; one that reads profiles begins with a copy of the chromatin head.

    A copy, because the chromatin head may be replaced by another one later.
    """
    facts: dict[str, Any] = {**config.head.model_dump(), "outputs": 1}
    width, profiles = checkpoint.encoder.config.width, checkpoint.chromatin
    if config.head.pool != "profiles":
        return Head(HeadConfig(**facts), width)
    if profiles is None:
        raise UsageError(
            f"{config.checkpoint} has no chromatin head, whose profiles pool = profiles reads; "
            "train it first, or choose pool bin"
        )
    try:
        head = Head(HeadConfig(**{**facts, "profiles": profiles.config}), width)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"the head does not fit the chromatin head: {reason}") from error
    assert head.profiles is not None
    head.profiles.load_state_dict(profiles.state_dict())
    return head


def encoded_once(
    task: Finetuning,
    train: Visits,
    validation: Visits,
    folder: Path,
    *,
    draws: int,
    places: int,
    facts: Mapping[str, Any],
    device: str = "cpu",
) -> list[FeatureBatches]:
    """Encode places before training, or find those that a run encoded before it was stopped.

    Args:
        task: with a frozen encoder; its settings keep the precision, which is chosen here once.
        train: makes batches of places.
        validation: those that are validated on, encoded once.
        folder: where a run keeps what is encoded.
        draws: epochs of `train` that are encoded.
        places: per step of training.
        facts: what the batches are made from.
        device: where they are encoded.
    """
    settings = task.settings
    if settings.threads:  # `fit` sets them too, but comes later
        torch.set_num_threads(settings.threads)
    precision = _encoding_precision(settings, folder, device)
    task.settings = settings.model_copy(update={"precision": precision})
    inference = Inference(task.checkpoint, device, precision=precision)
    made = []
    for batches, times in ((train, draws), (validation, 1)):
        known = {
            **facts,
            "augment": batches.augment,
            "checkpoint": task.checkpoint.hash,
            "head": task.head.config.model_dump(),
            "seed": settings.seed,
            "precision": precision,
        }
        name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
        features = encode_batches(
            batches, times * len(batches), inference, task.head, folder / name
        )
        made.append(FeatureBatches(**features, batch=places, seed=settings.seed))
    return made


def _encoding_precision(settings: FitSettings, folder: Path, device: str) -> Precision:
    """Decide once what a run encodes and trains in; a resumed run finds it in `folder`."""
    saved, file = SavedRun.read(folder.parent), folder / "precision"
    known = file.read_text().strip() if file.exists() else None
    if saved:
        known = saved.identity.get("fit.precision")
    precision = settled_precision(settings.precision, known, device)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, f"{precision}\n")
    return precision


def _fit(
    task: Task, train: Any, validation: Any, config: _FinetuneConfig, run: Run
) -> dict[str, Any]:
    """Train, and return the settings without places, with what `auto` became."""
    sources = {key: getattr(config, key, None) for key in _SOURCES}
    fit(
        task,
        train,
        run,
        validation=validation,
        validations=min(config.validation_batches, len(validation)),
        facts={
            **config.model_dump(),
            "checkpoint": task.checkpoint.hash,
            "sha256": {key: path and _sha256(path) for key, path in sources.items()},
        },
    )
    merge(task.checkpoint.encoder)
    config = config.model_copy(update={"fit": task.settings})
    return config.model_dump(mode="json", exclude={"checkpoint", *_SOURCES})


def _sha256(path: Path) -> str:
    """Return the hash of labelled data: of the table, or of the dataset's index."""
    return file_sha256(path / "index.json" if path.is_dir() else path)
