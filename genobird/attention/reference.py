"""The attention of a `BlockLayout` with a dense mask: the oracle of every other backend."""

from __future__ import annotations

import torch
from torch import Tensor

from genobird.attention.layout import BlockLayout


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float
) -> Tensor:
    """Attend with a [H, T, T] mask; memory is quadratic in T.

    Args:
        q: queries [T, H, D], T = blocks of the layout times its block size.
        k: keys [T, H, D].
        v: values [T, H, D].
        layout: which key blocks each query block sees.
        scale: factor on the scores.

    Returns:
        [T, H, D] in the dtype of `q`; zero at padding tokens and where no key is seen.
    """
    weights = reference_weights(q, k, layout, scale)
    return torch.einsum("hqk,khd->qhd", weights, v.to(weights.dtype)).to(q.dtype)


def reference_weights(q: Tensor, k: Tensor, layout: BlockLayout, scale: float) -> Tensor:
    """Return how much each query takes of each key, [H, T, T]; see `reference_attention`."""
    mask = layout.token_mask().to(q.device)  # [H, T, T], how often a key counts
    work = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("qhd,khd->hqk", q.to(work), k.to(work)) * scale
    # A key that is named n times has n times its weight: log n on the score.
    scores = scores + mask.to(work).log()
    valid = layout.valid_tokens().to(q.device)
    # Padding may see only padding, a pattern may leave a row without keys: -inf alone gives NaN.
    some = (mask.sum(-1) > 0) & valid  # [H, T]
    scores = torch.where(some[..., None], scores, torch.zeros_like(scores))
    return scores.softmax(dim=-1) * some[..., None]
