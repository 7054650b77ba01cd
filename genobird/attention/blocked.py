"""The attention of a `BlockLayout` in plain torch, fast on a CPU, memory linear in length.

A row is one query block of one head. Rows that see their whole sequence are one dense attention,
without a mask. The others go in runs of neighbours that see equally many key blocks: their key
blocks are gathered, a few rows at a time, and attended to densely. The backward pass gathers again
and recomputes the probabilities, so nothing but inputs and output is kept between the passes. Work
goes head by head, so that a head's keys and values stay within a core's cache.

No run crosses from one sequence to the next: what is computed for a sequence is computed as if it
were alone, to the bit.
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
        rows: query tokens.
        keys: tokens of the sequence, without padding.
        is_whole: whether these are all query blocks of the sequence.
    """

    rows: slice
    keys: slice
    is_whole: bool


@dataclass(frozen=True)
class _Sparse:
    """Neighbouring rows of one head that see equally many key blocks.

    Attributes:
        rows: C query blocks.
        keys: [C * W], key blocks.
        mask: [C, 1, W * B] added to the scores, 0 or -inf; None where every key is valid.
    """

    rows: slice
    keys: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class _Runs:
    """A layout in runs: what all heads share, and what each head sees."""

    dense: list[_Dense]
    sparse: list[list[_Sparse]]


def _runs(layout: BlockLayout, device: torch.device) -> _Runs:
    """Return the runs of a layout, kept with it."""
    key = ("blocked", device)
    if key not in layout.cache:
        layout.cache[key] = _find_runs(layout, device)
    runs: _Runs = layout.cache[key]
    return runs


def _find_runs(layout: BlockLayout, device: torch.device) -> _Runs:
    heads, n_blocks, size = layout.heads, layout.n_blocks, layout.block_size
    counts, starts = layout.counts.reshape(-1), layout.row_starts
    sequence = np.repeat(np.arange(len(layout.lengths)), np.diff(layout.cu_blocks))  # [N]
    full = np.logical_and.reduce(layout.full_rows)  # [N]
    head_of = np.repeat(np.arange(heads), n_blocks)
    kind = np.stack([head_of, np.tile(sequence, heads), np.tile(full, heads), counts])
    edges = np.flatnonzero((kind[:, 1:] != kind[:, :-1]).any(axis=0)) + 1
    keys = torch.from_numpy(layout.keys).to(device)
    partial = layout.valid < size
    runs = _Runs([], [[] for _ in range(heads)])
    for begin, end in zip([0, *edges], [*edges, len(counts)], strict=True):
        head, first = divmod(int(begin), n_blocks)
        last, count = first + int(end - begin), int(counts[begin])
        if full[first]:
            if head == 0:
                start, stop = (int(b) for b in layout.cu_blocks[sequence[first] :][:2])
                valid = (stop - 1) * size + int(layout.valid[stop - 1])
                runs.dense.append(
                    _Dense(
                        slice(first * size, last * size),
                        slice(start * size, valid),
                        (first, last) == (start, stop),
                    )
                )
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
            runs.sparse[head].append(_Sparse(slice(i, j), keys[part], mask))
    return runs


def forward(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float) -> Tensor:
    """Attend by gathered blocks; same arguments and result as `reference_attention`."""
    size, width = layout.block_size, q.shape[-1]
    fresh = torch.empty if layout.counts.all() else torch.zeros  # a row without keys gives zeros
    out = fresh(q.shape, dtype=q.dtype, device=q.device)
    runs = _runs(layout, q.device)
    for run in (run for run in runs.dense if run.is_whole):
        keys, values = (x[run.keys].transpose(0, 1)[None].contiguous() for x in (k, v))
        queries = q[run.rows].transpose(0, 1)[None]  # [1, H, L, D]
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=scale)
        out[run.rows] = attended[0].transpose(0, 1)
    global_rows = [run for run in runs.dense if not run.is_whole]
    some = runs.sparse if global_rows or any(runs.sparse) else []
    # One head's keys and values, and gathered ones: memory asked for anew costs more than copying.
    kh, vh = (torch.empty((len(k), width), dtype=k.dtype, device=k.device) for _ in "kv")  # [T, D]
    most = max((len(part.keys) for sparse in some for part in sparse), default=0)
    kg, vg = (kh.new_empty((most, size * width)) for _ in "kv")
    kb, vb = (x.view(-1, size * width) for x in (kh, vh))  # [N, B * D]
    for head, sparse in enumerate(some):
        qh, oh = q[None, None, :, head], out[None, None, :, head]  # [1, 1, T, D]
        kh.copy_(k[:, head])
        vh.copy_(v[:, head])
        for run in global_rows:
            oh[:, :, run.rows] = F.scaled_dot_product_attention(
                qh[:, :, run.rows], kh[None, None, run.keys], vh[None, None, run.keys], scale=scale
            )
        qb, ob = (x.view(1, -1, size, width) for x in (qh, oh))  # [1, N, B, D]
        for part in sparse:
            taken, n_keys = (1, part.rows.stop - part.rows.start, -1, width), len(part.keys)
            ob[:, part.rows] = F.scaled_dot_product_attention(
                qb[:, part.rows],
                torch.index_select(kb, 0, part.keys, out=kg[:n_keys]).view(taken),
                torch.index_select(vb, 0, part.keys, out=vg[:n_keys]).view(taken),
                attn_mask=None if part.mask is None else part.mask[None].to(q.dtype),
                scale=scale,
            )
    for start, stop in layout.padding:
        out[start:stop] = 0
    return out


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, layout: BlockLayout, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk and dv from the gradient of the output, [T, H, D]."""
    size, width = layout.block_size, q.shape[-1]
    if layout.padding:
        grad = grad.clone()
        for start, stop in layout.padding:
            grad[start:stop] = 0
    # Sums over many rows are kept in float32 (float64 stays as it is).
    work = torch.promote_types(q.dtype, torch.float32)
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    runs = _runs(layout, q.device)
    for head, sparse in enumerate(runs.sparse):
        qh, kh, vh = q[:, head] * scale, k[:, head].contiguous(), v[:, head].contiguous()  # [T, D]
        doh = grad[:, head].to(q.dtype).contiguous()
        delta = (doh.to(work) * out[:, head].to(work)).sum(-1, keepdim=True).to(q.dtype)  # [T, 1]
        dqh = torch.zeros_like(qh)
        dkh, dvh = torch.zeros_like(kh, dtype=work), torch.zeros_like(vh, dtype=work)
        for rows, keys in _dense_pieces(runs.dense, size):
            dq_run, dk_run, dv_run = _attend_backward(
                doh[None, rows], qh[None, rows], kh[None, keys], vh[None, keys], delta[None, rows]
            )
            dqh[rows] = dq_run[0]
            dkh[keys] += dk_run[0]
            dvh[keys] += dv_run[0]
        qb, dob, deltab, dqb = (x.view(-1, size, x.shape[-1]) for x in (qh, doh, delta, dqh))
        kb, vb, dkb, dvb = (x.view(-1, size * width) for x in (kh, vh, dkh, dvh))
        for run in sparse:
            taken = (run.rows.stop - run.rows.start, -1, width)
            dqb[run.rows], dk_run, dv_run = _attend_backward(
                dob[run.rows],
                qb[run.rows],
                kb.index_select(0, run.keys).view(taken),
                vb.index_select(0, run.keys).view(taken),
                deltab[run.rows],
                run.mask,
            )
            dkb.index_add_(0, run.keys, dk_run.view(-1, size * width).to(work))
            dvb.index_add_(0, run.keys, dv_run.view(-1, size * width).to(work))
        torch.mul(dqh, scale, out=dqh)
        for whole, part in ((dq, dqh), (dk, dkh), (dv, dvh)):
            whole[:, head] = part
    for start, stop in layout.padding:
        dq[start:stop] = 0
    return dq, dk, dv


def _dense_pieces(dense: list[_Dense], size: int) -> Iterator[tuple[slice, slice]]:
    """Cut dense runs into query and key tokens of about `TILES` tiles."""
    for run in dense:
        step = max(1, TILES * size // (run.keys.stop - run.keys.start)) * size
        for first in range(run.rows.start, run.rows.stop, step):
            yield slice(first, min(first + step, run.rows.stop)), run.keys


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
