"""Sequences of token ids, laid end to end: the one batch that training and scoring both build.

There is no padding to the longest: each sequence is padded only to whole blocks, and attention,
stem and heads know where each sequence starts and ends. What is computed for a sequence therefore
does not depend on its neighbours.

Outside of training it does not depend on how many others are asked about either: a matrix product
of few rows is computed in another way than one of many, and rounds differently, so rows are filled
up to a multiple of `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from genobird.tokenizer import CLS, PAD, SEP

UInt16Array = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]
ROWS: Final = 16


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Token ids of S sequences."""

    ids: Tensor
    """int64 [T], T a multiple of `block_size`; PAD from a sequence's end to its last block's."""
    lengths: tuple[int, ...]
    """Tokens of each sequence, specials included."""
    block_size: int
    """Tokens per block."""

    @cached_property
    def starts(self) -> Tensor:
        """First token of each sequence, int64 [S]; the [CLS] token where there is one."""
        blocks = -(-torch.tensor(self.lengths) // self.block_size)
        return ((blocks.cumsum(0) - blocks) * self.block_size).to(self.ids.device)

    @cached_property
    def sequence(self) -> Tensor:
        """Sequence of each token, int64 [T]."""
        blocks = -(-torch.tensor(self.lengths) // self.block_size) * self.block_size
        return torch.repeat_interleave(torch.arange(len(self.lengths)), blocks).to(self.ids.device)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token in its sequence, int64 [T]."""
        tokens = torch.arange(len(self.ids), device=self.ids.device)
        return tokens - self.starts[self.sequence]

    @cached_property
    def valid(self) -> Tensor:
        """Which tokens are of a sequence, not fill, bool [T]."""
        lengths = torch.tensor(self.lengths, device=self.ids.device)
        return self.positions < lengths[self.sequence]

    def around(self, tokens: Tensor, reach: int) -> Tensor:
        """Return the ids before and after tokens of the same sequence; PAD beyond its ends.

        Args:
            tokens: int64 [M].
            reach: how far to look, R.

        Returns:
            int64 [M, R, 2]: in row d - 1 the ids d before and d after.
        """
        distance = torch.arange(1, reach + 1, device=tokens.device)
        steps = torch.stack([-distance, distance], dim=1)  # [R, 2]
        places = tokens[:, None, None] + steps
        inside = places.clamp(0, len(self.ids) - 1)
        same = (places == inside) & (self.sequence[inside] == self.sequence[tokens][:, None, None])
        return self.ids[inside].masked_fill(~same, PAD)

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch with its ids on a device."""
        return replace(self, ids=self.ids.to(device))

    def with_ids(self, ids: Tensor) -> PackedBatch:
        """Return the batch with other ids of the same shape (masking)."""
        return replace(self, ids=ids)


@dataclass(frozen=True, eq=False)
class Places:
    """Sequences and the places in them that a head is asked about."""

    batch: PackedBatch
    """S sequences."""
    spans: Tensor
    """int64 [P, C, 2], the tokens of each place's cells in the packed batch, half-open, at least
    one token each; C = 0 for heads that read bases alone."""
    owner: Tensor
    """int64 [P], the sequence of each place."""
    bases: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.uint8))
    """uint8 [P, L], the bases around each place (`local.bases_around`); L = 0 for heads that read
    none."""

    @cached_property
    def tokens(self) -> Tensor:
        """What heads read: each sequence's first token and the tokens over its places, int64 [M].

        Tokens may repeat.
        """
        first, last = self.spans[:, :1, 0], self.spans[:, -1:, 1] - 1
        offsets = torch.arange(int((last - first).max()) + 1, device=first.device)
        return torch.cat([self.batch.starts, torch.minimum(first + offsets, last).flatten()])

    def to(self, device: torch.device | str) -> Places:
        """Return the places on a device."""
        moved = (x.to(device) for x in (self.spans, self.owner, self.bases))
        return Places(self.batch.to(device), *moved)


_NONE = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Places in sequences, with labels."""

    places: Places | None
    """What the head is asked about, P places; None where `pooled` or `bases` is given."""
    labels: Tensor
    """float32 [P, F]."""
    weights: Tensor
    """float32 [P], how much each place counts; 1 on average over many batches."""
    targets: Tensor = _NONE
    """int64 [M], tokens that are hidden and whose piece is asked for; none without."""
    pieces: Tensor = _NONE
    """int64 [M], their true pieces."""
    pooled: Tensor | None = None
    """float32 [P, R], what the head reads of a frozen encoder, where that is known."""
    bases: Tensor | None = None
    """uint8 [P, L], all that a head with pool = local reads."""
    known: Tensor | None = None
    """bool [P, F], which labels are known; None is all."""

    @property
    def read(self) -> Tensor:
        """What stands there, nothing hidden, int64 [T]; empty where nothing is encoded."""
        if self.places is None:
            return _NONE
        return self.places.batch.ids.index_copy(0, self.targets, self.pieces)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LabelledBatch:
        """Return the batch on a device."""
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in parts.items() if v is not None})


def add_specials(*segments: UInt16Array) -> UInt16Array:
    """Return `[CLS] A [SEP]`, or `[CLS] A [SEP] B [SEP]` for two segments (paper, appendix F.1)."""
    parts: list[UInt16Array] = [np.array([CLS], dtype=np.uint16)]
    for segment in segments:
        parts += [segment.astype(np.uint16), np.array([SEP], dtype=np.uint16)]
    return np.concatenate(parts)


def pack(sequences: Sequence[UInt16Array], block_size: int) -> PackedBatch:
    """Lay sequences end to end.

    Args:
        sequences: token ids of each sequence, specials included, at least one id each.
        block_size: tokens per block.
    """
    lengths = tuple(len(ids) for ids in sequences)
    if not lengths or min(lengths) < 1:
        raise ValueError("a batch needs at least one sequence, and each sequence a token")
    total = sum(-(-length // block_size) for length in lengths) * block_size
    ids = np.full(total, PAD, dtype=np.int64)
    first = 0
    for sequence in sequences:
        ids[first : first + len(sequence)] = sequence
        first += -(-len(sequence) // block_size) * block_size
    return PackedBatch(torch.from_numpy(ids), lengths, block_size)


def filled(rows: Tensor) -> Tensor:
    """Repeat the last of [n, ...] rows, one at least, until they are a multiple of `ROWS`."""
    more = rows[-1:].expand(-len(rows) % ROWS, *rows.shape[1:])
    return torch.cat([rows, more]) if len(more) else rows


def in_rows(layers: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Compute layers that take each row by itself, on filled rows; return what the n rows give."""
    return layers(filled(rows))[: len(rows)]
