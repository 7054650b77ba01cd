"""Cross-entropy of the masked-language-model head, a bounded number of logits at a time.

`plain_nats` holds the logits of all M targets, [M, V], and is the reference; `chunked_nats` gives
the same numbers from a few rows at a time, and makes the logits again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genobird.model import MaskedLMHead

# Logits that exist at once: 128 MB of float32, and 1,024 targets of a vocabulary of 32,000 keep a
# GPU busy.
CHUNK_LOGITS = 1 << 25


def plain_nats(
    head: MaskedLMHead,
    hidden: Tensor,
    embedding: Tensor,
    labels: Tensor,
    around: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return -ln p of each label and the likeliest piece.

    Args:
        head: the head.
        hidden: hidden states of the targets, [M, D].
        embedding: weights of the embedding, [V, D].
        labels: the true pieces, int64 [M].
        around: pieces around the targets, int64 [M, R, 2], for a head that reads them.

    Returns:
        Nats, float32 [M] (float64 for float64 logits), and pieces, int64 [M].
    """
    logits = head(hidden, embedding, around)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1)


def chunked_nats(
    head: MaskedLMHead,
    hidden: Tensor,
    embedding: Tensor,
    labels: Tensor,
    around: Tensor | None = None,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor]:
    """Return what `plain_nats` returns, from at most `chunk_logits` logits at a time."""
    rows = max(1, chunk_logits // len(embedding))
    if len(hidden) <= rows:
        return plain_nats(head, hidden, embedding, labels, around)
    parts = []
    for part in (slice(first, first + rows) for first in range(0, len(hidden), rows)):
        beside = None if around is None else around[part]
        given = head, hidden[part], embedding, labels[part], beside
        parts.append(checkpoint(plain_nats, *given, use_reentrant=False, preserve_rng_state=False))
    nats, pieces = zip(*parts, strict=True)
    return torch.cat(nats), torch.cat(pieces)
