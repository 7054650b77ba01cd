"""Places in sequences: from bases to the tokens of a packed batch.

Training and scoring ask a head about places: the centre of a 200-bp bin, a transcription start.
Both come through `pack_places`, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from genobird.batch import PackedBatch, Places, add_specials, pack
from genobird.heads import HeadConfig, place_spans
from genobird.local import bases_around
from genobird.tokenizer import Encoding, Tokenizer


class Question(NamedTuple):
    """What a head is asked about sequences."""

    head: HeadConfig
    """Says which bases around a place are read."""
    places: Sequence[NDArray[np.int64]]
    """For each sequence, positions in bases (0-based)."""


def pack_places(
    sequences: Sequence[str],
    places: Sequence[NDArray[np.int64]],
    tokenizer: Tokenizer,
    head: HeadConfig,
    block_size: int,
) -> Places:
    """Tokenise S sequences over ACGTN, pack them and find tokens and bases around each place.

    Places are positions in bases (0-based), for each sequence. The head says which bases are read.
    """
    return pack_questions(sequences, [Question(head, places)], tokenizer, block_size)[0]


def pack_questions(
    sequences: Sequence[str], questions: Sequence[Question], tokenizer: Tokenizer, block_size: int
) -> list[Places]:
    """Pack sequences for several heads at once: the places of each, in one and the same batch."""
    encodings = tokenizer.encode_many(list(sequences))
    batch = pack([add_specials(encoding.ids) for encoding in encodings], block_size)
    return [_find(batch, encodings, sequences, *question) for question in questions]


def _find(
    batch: PackedBatch,
    encodings: Sequence[Encoding],
    sequences: Sequence[str],
    head: HeadConfig,
    places: Sequence[NDArray[np.int64]],
) -> Places:
    spans, owner = [], []
    for s, (encoding, at, sequence) in enumerate(zip(encodings, places, sequences, strict=True)):
        starts = torch.from_numpy(encoding.spans[:, 0].astype(np.int64))
        found = place_spans(starts, torch.from_numpy(at), head, len(sequence))
        spans.append(found + int(batch.starts[s]) + 1)  # after [CLS]
        owner.append(torch.full((len(at),), s, dtype=torch.int64))
    pairs = zip(sequences, places, strict=True)
    bases = [bases_around(sequence, at, *head.bases) for sequence, at in pairs]
    return Places(
        batch, torch.cat(spans), torch.cat(owner), torch.from_numpy(np.concatenate(bases))
    )
