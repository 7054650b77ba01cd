"""Heads on the encoder's hidden states: promoters and chromatin profiles.

A head reads, for each place it is asked about, the tokens over an interval of bases
(`pool = "bin"`: their mean and maximum, beside [CLS]; `pool = "cells"`: the same of each of the
cells that the interval is cut into, so that it knows where around the place something lies) or
[CLS] alone (`pool = "cls"`, the paper's, appendix F).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from genobird.batch import PackedBatch


class HeadConfig(BaseModel):
    """Shape of a head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(1, ge=1, description="Logits a place: 1 for promoters, F for chromatin.")
    pool: Literal["cls", "bin", "cells"] = Field(
        "bin", description="What of the sequence the head reads."
    )
    hidden: int = Field(0, ge=0, description="Width of a hidden layer; 0 for a linear head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before each linear layer.")
    before_bp: int = Field(
        100, ge=0, description="Bases read before the place, without pool = cls."
    )
    after_bp: int = Field(100, ge=1, description="Bases read from the place on.")
    cell_bp: int = Field(40, ge=1, description="Bases of a cell, with pool = cells.")
    cell_width: int = Field(64, ge=1, description="Numbers that are kept of a cell.")

    @model_validator(mode="after")
    def _whole_cells(self) -> HeadConfig:
        if self.pool == "cells" and (self.before_bp + self.after_bp) % self.cell_bp:
            raise ValueError(
                f"{self.before_bp} and {self.after_bp} bp are no whole number of cells of "
                f"{self.cell_bp} bp; change before_bp, after_bp or cell_bp"
            )
        return self

    @property
    def cells(self) -> int:
        """Cells of a place, C; 1 is the whole interval."""
        return (self.before_bp + self.after_bp) // self.cell_bp if self.pool == "cells" else 1


class Head(nn.Module):
    """Logits for places in packed sequences.

    Attributes:
        reads: numbers that are pooled of each place, R.
    """

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.reads = width if config.pool == "cls" else (1 + 2 * config.cells) * width
        read = {
            "cls": width, "bin": 3 * width, "cells": width + config.cells * config.cell_width
        }[config.pool]  # fmt: skip
        if config.pool == "cells":
            self.cell = nn.Sequential(
                nn.LayerNorm(2 * width), nn.Linear(2 * width, config.cell_width), nn.GELU()
            )
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
            spans: int64 [P, C, 2], the tokens of each place's cells in the packed batch (half-open,
                at least one token).
            owner: int64 [P], the sequence of each place.

        Returns:
            Logits [P, outputs].
        """
        return self.answer(self.pool(hidden, batch, spans, owner))

    def pool(self, hidden: Tensor, batch: PackedBatch, spans: Tensor, owner: Tensor) -> Tensor:
        """Read hidden states at each place; nothing here is trained.

        Args:
            hidden: as in `forward`.
            batch: as in `forward`.
            spans: as in `forward`.
            owner: as in `forward`.

        Returns:
            [CLS], then mean and maximum of each cell: [P, R], R = (1 + 2 C) D; D with pool = cls.
        """
        cls = hidden[batch.starts[owner]]
        if self.config.pool == "cls":
            return cls
        # Neighbouring places share cells; each is read once.
        both = spans.flatten(0, 1)
        cells, where = torch.unique(both, dim=0, return_inverse=True)  # [K, 2], [P C]
        counts = cells[:, 1] - cells[:, 0]
        offsets = torch.arange(int(counts.max()), device=spans.device)
        # [K, L]; a cell shorter than L repeats its last token, which changes no maximum.
        tokens = torch.minimum(cells[:, :1] + offsets, cells[:, 1:] - 1)
        states = hidden[tokens.flatten()].view(*tokens.shape, -1)  # [K, L, D]
        inside = (offsets < counts[:, None])[..., None]
        mean = (states * inside).sum(1) / counts[:, None]
        read = torch.cat([mean.to(cls.dtype), states.amax(1)], dim=-1)  # [K, 2 D]
        return torch.cat([cls, read[where].view(len(cls), -1)], dim=-1)

    def answer(self, pooled: Tensor) -> Tensor:
        """Return the logits [P, outputs] of what `pool` has read."""
        if self.config.pool == "cells":
            cls, cells = pooled[:, : self.width], pooled[:, self.width :]
            cells = self.cell(cells.reshape(len(cls), self.config.cells, -1))  # [P, C, c]
            pooled = torch.cat([cls.to(cells.dtype), cells.flatten(1)], dim=1)
        return self.layers(self.norm(pooled))  # type: ignore[no-any-return]


def place_spans(starts: Tensor, places: Tensor, config: HeadConfig, length: int) -> Tensor:
    """Return the tokens over the bases around each place.

    Args:
        starts: int64 [T], the first base of each token of one sequence, ascending.
        places: int64 [P], positions in bases.
        config: says how many bases before and after the place are read, and in how many cells.
        length: bases of the sequence.

    Returns:
        int64 [P, C, 2], half-open token indices; every token that touches a cell's bases is within.
    """
    width = (config.before_bp + config.after_bp) // config.cells
    cells = torch.arange(config.cells) * width - config.before_bp
    first = (places[:, None] + cells).clamp(0, length - 1)  # [P, C]
    end = (places[:, None] + cells + width).clamp(1, length)
    first_token = torch.searchsorted(starts, first, right=True) - 1
    end_token = torch.searchsorted(starts, end, right=False)
    return torch.stack([first_token, torch.maximum(end_token, first_token + 1)], dim=-1)
