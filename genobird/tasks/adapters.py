"""What of an encoder is trained: all, the upper layers, or low-rank adapters (Hu et al. 2021).

An adapter adds B A, of few numbers, to the matrix W of a linear layer, which stays as it is. It
begins at zero and is merged at the end, so that the model that is written is one like any other.
"""

from __future__ import annotations

from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genobird.errors import UsageError
from genobird.model import BigBird


class EncoderPart(BaseModel):
    """What of the encoder is trained, where it is not frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    freeze_layers: int = Field(
        0, ge=0, description="First layers that stay as they are, with what lies below them."
    )
    lora_rank: int = Field(
        0,
        ge=0,
        le=1_024,
        description="Rank of the adapters that are trained instead of the weights; 0: no adapters.",
    )
    lora_alpha: float = Field(16.0, gt=0, description="Adapters count alpha / rank times.")

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
