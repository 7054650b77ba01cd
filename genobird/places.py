"""Places in sequences: from bases to the tokens of a packed batch.

Training and scoring ask a head about places: the centre of a 200-bp bin, a transcription start.
Both come through `pack_places`, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import PackedBatch, add_specials, pack
from genobird.heads import HeadConfig, place_spans
from genobird.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Places:
    """Sequences and the places a head is asked about.

    Attributes:
        batch: S sequences.
        spans: int64 [P, C, 2], the tokens of each place's cells in the packed batch, half-open.
        owner: int64 [P], the sequence of each place.
    """

    batch: PackedBatch
    spans: Tensor
    owner: Tensor

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
        return Places(self.batch.to(device), self.spans.to(device), self.owner.to(device))


def pack_places(
    sequences: Sequence[str],
    places: Sequence[NDArray[np.int64]],
    tokenizer: Tokenizer,
    head: HeadConfig,
    block_size: int,
) -> Places:
    """Tokenise sequences, pack them and find the tokens of each place.

    Args:
        sequences: S strings over ACGTN, upper-case.
        places: for each sequence, positions in bases (0-based) that the head is asked about.
        tokenizer: of the model.
        head: says which bases around a place are read.
        block_size: of the model.
    """
    encodings = tokenizer.encode_many(list(sequences))
    batch = pack([add_specials(encoding.ids) for encoding in encodings], block_size)
    spans, owner = [], []
    for s, (encoding, at, sequence) in enumerate(zip(encodings, places, sequences, strict=True)):
        starts = torch.from_numpy(encoding.spans[:, 0].astype(np.int64))
        found = place_spans(starts, torch.from_numpy(at), head, len(sequence))
        spans.append(found + int(batch.starts[s]) + 1)  # after [CLS]
        owner.append(torch.full((len(at),), s, dtype=torch.int64))
    return Places(batch, torch.cat(spans), torch.cat(owner))
