"""Block-sparse attention over padded batches [B, L, H, D], as transformers lays them out.

The pattern is that of transformers: `google`, applied to the length of the batch, so that the last
global block is the batch's last one; what a sequence's mask hides is left out of its lists. A mask
that only ends a sequence early costs nothing. One with holes, or with padding at the left, becomes
one more feature: 1 in the queries, a large negative number in hidden keys.

Lists depend on the mask, which a compiler does not know while it traces: forward and backward are
operators of torch that get the lengths as a tensor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention import BlockLayout, Pattern, blocked, google
from genobird.attention.ops import kernels_refuse
from genobird.attention.pattern import IntArray
from genobird.attention.plan import launch_plan

# The lengths for which transformers uses the plan of the paper's experiments.
PAPER_LENGTHS = (1024, 3072, 4096)


class Rule(NamedTuple):
    """Which blocks a layer sees; numbers alone, so that an operator can take it.

    Attributes:
        block_size: tokens per block.
        random_blocks: random blocks per query block, r.
        seed: of the layer's random blocks.
        longest: tokens for which the plan of `PAPER_LENGTHS` is drawn.
        trained: 1 for the random blocks of training; 0 for those of transformers in evaluation,
            which are all the first block.
    """

    block_size: int
    random_blocks: int
    seed: int
    longest: int
    trained: int

    def sees_all(self, tokens: int) -> bool:
        """Return whether so short a batch gets full attention."""
        return google.is_full(-(-tokens // self.block_size), self.random_blocks)


def lengths_of(seen: Tensor) -> Tensor:
    """Return the tokens of each sequence, int64 [B] on the CPU; -1 where `seen` has holes.

    Args:
        seen: bool [B, L], which tokens are no padding.
    """
    lengths = seen.sum(1)
    ends_early = (seen.cumsum(1) == torch.arange(1, seen.shape[1] + 1, device=seen.device)) == seen
    return torch.where(ends_early.all(1) & (lengths > 0), lengths, -1).cpu()


def padded_attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, lengths: Tensor | None, rule: Rule
) -> Tensor:
    """Attend as transformers' block-sparse attention does, without dropout.

    Args:
        q: queries [B, L, H, D].
        k: keys [B, L, H, D].
        v: values [B, L, H, D].
        seen: bool [B, L], which tokens are no padding; None is all.
        lengths: `lengths_of(seen)`; None is all L.
        rule: which blocks the layer sees.

    Returns:
        [B, L, H, D], zero where `seen` is False.
    """
    out: Tensor = torch.ops.genobird.padded_attention(q, k, v, seen, lengths, list(rule))[0]
    return out


@lru_cache(maxsize=128)
def layout_of(rule: Rule, heads: int, n_blocks: int, lengths: tuple[int, ...]) -> BlockLayout:
    """Return the layout of a padded batch: each sequence, then what follows it, which sees nothing.

    Args:
        rule: which blocks the layer sees.
        heads: heads, H.
        n_blocks: blocks of each padded sequence, N.
        lengths: tokens of each sequence, 1 to N * block_size.
    """
    size = rule.block_size
    parts, blocks, tokens = [], [0], []
    for i, length in enumerate(lengths):
        own = -(-length // size)
        counts, keys, head_of = _lists(rule, heads, n_blocks, own)
        parts.append((counts, keys + i * n_blocks, head_of))
        blocks += [own, n_blocks - own] if own < n_blocks else [own]
        tokens += [length, (n_blocks - own) * size] if own < n_blocks else [length]
    counts, keys, head_of = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    by_head = np.argsort(head_of, kind="stable")
    pattern = Pattern("google", block_size=size, random_blocks=rule.random_blocks)
    return BlockLayout(pattern, tuple(tokens), np.cumsum(blocks), counts, keys[by_head])


@lru_cache(maxsize=512)
def _lists(rule: Rule, heads: int, n_blocks: int, own: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return counts [H, N], keys, and the head of each key, of a sequence with `own` blocks."""
    size, r = rule.block_size, rule.random_blocks
    random = np.zeros((heads, n_blocks - 2, r), dtype=np.int64)
    if rule.trained:
        random = google.draw_random_blocks(
            n_blocks, size, r, heads, rule.seed,
            paper_lengths=PAPER_LENGTHS, longest=rule.longest,
        )  # fmt: skip
    counts, keys = google.joined_lists(random)
    row = np.repeat(np.arange(heads * n_blocks), counts.reshape(-1))
    kept = (row % n_blocks < own) & (keys < own)
    row, keys = row[kept], keys[kept]
    counts = np.bincount(row, minlength=heads * n_blocks).reshape(heads, n_blocks)
    return counts, keys, row // n_blocks


class _Packed(NamedTuple):
    """A padded batch as the backends want it.

    Attributes:
        q: queries [T, H, D], or [T, H, D + 1] with the feature that hides keys.
        k: keys.
        v: values.
        layout: which blocks are seen.
        seen: bool [B, L], where the mask has holes.
        scale: factor on the scores.
        by_triton: whether the kernels take it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    layout: BlockLayout
    seen: Tensor | None
    scale: float
    by_triton: bool


def _packed(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, lengths: Tensor | None, rule: Rule
) -> _Packed:
    batch, tokens, heads, width = q.shape
    sizes = [tokens] * batch if lengths is None else lengths.tolist()
    has_holes = min(sizes) < 0
    seen = seen if has_holes else None
    layout = layout_of(
        rule, heads, -(-tokens // rule.block_size), tuple([tokens] * batch if has_holes else sizes)
    )
    scale = width**-0.5
    features: tuple[Tensor | float, ...] = (1.0, 0.0, 0.0)
    if seen is not None:
        hidden = max(-1e4 / scale, torch.finfo(k.dtype).min / 2)
        features = (1.0, torch.where(seen, 0.0, hidden)[:, :, None, None].to(k.dtype), 0.0)
    parts = [
        _flat(x if seen is None else _widened(x, feature), rule.block_size)
        for x, feature in zip((q, k, v), features, strict=True)
    ]
    by_triton = (
        q.device.type == "cuda"
        and kernels_refuse(q.dtype, parts[0].shape[-1], rule.block_size) is None
    )
    return _Packed(*parts, layout, seen, scale, by_triton)


def _widened(x: Tensor, feature: Tensor | float) -> Tensor:
    """Append one feature, [B, L, H, D] -> [B, L, H, D + 1]."""
    last = x.new_empty((*x.shape[:3], 1))
    last[...] = feature
    return torch.cat([x, last], dim=-1)


def _flat(x: Tensor, block_size: int) -> Tensor:
    """Fill up the last block and lay the sequences end to end, [B, L, H, D] -> [T, H, D]."""
    missing = -x.shape[1] % block_size
    return (F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x).flatten(0, 1)


def _padded(x: Tensor, like: Tensor, seen: Tensor | None) -> Tensor:
    """Undo `_flat` and `_widened`, and clear what is hidden: [T, H, *] -> [B, L, H, D]."""
    batch, tokens, _, width = like.shape
    x = x.unflatten(0, (batch, -1))[:, :tokens, :, :width]
    return x.contiguous() if seen is None else x * seen[:, :, None, None]


@torch.library.custom_op(
    "genobird::padded_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? seen, Tensor? lengths, int[] rule) "
    "-> (Tensor, Tensor)",
)
def _forward(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, lengths: Tensor | None, rule: list[int]
) -> tuple[Tensor, Tensor]:
    x = _packed(q, k, v, seen, lengths, Rule(*rule))
    if x.by_triton:
        from genobird.attention import kernels

        plan = launch_plan(x.layout, q.device)
        out, lse = kernels.forward(x.q, x.k, x.v, plan, rule[0], x.scale)
    else:
        out = blocked.forward(x.q, x.k, x.v, x.layout, x.scale)
        lse = _lse_like(q, rule)
    return _padded(out, q, x.seen), lse


@torch.library.custom_op(
    "genobird::padded_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? seen, Tensor? lengths, "
    "Tensor out, Tensor lse, int[] rule) -> (Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    lse: Tensor,
    rule: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    x = _packed(q, k, v, seen, lengths, Rule(*rule))
    if x.seen is not None:
        grad = _widened(grad * x.seen[:, :, None, None], 0.0)
        out = _widened(out, 0.0)
    grad, out = (_flat(part, rule[0]) for part in (grad, out))
    if x.by_triton:
        from genobird.attention import kernels

        plan = launch_plan(x.layout, q.device)
        grads = kernels.backward(grad, x.q, x.k, x.v, out, lse, plan, rule[0], x.scale)
    else:
        grads = blocked.backward(grad, x.q, x.k, x.v, out, x.layout, x.scale)
    dq, dk, dv = (_padded(part, q, None) for part in grads)
    return dq, dk, dv


def _lse_like(q: Tensor, rule: list[int]) -> Tensor:
    """Room for the kernels' logarithms of sums, [H, T]; nothing where they cannot run."""
    batch, tokens, heads, _ = q.shape
    total = batch * -(-tokens // rule[0]) * rule[0] if q.device.type == "cuda" else 0
    return q.new_empty((heads, total), dtype=torch.float32)


@_forward.register_fake
def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, lengths: Tensor | None, rule: list[int]
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), _lse_like(q, rule)


@_backward.register_fake
def _backward_fake(grad: Tensor, q: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.rule = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _grad_lse: Tensor | None) -> tuple[Any, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.rule), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
