"""Block-sparse attention over padded batches [B, L, H, D], as transformers lays them out.

The pattern is that of transformers: `google`, applied to the length of the batch, so that the last
global block is the batch's last one; what a sequence's mask hides is left out of its lists. A mask
that only ends a sequence early costs nothing. One with holes, or with padding at the left, becomes
one more feature: 1 in the queries, a large negative number in hidden keys.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention import BlockLayout, Pattern, block_sparse_attention, google
from genobird.attention.pattern import IntArray, SequenceLists

# The lengths for which transformers uses the plan of the paper's experiments.
PAPER_LENGTHS = (1024, 3072, 4096)


class Rule(NamedTuple):
    """Which blocks a layer sees."""

    block_size: int
    """Tokens per block."""
    random_blocks: int
    """Random blocks per query block, r."""
    seed: int
    """Of the layer's random blocks."""
    longest: int
    """Tokens for which the plan of `PAPER_LENGTHS` is drawn."""
    is_trained: bool
    """Whether random blocks are those of training; in evaluation, transformers takes the first
    block each time."""

    def sees_all(self, tokens: int) -> bool:
        """Return whether so short a batch gets full attention."""
        return google.is_full(-(-tokens // self.block_size), self.random_blocks)


def lengths_of(seen: Tensor) -> Tensor:
    """Return the tokens of each sequence, int64 [B] on the CPU; -1 where a mask has holes.

    Args:
        seen: bool [B, L], which tokens are no padding.
    """
    lengths = seen.sum(1)
    places = torch.arange(seen.shape[1], device=seen.device)
    ends_early = ((places < lengths[:, None]) == seen).all(1) & (lengths > 0)
    return torch.where(ends_early, lengths, -1).cpu()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # lists depend on the mask, which is not known while tracing
def padded_attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, lengths: Tensor | None, rule: Rule
) -> Tensor:
    """Attend as transformers' block-sparse attention does.

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
    batch, tokens, heads, width = q.shape
    sizes = [tokens] * batch if seen is None or lengths is None else lengths.tolist()
    scale, has_holes = width**-0.5, min(sizes) < 0
    if has_holes:
        assert seen is not None
        sizes = [tokens] * batch
        hidden = max(-1e4 / scale, torch.finfo(k.dtype).min / 2)
        bias = torch.where(seen, 0.0, hidden).to(k.dtype)[:, :, None, None]
        last = bias.expand(-1, -1, heads, 1)
        q, k, v = (
            torch.cat([x, feature], dim=-1)
            for x, feature in ((q, torch.ones_like(last)), (k, last), (v, torch.zeros_like(last)))
        )
    missing = -tokens % rule.block_size
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)).flatten(0, 1) for x in (q, k, v))
    layout = _layout(rule, heads, (tokens + missing) // rule.block_size, tuple(sizes))
    out = block_sparse_attention(q, k, v, layout, scale=scale)
    out = out.view(batch, -1, *out.shape[1:])[:, :tokens, :, :width]
    return out * seen[:, :, None, None] if has_holes and seen is not None else out


@lru_cache(maxsize=128)
def _layout(rule: Rule, heads: int, n_blocks: int, lengths: tuple[int, ...]) -> BlockLayout:
    """Lay out sequences of 1 to N blocks, each with what follows it up to N, which sees nothing."""
    size = rule.block_size
    lists, tokens = list[SequenceLists](), list[int]()
    for length in lengths:
        own = -(-length // size)
        lists.append(_lists(rule, heads, n_blocks, own))
        tokens.append(length)
        if own < n_blocks:
            nothing: IntArray = np.zeros((heads, n_blocks - own), dtype=np.int64)
            lists.append(SequenceLists(nothing, nothing[:0].reshape(-1)))
            tokens.append((n_blocks - own) * size)
    pattern = Pattern("google", block_size=size, random_blocks=rule.random_blocks)
    return BlockLayout(pattern, tuple(tokens), tuple(lists))


@lru_cache(maxsize=512)
def _lists(rule: Rule, heads: int, n_blocks: int, own: int) -> SequenceLists:
    """Return the lists of the first blocks of a sequence of N, its own, which see one another."""
    size, r = rule.block_size, rule.random_blocks
    random: IntArray = np.zeros((heads, n_blocks - 2, r), dtype=np.int64)
    if rule.is_trained:
        random = google.draw_random_blocks(
            n_blocks, size, r, heads, rule.seed, PAPER_LENGTHS, rule.longest
        )
    counts, keys = google.joined_lists(random)
    row = np.repeat(np.arange(heads * n_blocks), counts.reshape(-1))
    kept = (row % n_blocks < own) & (keys < own)
    kept_counts = np.bincount(row[kept], minlength=heads * n_blocks).reshape(heads, n_blocks)
    return SequenceLists(kept_counts[:, :own], keys[kept])
