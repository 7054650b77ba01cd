"""Heads on the encoder's hidden states: promoters and chromatin profiles.

A head reads, for each place it is asked about, the tokens over an interval of bases
(`pool = "bin"`: their mean and maximum, beside [CLS]) or [CLS] alone (`pool = "cls"`, the paper's,
appendix F).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from genobird.batch import PackedBatch


class HeadConfig(BaseModel):
    """Shape of a head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(1, ge=1, description="Logits a place: 1 for promoters, F for chromatin.")
    pool: Literal["cls", "bin"] = Field("bin", description="What of the sequence the head reads.")
    hidden: int = Field(0, ge=0, description="Width of a hidden layer; 0 for a linear head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before each linear layer.")
    before_bp: int = Field(100, ge=0, description="Bases read before the place, with pool = bin.")
    after_bp: int = Field(100, ge=1, description="Bases read from the place on, with pool = bin.")


class Head(nn.Module):
    """Logits for places in packed sequences."""

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config = config
        read = width if config.pool == "cls" else 3 * width
        self.norm = nn.LayerNorm(read)
        layers: list[nn.Module] = [nn.Dropout(config.dropout)]
        if config.hidden:
            layers += [nn.Linear(read, config.hidden), nn.GELU(), nn.Dropout(config.dropout)]
        layers.append(nn.Linear(config.hidden or read, config.outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, hidden: Tensor, batch: PackedBatch, spans: Tensor, owner: Tensor) -> Tensor:
        """Predict.

        Args:
            hidden: [T, D] of the encoder.
            batch: the sequences.
            spans: int64 [P, 2], the tokens of each place in the packed batch (half-open, at least
                one token).
            owner: int64 [P], the sequence of each place.

        Returns:
            Logits [P, outputs].
        """
        cls = hidden[batch.starts[owner]]
        if self.config.pool == "cls":
            return self.layers(self.norm(cls))  # type: ignore[no-any-return]
        counts = spans[:, 1] - spans[:, 0]
        offsets = torch.arange(int(counts.max()), device=spans.device)
        # [P, L]; a span shorter than L repeats its last token, which changes no maximum.
        tokens = torch.minimum(spans[:, :1] + offsets, spans[:, 1:] - 1)
        states = hidden[tokens.flatten()].view(*tokens.shape, -1)  # [P, L, D]
        inside = (offsets < counts[:, None])[..., None]
        mean = (states * inside).sum(1) / counts[:, None]
        pooled = torch.cat([cls, mean.to(cls.dtype), states.amax(1)], dim=-1)
        return self.layers(self.norm(pooled))  # type: ignore[no-any-return]


def place_spans(starts: Tensor, places: Tensor, config: HeadConfig, length: int) -> Tensor:
    """Return the tokens over the bases around each place.

    Args:
        starts: int64 [T], the first base of each token of one sequence, ascending.
        places: int64 [P], positions in bases.
        config: says how many bases before and after the place are read.
        length: bases of the sequence.

    Returns:
        int64 [P, 2], half-open token indices; every token that touches the bases is within.
    """
    first = (places - config.before_bp).clamp(0, length - 1)
    end = (places + config.after_bp).clamp(1, length)
    first_token = torch.searchsorted(starts, first, right=True) - 1
    end_token = torch.searchsorted(starts, end, right=False)
    return torch.stack([first_token, torch.maximum(end_token, first_token + 1)], dim=1)
