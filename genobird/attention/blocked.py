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
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention.layout import BlockLayout
from genobird.attention.pattern import IntArray, SequenceLists

# Tiles (query block x key block) computed at once: gathered keys then stay within a core's cache.
TILES = 32


@dataclass(frozen=True)
class _Sparse:
    """Neighbouring rows of one head that see equally many key blocks."""

    rows: slice
    """C query blocks."""
    keys: Tensor
    """[C * W], key blocks."""
    last: Tensor | None
    """[C * W, 1], which of these are the sequence's last block; None where none is."""

    def mask(self, valid: int, size: int) -> Tensor | None:
        """Return what is added to the scores, 0 or -inf, [C, 1, W * B]; None where all keys count.

        Args:
            valid: tokens of the last block.
            size: tokens of a block, B.
        """
        if self.last is None or valid == size:
            return None
        mask = torch.zeros(size, device=self.last.device)
        mask[valid:] = -torch.inf
        return torch.where(self.last, mask, 0.0).view(self.rows.stop - self.rows.start, 1, -1)


@dataclass(frozen=True)
class _Runs:
    """One sequence in runs: query blocks that see all of it in every head, and each head's rest."""

    dense: list[slice]
    sparse: list[list[_Sparse]]
    is_whole: bool


@dataclass(frozen=True)
class _Part:
    """A sequence in a packed batch."""

    tokens: slice
    """Of the sequence, padding included."""
    length: int
    """Tokens without padding."""
    valid: int
    """Tokens of its last block without padding."""
    runs: _Runs
    """Numbered within the sequence."""


def _parts(layout: BlockLayout, device: torch.device) -> list[_Part]:
    """Cut a packed batch into sequences; their runs are kept with their lists."""
    size, parts = layout.block_size, []
    for lists, first in zip(layout.lists, layout.cu_blocks.tolist(), strict=False):
        key = ("blocked", device)
        if key not in lists.cache:
            lists.cache[key] = _find_runs(lists, device)
        last = first + lists.n_blocks
        valid = int(layout.valid[last - 1])
        length = (lists.n_blocks - 1) * size + valid
        parts.append(_Part(slice(first * size, last * size), length, valid, lists.cache[key]))
    return parts


def _find_runs(lists: SequenceLists, device: torch.device) -> _Runs:
    full = np.logical_and.reduce(lists.full_rows)  # [N]
    dense = [slice(first, stop) for first, stop in _stretches(full) if full[first]]
    starts = lists.row_starts
    keys = torch.from_numpy(lists.keys).to(device)
    is_last = lists.keys == lists.n_blocks - 1
    sparse: list[list[_Sparse]] = [[] for _ in lists.counts]
    for head, counts in enumerate(np.where(full, 0, lists.counts)):
        for first, stop in _stretches(counts):
            count = int(counts[first])
            step = max(1, TILES // max(1, count))
            for i in range(first if count else stop, stop, step):
                j = min(i + step, stop)
                part = slice(*starts[[head * lists.n_blocks + i, head * lists.n_blocks + j]])
                last = is_last[part, None]
                mark = torch.from_numpy(last).to(device) if last.any() else None
                sparse[head].append(_Sparse(slice(i, j), keys[part], mark))
    return _Runs(dense, sparse, bool(full.all()))


def _stretches(values: IntArray) -> Iterator[tuple[int, int]]:
    """Yield first and last (half-open) of neighbours that are equal."""
    edges = (np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()
    yield from zip([0, *edges], [*edges, len(values)], strict=True)


@lru_cache(maxsize=1)
def _multiplies_bfloat16() -> bool:
    """Return whether the processor has units for bfloat16; torch knows of x86 ones."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def _working(x: Tensor) -> torch.dtype:
    """Return the dtype of a backward pass: float32 where products of 16 bits would be emulated.

    The forward pass is torch's own, which is as fast in 16 bits as in 32 there.
    """
    if x.device.type != "cpu" or (x.dtype == torch.bfloat16 and _multiplies_bfloat16()):
        return x.dtype
    return torch.promote_types(x.dtype, torch.float32)


def forward(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float) -> Tensor:
    """Attend by gathered blocks; same arguments and result as `reference_attention`."""
    parts, size = _parts(layout, q.device), layout.block_size
    sees_nothing = any((lists.counts == 0).any() for lists in layout.lists)
    fresh = torch.zeros if sees_nothing else torch.empty  # a row without keys gives zeros
    out = fresh(q.shape, dtype=q.dtype, device=q.device)
    # One head's keys and values, and gathered ones: memory asked for anew costs more than copying.
    some = [part for part in parts if not part.runs.is_whole]
    longest = max((part.tokens.stop - part.tokens.start for part in some), default=0)
    runs = (run for part in some for sparse in part.runs.sparse for run in sparse)
    most = max((len(run.keys) for run in runs), default=0) * size
    buffers = [
        torch.empty((tokens, q.shape[-1]), dtype=q.dtype, device=q.device)
        for tokens in (longest, longest, most, most)
    ]
    for part in parts:
        qs, ks, vs, outs = (x[part.tokens] for x in (q, k, v, out))
        if part.runs.is_whole:
            _attend_whole(qs, ks, vs, outs, part.length, scale)
        else:
            _attend_runs(qs, ks, vs, outs, part, size, scale, buffers)
    for start, stop in layout.padding:
        out[start:stop] = 0
    return out


def _attend_whole(q: Tensor, k: Tensor, v: Tensor, out: Tensor, length: int, scale: float) -> None:
    """Attend from all tokens of a sequence to all of them, [L, H, D]."""
    queries = q.transpose(0, 1)[None]  # [1, H, L, D]
    keys, values = (x[:length].transpose(0, 1)[None].contiguous() for x in (k, v))
    attended = F.scaled_dot_product_attention(queries, keys, values, scale=scale)
    out.copy_(attended[0].transpose(0, 1))


def _attend_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    part: _Part,
    size: int,
    scale: float,
    buffers: list[Tensor],
) -> None:
    """Attend run by run in a sequence, [L, H, D]; `buffers`: of keys and values, in memory."""
    kh, vh = (x[: len(k)] for x in buffers[:2])  # [L, D]
    width = q.shape[-1]
    kb, vb, kg, vg = (x.view(-1, size * width) for x in (kh, vh, *buffers[2:]))  # [N, B * D]
    for head, sparse in enumerate(part.runs.sparse):
        qh, oh = q[None, None, :, head], out[None, None, :, head]  # [1, 1, L, D]
        kh.copy_(k[:, head])
        vh.copy_(v[:, head])
        for blocks in part.runs.dense:
            rows = slice(blocks.start * size, blocks.stop * size)
            keys, values = (x[None, None, : part.length] for x in (kh, vh))
            oh[:, :, rows] = F.scaled_dot_product_attention(
                qh[:, :, rows], keys, values, scale=scale
            )
        qb, ob = (x.view(1, -1, size, width) for x in (qh, oh))  # [1, N, B, D]
        for run in sparse:
            taken, n_keys = (1, run.rows.stop - run.rows.start, -1, width), len(run.keys)
            mask = run.mask(part.valid, size)
            ob[:, run.rows] = F.scaled_dot_product_attention(
                qb[:, run.rows],
                torch.index_select(kb, 0, run.keys, out=kg[:n_keys]).view(taken),
                torch.index_select(vb, 0, run.keys, out=vg[:n_keys]).view(taken),
                attn_mask=None if mask is None else mask[None].to(q.dtype),
                scale=scale,
            )


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, layout: BlockLayout, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk and dv from the gradient of the output, [T, H, D]."""
    if layout.padding:
        grad = grad.clone()
        for start, stop in layout.padding:
            grad[start:stop] = 0
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    for part in _parts(layout, q.device):
        for head, sparse in enumerate(part.runs.sparse):
            grads, qs, ks, vs, outs = (x[part.tokens, head] for x in (grad, q, k, v, out))
            found = _differentiate(grads, qs, ks, vs, outs, part, sparse, layout.block_size, scale)
            for whole, gradient in zip((dq, dk, dv), found, strict=True):
                whole[part.tokens, head] = gradient
    for start, stop in layout.padding:
        dq[start:stop] = 0
    return dq, dk, dv


def _differentiate(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    part: _Part,
    sparse: list[_Sparse],
    size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk and dv of one head of a sequence; all [L, D]."""
    width, work = q.shape[-1], _working(q)
    sums = torch.promote_types(work, torch.float32)  # over many rows (float64 stays as it is)
    q, k, v, grad = q.to(work) * scale, *(x.to(work).contiguous() for x in (k, v, grad))
    delta = (grad.to(sums) * out.to(sums)).sum(-1, keepdim=True).to(work)  # [L, 1]
    dq, dk, dv = torch.zeros_like(q), *(torch.zeros_like(x, dtype=sums) for x in (k, v))
    keys = slice(part.length)
    for rows in _dense_pieces(part, size):
        dq_run, dk_run, dv_run = _attend_backward(
            grad[None, rows], q[None, rows], k[None, keys], v[None, keys], delta[None, rows]
        )
        dq[rows] = dq_run[0]
        dk[keys] += dk_run[0]
        dv[keys] += dv_run[0]
    qb, gradb, deltab, dqb = (x.view(-1, size, x.shape[-1]) for x in (q, grad, delta, dq))
    kb, vb, dkb, dvb = (x.view(-1, size * width) for x in (k, v, dk, dv))
    for run in sparse:
        taken = (run.rows.stop - run.rows.start, -1, width)
        dqb[run.rows], dk_run, dv_run = _attend_backward(
            gradb[run.rows],
            qb[run.rows],
            kb.index_select(0, run.keys).view(taken),
            vb.index_select(0, run.keys).view(taken),
            deltab[run.rows],
            run.mask(part.valid, size),
        )
        dkb.index_add_(0, run.keys, dk_run.view(-1, size * width).to(sums))
        dvb.index_add_(0, run.keys, dv_run.view(-1, size * width).to(sums))
    return dq.mul_(scale), dk, dv


def _dense_pieces(part: _Part, size: int) -> Iterator[slice]:
    """Cut rows that see all of a sequence into query tokens of about `TILES` tiles."""
    step = max(1, TILES * size // part.length)
    for blocks in part.runs.dense:
        for first in range(blocks.start, blocks.stop, step):
            yield slice(first * size, min(first + step, blocks.stop) * size)


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
