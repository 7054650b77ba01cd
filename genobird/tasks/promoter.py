"""Training batches of promoter windows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from genobird.batch import LabelledBatch
from genobird.datasets import UPSTREAM_BP, read_promoters
from genobird.draws import generator, visited, visiting_order
from genobird.heads import HeadConfig
from genobird.places import pack_places
from genobird.tokenizer import Tokenizer

__all__ = ["UPSTREAM_BP", "PromoterBatches", "PromoterDataSettings", "read_promoters"]


class PromoterDataSettings(BaseModel):
    """How promoter windows are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequences: int = Field(16, ge=1, description="Windows per batch.")
    shift_bp: int = Field(
        16, ge=1, description="Fewer than so many first bases are left out, at random."
    )


class PromoterBatches:
    """Batches of promoters and negatives; an epoch visits every window once."""

    def __init__(
        self,
        table: pd.DataFrame,
        settings: PromoterDataSettings,
        *,
        tokenizer: Tokenizer,
        head: HeadConfig,
        block_size: int,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        self.table, self.settings, self.seed, self.augment = table, settings, seed, augment
        self.tokenizer, self.head, self.block_size = tokenizer, head, block_size

    def __len__(self) -> int:
        """Steps that visit every window once."""
        return -(-len(self.table) // self.settings.sequences)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.augment:
            return np.arange(len(self.table))
        return visiting_order(len(self.table), self.seed, epoch)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step."""
        rng = generator(self.seed, 1, step)
        first, count = step * self.settings.sequences, self.settings.sequences
        if not self.augment:  # one visit, no more
            count = min(count, len(self.table) - first)
        rows = visited(first, count, len(self.table), self._order)
        shifts = rng.integers(self.settings.shift_bp, size=len(rows)) * self.augment
        sequences = [
            str(self.table["sequence"].iloc[row])[shift:]
            for row, shift in zip(rows, shifts, strict=True)
        ]
        starts = [np.array([UPSTREAM_BP - shift], dtype=np.int64) for shift in shifts]
        places = pack_places(sequences, starts, self.tokenizer, self.head, self.block_size)
        labels = torch.tensor(self.table["label"].to_numpy(np.float32)[rows])[:, None]
        return LabelledBatch(places, labels, torch.ones(len(labels)))
