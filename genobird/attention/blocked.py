"""The attention of a `BlockLayout` in plain torch, fast on a CPU, memory linear in length.

A row is one query block of one head. Rows that see their whole sequence are one dense attention,
without a mask and without a copy of its keys. The others go in runs of neighbours that see equally
many key blocks: their key blocks are gathered, a few rows at a time, and attended to densely. The
backward pass gathers again and recomputes the probabilities, so nothing but inputs and output is
kept between the passes. No run crosses from one sequence to the next: what is computed for a
sequence is computed as if it were alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention.layout import BlockLayout

# Tiles (query block x key block) computed at once: gathered keys then stay within a core's cache.
TILES = 32


@dataclass(frozen=True)
class _Dense:
    """Query blocks that see their whole sequence, in every head.

    Attributes:
        first: first query block.
        last: end of the query blocks.
        start: first token of the sequence.
        stop: end of its valid tokens.
    """

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Sparse:
    """Neighbouring rows of one head that see equally many key blocks.

    Attributes:
        head: the head.
        first: first query block.
        last: end of the query blocks.
        keys: [C * W], head * N + key block.
        mask: [C, 1, W * B] added to the scores, 0 or -inf; None where every key is valid.
    """

    head: int
    first: int
    last: int
    keys: Tensor
    mask: Tensor | None


def _runs(layout: BlockLayout, device: torch.device) -> tuple[list[_Dense], list[_Sparse]]:
    """Return the runs of a layout, kept with it."""
    key = ("blocked", device)
    if key not in layout.cache:
        layout.cache[key] = _find_runs(layout, device)
    runs: tuple[list[_Dense], list[_Sparse]] = layout.cache[key]
    return runs


def _find_runs(layout: BlockLayout, device: torch.device) -> tuple[list[_Dense], list[_Sparse]]:
    heads, n_blocks, size = layout.heads, layout.n_blocks, layout.block_size
    counts, starts = layout.counts.reshape(-1), layout.row_starts
    sequence = np.repeat(np.arange(len(layout.lengths)), np.diff(layout.cu_blocks))  # [N]
    full = np.logical_and.reduce(layout.full_rows)  # [N]
    head_of = np.repeat(np.arange(heads), n_blocks)
    kind = np.stack([head_of, np.tile(sequence, heads), np.tile(full, heads), counts])
    edges = np.flatnonzero((kind[:, 1:] != kind[:, :-1]).any(axis=0)) + 1
    dense, sparse = [], []
    keys = torch.from_numpy(layout.keys + np.repeat(head_of * n_blocks, counts)).to(device)
    partial = layout.valid < size
    for begin, end in zip([0, *edges], [*edges, len(counts)], strict=True):
        head, first = divmod(int(begin), n_blocks)
        last, count = first + int(end - begin), int(counts[begin])
        if full[first]:
            if head == 0:
                s = sequence[first]
                start = int(layout.cu_blocks[s]) * size
                stop = (int(layout.cu_blocks[s + 1]) - 1) * size
                stop += int(layout.valid[layout.cu_blocks[s + 1] - 1])
                dense.append(_Dense(first, last, start, stop))
            continue
        step = max(1, TILES // max(1, count))
        for i in range(first if count else last, last, step):
            j = min(i + step, last)
            part = slice(starts[begin + i - first], starts[begin + j - first])
            mask = None
            if partial[layout.keys[part]].any():
                invalid = np.arange(size) >= layout.valid[layout.keys[part]][:, None]  # [C * W, B]
                mask = torch.from_numpy(np.where(invalid, -np.inf, 0.0).astype(np.float32))
                mask = mask.view(j - i, 1, count * size).to(device)
            sparse.append(_Sparse(head, i, j, keys[part], mask))
    return dense, sparse


def _to_rows(x: Tensor, block_size: int) -> Tensor:
    """[T, H, D] -> [H * N, B, D]."""
    tokens, heads, width = x.shape
    blocks = x.reshape(tokens // block_size, block_size, heads, width)
    return blocks.permute(2, 0, 1, 3).reshape(-1, block_size, width)


def _gather(rows: Tensor, index: Tensor, n_rows: int) -> Tensor:
    """[H * N, B, D], [C * W] -> [C, W * B, D]; `index_select` is faster than indexing."""
    return rows.flatten(1).index_select(0, index).view(n_rows, -1, rows.shape[-1])


def _from_rows(rows: Tensor, heads: int) -> Tensor:
    """[H * N, B, D] -> [T, H, D]."""
    _, block_size, width = rows.shape
    blocks = rows.view(heads, -1, block_size, width).permute(1, 2, 0, 3)
    return blocks.reshape(-1, heads, width).contiguous()  # with one block it is a view


def forward(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float) -> Tensor:
    """Attend by gathered blocks; same arguments and result as `reference_attention`."""
    size, heads, width = layout.block_size, layout.heads, q.shape[-1]
    kr, vr = _to_rows(k, size), _to_rows(v, size)
    by_head = (heads, layout.n_blocks * size, width)
    queries = q.view(-1, size, heads, width)  # [N, B, H, D]
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    blocks = out.view(queries.shape)
    dense, sparse = _runs(layout, q.device)
    for run in sparse:
        n_rows = run.last - run.first
        blocks[run.first : run.last, :, run.head] = F.scaled_dot_product_attention(
            queries[None, run.first : run.last, :, run.head],
            _gather(kr, run.keys, n_rows)[None],
            _gather(vr, run.keys, n_rows)[None],
            attn_mask=None if run.mask is None else run.mask[None].to(q.dtype),
            scale=scale,
        )[0]
    for whole in dense:
        rows = slice(whole.first * size, whole.last * size)
        keys, values = (x.view(by_head)[None, :, whole.start : whole.stop] for x in (kr, vr))
        attended = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None], keys, values, scale=scale
        )
        out[rows] = attended[0].transpose(0, 1)
    for start, stop in layout.padding:
        out[start:stop] = 0
    return out


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, layout: BlockLayout, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk and dv from the gradient of the output, [T, H, D]."""
    size, heads, width = layout.block_size, layout.heads, q.shape[-1]
    if layout.padding:
        grad = grad.clone()
        for start, stop in layout.padding:
            grad[start:stop] = 0
    # Sums over many rows are kept in float32 (float64 stays as it is).
    work = torch.promote_types(q.dtype, torch.float32)
    qr, kr, vr, dor = (_to_rows(x, size) for x in (q * scale, k, v, grad.to(q.dtype)))
    delta = (dor.to(work) * _to_rows(out, size).to(work)).sum(-1, keepdim=True).to(q.dtype)
    dq = torch.zeros_like(qr)
    dk = torch.zeros(kr.shape, dtype=work, device=q.device)
    dv = torch.zeros_like(dk)
    dense, sparse = _runs(layout, q.device)
    for run in sparse:
        rows = slice(run.head * layout.n_blocks + run.first, run.head * layout.n_blocks + run.last)
        n_rows = run.last - run.first
        keys, values = (_gather(x, run.keys, n_rows) for x in (kr, vr))  # [C, W * B, D]
        dq[rows], dk_run, dv_run = _attend_backward(
            dor[rows], qr[rows], keys, values, delta[rows], run.mask
        )
        dk.index_add_(0, run.keys, dk_run.view(-1, size, width).to(work))
        dv.index_add_(0, run.keys, dv_run.view(-1, size, width).to(work))
    by_head = (heads, layout.n_blocks * size, -1)
    qh, kh, vh, doh, delta, dqh, dkh, dvh = (
        x.view(by_head) for x in (qr, kr, vr, dor, delta, dq, dk, dv)
    )
    for head, first, last, tokens in _dense_pieces(dense, heads, size):
        part, rows = slice(head, head + 1), slice(first, last)
        dqh[part, rows], dk_run, dv_run = _attend_backward(
            doh[part, rows], qh[part, rows], kh[part, tokens], vh[part, tokens], delta[part, rows]
        )
        dkh[part, tokens] += dk_run
        dvh[part, tokens] += dv_run
    dq *= scale
    for start, stop in layout.padding:
        dqh[:, start:stop] = 0
    dq, dk, dv = (_from_rows(x.to(q.dtype), heads) for x in (dq, dk, dv))
    return dq, dk, dv


def _dense_pieces(
    dense: list[_Dense], heads: int, size: int
) -> Iterator[tuple[int, int, int, slice]]:
    """Cut dense runs into (head, first and last query token, key tokens) of about `TILES` tiles."""
    for run in dense:
        step = max(1, TILES * size // (run.stop - run.start))
        for head in range(heads):
            for first in range(run.first, run.last, step):
                last = min(first + step, run.last)
                yield head, first * size, last * size, slice(run.start, run.stop)


def _attend_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, delta: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate softmax(q k^T + mask) v: do, q [C, R, D], k, v [C, S, D], delta [C, R, 1]."""
    p = torch.bmm(q, k.transpose(1, 2))  # [C, R, S]
    if mask is not None:
        p += mask
    p = p.softmax(dim=-1)
    ds = torch.bmm(do, v.transpose(1, 2)).sub_(delta).mul_(p)
    return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), do)
