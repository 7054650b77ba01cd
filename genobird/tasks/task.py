"""What is trained: a model with its loss, its optimiser, and what is logged of a step.

Of an encoder that is all, the upper layers, or low-rank adapters (Hu et al. 2021). An adapter adds
B A, of few numbers, to the matrix W of a linear layer, which stays as it is. It begins at zero and
is merged at the end, so that the model that is written is one like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from genobird.checkpoint import Checkpoint
from genobird.config import Strict
from genobird.errors import UsageError
from genobird.model import BigBird
from genobird.schedule import rate_factor
from genobird.tasks import ranks
from genobird.tasks.settings import FitSettings
from genobird.tokenizer import PAD

_NONE = torch.empty(0, dtype=torch.int64)


class EncoderPart(Strict):
    """What of the encoder is trained, where it is not frozen."""

    freeze_layers: int = Field(
        0, ge=0, description="First layers that stay as they are, with what lies below them."
    )
    lora_rank: int = Field(
        0,
        ge=0,
        le=1_024,
        description="Rank of the adapters that are trained instead of the weights; 0: no adapters.",
    )
    lora_alpha: float = Field(16.0, gt=0, description="Adapters are scaled by alpha / rank.")

    @property
    def is_whole(self) -> bool:
        """Whether all weights are trained."""
        return not (self.freeze_layers or self.lora_rank)


WHOLE: Final = EncoderPart()


class Adapter(nn.Module):
    """W [O, I] -> W + alpha / rank B A."""

    def __init__(self, weight: Tensor, part: EncoderPart) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.scale = part.lora_alpha / part.lora_rank
        self.a = nn.Parameter(torch.randn(part.lora_rank, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, part.lora_rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * self.b @ self.a


def limit(encoder: BigBird, part: EncoderPart) -> list[nn.Module]:
    """Let only a part of an encoder be trained; adapters are put in.

    Returns:
        What lies below it, to be kept in evaluation: batch norms of the stem learn without
        gradients.

    Raises:
        UsageError: no layer would be trained.
    """
    if part.is_whole:
        return []
    layers = len(encoder.blocks)
    if part.freeze_layers >= layers:
        raise UsageError(
            f"freeze_layers is {part.freeze_layers}, and the encoder has {layers} layers; leave "
            "one to be trained, or set freeze_encoder to true"
        )
    own = (encoder.embedding, encoder.position, encoder.global_tokens, encoder.stem)
    below = [
        module for module in (*own, *encoder.blocks[: part.freeze_layers]) if module is not None
    ]
    for module in [encoder] if part.lora_rank else below:
        module.requires_grad_(False)
    if part.lora_rank:
        for linear in _linears(encoder.blocks[part.freeze_layers :]):
            adapter = Adapter(linear.weight, part)
            parametrize.register_parametrization(linear, "weight", adapter)
    return below


def merge(encoder: BigBird) -> None:
    """Add adapters to the weights that they belong to, and take them out."""
    for linear in _linears(encoder):
        if parametrize.is_parametrized(linear):
            parametrize.remove_parametrizations(linear, "weight")


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [found for found in module.modules() if isinstance(found, nn.Linear)]


class Task(pl.LightningModule, ABC):
    """What pretraining and fine-tuning share; a task adds `model_step(batch) -> metrics`.

    Attributes:
        tokens: trained on by this run's processes since they began, special tokens included.
        bases: the bases of these tokens.
    """

    lengths: Tensor  # bases of each piece, int64 [V]

    def __init__(self, checkpoint: Checkpoint, settings: FitSettings) -> None:
        super().__init__()
        self.checkpoint, self.settings = checkpoint, settings
        self.parts = nn.ModuleDict(checkpoint.modules())
        checkpoint.encoder.activation_checkpointing = settings.activation_checkpointing
        lengths = torch.from_numpy(checkpoint.tokenizer.lengths.astype("int64"))
        self.register_buffer("lengths", lengths, persistent=False)
        self.identity: dict[str, Any] = {}
        """What a resumed run must have been asked to do, too; `fit` fills it."""
        self.tokens = self.bases = 0
        self._step: list[tuple[Any, dict[str, Tensor]]] = []
        """Batches of the step under way, and what was measured of each."""
        self._validation = Averages()

    @property
    def skips_parameters(self) -> bool:
        """Whether the loss of a batch may leave out some of the trained parameters."""
        return False

    @abstractmethod
    def model_step(self, batch: Any) -> dict[str, Tensor]:
        """Return `loss` (a mean) and what else is logged, and `weight`, what the means are over."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Train on a batch; what is drawn for it depends on (seed, its number) alone."""
        number = index * ranks.size() + ranks.rank()
        key = np.random.SeedSequence((self.settings.seed, 2, number)).generate_state(1, np.uint64)
        torch.manual_seed(int(key[0]))
        metrics = self.model_step(batch)
        self._step.append((batch, {name: value.detach() for name, value in metrics.items()}))
        return metrics["loss"]

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the gradients, and stop the run where they or the loss are not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        batches, seen = zip(*self._step, strict=True)
        self._step = []
        found, weight = self._averaged(batches, seen)
        if not (norm + found["loss"]).isfinite():
            raise NotFinite(batches, self.global_step, found["loss"], float(norm))
        self.log("train/batch_size", weight)
        self._log("train", found)
        self.log("train/gradient_norm", norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def _averaged(
        self, batches: Sequence[Any], seen: Sequence[dict[str, Tensor]]
    ) -> tuple[dict[str, float], float]:
        """Return means over a step's batches, of all processes, and the sum of their weights."""
        own, weight, tokens, bases = Averages(), 0.0, 0, 0
        for batch, metrics in zip(batches, seen, strict=True):
            ids = getattr(batch, "read", _NONE)
            tokens += int((ids != PAD).sum())
            bases += int(self.lengths[ids].sum())
            weight += float(metrics.pop("weight"))
            own.add(metrics)  # each batch counts alike, as its gradient does
        every = ranks.gathered((own.plain(), weight, tokens, bases))
        self.tokens += sum(tokens for _, _, tokens, _ in every)
        self.bases += sum(bases for _, _, _, bases in every)
        means = Averages.joined(totals for totals, _, _, _ in every).means()
        return means, sum(weight for _, weight, _, _ in every)

    def on_validation_start(self) -> None:
        """Begin to average."""
        self._validation = Averages()
        average_norms(self)

    def validation_step(self, batch: Any, index: int) -> None:
        """Measure a batch."""
        metrics = self.model_step(batch)
        self._validation.add(metrics, float(metrics.pop("weight")))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all batches."""
        every = ranks.gathered(self._validation.plain())
        self._log("validation", Averages.joined(every).means())

    def _log(self, stage: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.log(f"{stage}/{name}", value, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and decay."""
        settings = self.settings
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: rate_factor(
                step, settings.steps, settings.warmup_steps, settings.schedule
            ),
        )
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the run was asked to do, and whether it was validating."""
        checkpoint["identity"] = self.identity
        checkpoint["validating"] = self.trainer.validating

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the loops go on by the step: what they counted is batches of another world's size."""
        batches = checkpoint["global_step"] * self.settings.accumulate // ranks.size()
        _rewrite_progress(
            checkpoint["loops"]["fit_loop"], batches, checkpoint.get("validating", False)
        )


def average_norms(model: nn.Module) -> None:
    """Average what a model's batch norms have seen over all processes."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    ranks.average([x for n in norms for x in (n.running_mean, n.running_var) if x is not None])


class NotFinite(Exception):
    """A step that must not be taken.

    Attributes:
        batches: that this process had of it.
        step: its number.
        loss: the mean over all processes.
        norm: of the gradient.
    """

    def __init__(self, batches: Sequence[Any], step: int, loss: float, norm: float) -> None:
        super().__init__()
        self.batches, self.step, self.loss, self.norm = batches, step, loss, norm


class Averages:
    """Weighted means of metrics, each over the batches that have it.

    Attributes:
        totals: by name, the sum of weight x value and the sum of weights.
    """

    def __init__(self) -> None:
        self.totals: dict[str, tuple[Tensor | float, float]] = {}

    def add(self, metrics: Mapping[str, Tensor | float], weight: float = 1.0) -> None:
        """Add the metrics of a batch; one of weight 0 adds nothing."""
        if weight:
            self._add({name: (weight * value, weight) for name, value in metrics.items()})

    def _add(self, totals: Mapping[str, tuple[Tensor | float, float]]) -> None:
        for name, (total, weight) in totals.items():
            known, so_far = self.totals.get(name, (0.0, 0.0))
            self.totals[name] = known + total, so_far + weight

    @classmethod
    def joined(cls, parts: Iterable[Mapping[str, tuple[Tensor | float, float]]]) -> Averages:
        """Return the averages over all batches of several; each gives its `totals`."""
        found = cls()
        for part in parts:
            found._add(part)
        return found

    def plain(self) -> dict[str, tuple[float, float]]:
        """Return `totals` without tensors, as other processes can read them."""
        return {name: (float(total), weight) for name, (total, weight) in self.totals.items()}

    def means(self) -> dict[str, float]:
        """Return the mean of each metric."""
        return {name: total / weight for name, (total, weight) in self.plain().items()}


def _rewrite_progress(loop: dict[str, Any], batches: int, validating: bool) -> None:
    """Rewrite the saved progress of Lightning's fit loop: so many batches are done, and no more.

    `loop` is changed in place; `batches` are those of each process so far. A state that was saved
    within a validation (`validating`) does it again.
    """
    done = {"ready": batches, "started": batches, "processed": batches, "completed": batches - 1}
    loop["epoch_loop.batch_progress"] |= {"total": {**done}, "current": {**done}}
    # What stands so has begun its first batch and not ended it, or has begun nothing.
    begun = {"ready": 1, "started": 1} if validating else {"ready": 0, "started": 0}
    begun |= {"processed": 0, "completed": 0}
    loop["epoch_loop.val_loop.batch_progress"] |= {"total": {**begun}, "current": {**begun}}
    if validating:  # Lightning counts a step once more behind its validation
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
