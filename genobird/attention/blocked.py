"""The attention of a `BlockLayout` in plain torch, fast on a CPU, memory linear in length.

A row is one query block of one head. Rows that see equally many key blocks are computed together in
chunks: their key blocks are gathered and attended to densely. The backward pass gathers again and
recomputes the probabilities, so nothing but inputs and output is kept between the passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention.layout import BlockLayout

# Tiles (query block x key block) computed at once: gathered keys then stay within a core's cache.
TILES_PER_CHUNK = 192


@dataclass(frozen=True)
class _Chunk:
    """Rows that see equally many key blocks.

    Attributes:
        rows: [C], head * N + query block.
        keys: [C, W], head * N + key block.
        mask: [C, 1, W * B] added to the scores, 0 or -inf; None where every key is valid.
    """

    rows: Tensor
    keys: Tensor
    mask: Tensor | None


@lru_cache(maxsize=64)
def _chunks(layout: BlockLayout, device: torch.device) -> tuple[_Chunk, ...]:
    """Group the rows of a layout by count and by whether they see a block with padding."""
    n_blocks = layout.n_blocks
    counts = layout.counts.reshape(-1)  # [H * N]
    starts = layout.row_starts
    partial = layout.valid < layout.block_size  # [N]
    sees_padding = np.add.reduceat(partial[layout.keys], starts[:-1]) > 0
    offsets = np.arange(layout.block_size)
    chunks = []
    for count in np.unique(counts):
        for padded in (False, True):
            rows = np.flatnonzero((counts == count) & (sees_padding == padded))
            size = max(1, TILES_PER_CHUNK // int(count))
            for first in range(0, len(rows), size):
                part = rows[first : first + size]
                keys = layout.keys[starts[part][:, None] + np.arange(count)]  # [C, W]
                mask = None
                if padded:
                    invalid = offsets >= layout.valid[keys][..., None]  # [C, W, B]
                    mask = torch.zeros(len(part), 1, int(count) * layout.block_size)
                    mask[torch.from_numpy(invalid).view(len(part), 1, -1)] = -torch.inf
                    mask = mask.to(device)
                heads = (part // n_blocks)[:, None]
                chunks.append(
                    _Chunk(
                        torch.from_numpy(part).to(device),
                        torch.from_numpy(keys + heads * n_blocks).to(device),
                        mask,
                    )
                )
    return tuple(chunks)


def _to_rows(x: Tensor, block_size: int) -> Tensor:
    """[T, H, D] -> [H * N, B, D]."""
    tokens, heads, width = x.shape
    blocks = x.reshape(tokens // block_size, block_size, heads, width)
    return blocks.permute(2, 0, 1, 3).reshape(-1, block_size, width)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """[H * N, B, D], [C, W] -> [C, W * B, D]; `index_select` is ten times faster than indexing."""
    width = rows.shape[-1]
    return rows.flatten(1).index_select(0, index.flatten()).view(len(index), -1, width)


def _from_rows(rows: Tensor, heads: int) -> Tensor:
    """[H * N, B, D] -> [T, H, D]."""
    _, block_size, width = rows.shape
    blocks = rows.view(heads, -1, block_size, width).permute(1, 2, 0, 3)
    return blocks.reshape(-1, heads, width)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float
    ) -> Tensor:
        size = layout.block_size
        qr, kr, vr = (_to_rows(x, size) for x in (q, k, v))
        out = torch.empty_like(qr)
        for chunk in _chunks(layout, q.device):
            keys, values = _gather(kr, chunk.keys), _gather(vr, chunk.keys)  # [C, W * B, D]
            mask = None if chunk.mask is None else chunk.mask.to(q.dtype)[None]
            attended = F.scaled_dot_product_attention(
                qr.index_select(0, chunk.rows)[None],
                keys[None],
                values[None],
                attn_mask=mask,
                scale=scale,
            )
            out.index_copy_(0, chunk.rows, attended[0])
        ctx.save_for_backward(q, k, v, out)
        ctx.layout, ctx.scale = layout, scale
        return _from_rows(out, layout.heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        size, dtype = layout.block_size, q.dtype
        qr, kr, vr, dor = (_to_rows(x, size) for x in (q * scale, k, v, grad.to(dtype)))
        # Sums over many rows are kept in float32 (float64 stays as it is).
        work = torch.promote_types(dtype, torch.float32)
        delta = (dor.to(work) * out.to(work)).sum(-1, keepdim=True).to(dtype)  # [H * N, B, 1]
        dq = torch.empty_like(qr)
        dk = torch.zeros(kr.shape, dtype=work, device=q.device)
        dv = torch.zeros_like(dk)
        tile = (-1, size, q.shape[-1])
        for chunk in _chunks(layout, q.device):
            keys, values = _gather(kr, chunk.keys), _gather(vr, chunk.keys)  # [C, W * B, D]
            queries = qr.index_select(0, chunk.rows)  # [C, B, D]
            do = dor.index_select(0, chunk.rows)
            scores = torch.bmm(queries, keys.transpose(1, 2))  # [C, B, W * B]
            if chunk.mask is not None:
                scores += chunk.mask
            p = scores.softmax(dim=-1)
            dp = torch.bmm(do, values.transpose(1, 2))
            ds = dp.sub_(delta.index_select(0, chunk.rows)).mul_(p)
            dq.index_copy_(0, chunk.rows, torch.bmm(ds, keys))
            flat = chunk.keys.flatten()
            dk.index_add_(0, flat, torch.bmm(ds.transpose(1, 2), queries).view(tile).to(work))
            dv.index_add_(0, flat, torch.bmm(p.transpose(1, 2), do).view(tile).to(work))
        dq *= scale
        dq, dk, dv = (_from_rows(x.to(dtype), layout.heads) for x in (dq, dk, dv))
        return dq, dk, dv, None, None


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float) -> Tensor:
    """Attend by gathered blocks; same arguments and result as `reference_attention`."""
    out: Tensor = _Blocked.apply(q, k, v, layout, scale)  # type: ignore[no-untyped-call]
    if not any(length % layout.block_size for length in layout.lengths):
        return out
    valid = layout.valid_tokens().to(q.device)
    return torch.where(valid[:, None, None], out, torch.zeros_like(out))
