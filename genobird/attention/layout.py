"""Which key blocks each query block sees: the attention pattern as data.

A `Pattern` is the rule (BigBird paper, section 2 and appendix D), `sequence_lists` applies it to
one sequence of N blocks, and a `BlockLayout` joins the lists of a packed batch: each sequence's
lists are shifted by the sequence's first block, so attention never crosses from one sequence to the
next, and a sequence's lists depend on nothing but (pattern, layer, head, its own number of blocks).

Random blocks come from a counter-based generator (Philox) keyed by (seed, layer, N): never from a
global seed, never drawn inside a forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from genobird.attention import google

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATTERNS = ("bigbird", "full", "google", "longformer", "random", "random+window", "window")
GLOBAL_TOKENS = ("extra", "internal")
_WITH_WINDOW = {"bigbird", "google", "longformer", "random+window", "window"}
_WITH_GLOBAL = {"bigbird", "longformer"}
_WITH_RANDOM = {"bigbird", "random", "random+window"}

IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Pattern:
    """The rule of sparsity, in units of blocks (paper, table 21: block 64, g = 2, w = 3, r = 3).

    A sequence of at most `global_blocks + window_blocks + random_blocks` blocks gets full attention
    under `bigbird`. `google` is the released code's (see `google.py`): two global blocks, a window
    of three, full attention up to `2 * random_blocks + 5` blocks.

    Attributes:
        kind: one of `PATTERNS`.
        block_size: tokens a block.
        window_blocks: blocks of the sliding window, centred on the query's own block; odd.
        global_blocks: the first blocks of a sequence, which see all and are seen by all.
        random_blocks: distinct random blocks for each head and query block, drawn among the blocks
            that the query does not see already.
        seed: key of the random draw.
        global_tokens: `internal` makes the first blocks of a sequence global (BigBird-ITC), `extra`
            puts `global_blocks` blocks of tokens of their own before each sequence (BigBird-ETC).
    """

    kind: str = "bigbird"
    block_size: int = 64
    window_blocks: int = 3
    global_blocks: int = 2
    random_blocks: int = 3
    seed: int = 0
    global_tokens: str = "internal"

    def __post_init__(self) -> None:
        if self.kind not in PATTERNS:
            raise ValueError(f"pattern {self.kind!r} is not one of {', '.join(PATTERNS)}")
        if self.window_blocks % 2 == 0:
            raise ValueError(f"window_blocks is {self.window_blocks}; it must be odd")
        if min(self.block_size, self.window_blocks) < 1:
            raise ValueError("block_size and window_blocks must be at least 1")
        if min(self.global_blocks, self.random_blocks) < 0:
            raise ValueError("global_blocks and random_blocks must not be negative")
        if self.kind == "google" and (self.global_blocks, self.window_blocks) != (2, 3):
            raise ValueError("pattern 'google' has global_blocks 2 and window_blocks 3")
        if self.global_tokens not in GLOBAL_TOKENS:
            raise ValueError(
                f"global_tokens {self.global_tokens!r} is not one of {', '.join(GLOBAL_TOKENS)}"
            )
        if self.global_tokens == "extra" and self.kind not in _WITH_GLOBAL:
            raise ValueError(
                f"global_tokens 'extra' wants pattern {' or '.join(sorted(_WITH_GLOBAL))}, "
                f"not {self.kind!r}"
            )
        if self.global_tokens == "extra" and not self.global_blocks:
            raise ValueError("global_tokens 'extra' wants global_blocks of 1 or more, not 0")

    @property
    def has_window(self) -> bool:
        """Whether rows see their neighbours."""
        return self.kind in _WITH_WINDOW

    @property
    def first_blocks(self) -> int:
        """Blocks at a sequence's start that are global; `google` has one at either end instead."""
        return self.global_blocks if self.kind in _WITH_GLOBAL else 0

    @property
    def extra_blocks(self) -> int:
        """Blocks put before each sequence."""
        return self.global_blocks if self.global_tokens == "extra" else 0


def _seen_before_random(pattern: Pattern, n_blocks: int) -> IntArray:
    """Return the global and window blocks of each row, sorted, `n_blocks` where there is none."""
    rows = np.arange(n_blocks)[:, None]
    parts = [np.empty((n_blocks, 0), dtype=np.int64)]
    n_global = pattern.first_blocks
    if n_global:
        parts.append(np.broadcast_to(np.arange(n_global), (n_blocks, n_global)))
    if pattern.has_window:
        half = pattern.window_blocks // 2
        window = rows + np.arange(-half, half + 1)
        parts.append(np.where(window >= n_global, window, n_blocks))
    seen = np.concatenate(parts, axis=1)
    seen[(seen < 0) | (seen >= n_blocks)] = n_blocks
    return np.sort(seen, axis=1)


def _random_blocks(pattern: Pattern, seen: IntArray, layer: int, heads: int) -> IntArray:
    """Draw distinct unseen blocks for each head and row, [heads, N, r]; N where too few are left.

    Floyd's algorithm picks distinct ranks among the unseen blocks of a row; a rank becomes a block
    by stepping over the sorted seen ones.
    """
    n_blocks = seen.shape[0]
    n_unseen = n_blocks - (seen < n_blocks).sum(axis=1)  # [N]
    r = pattern.random_blocks
    bits = np.random.Philox(np.random.SeedSequence([pattern.seed, layer, n_blocks]))
    uniform = (bits.random_raw(heads * n_blocks * r) >> np.uint64(11)).astype(np.float64) / 2.0**53
    uniform = uniform.reshape(heads, n_blocks, r)
    ranks = np.full((heads, n_blocks, r), -1, dtype=np.int64)
    for pick in range(r):
        top = n_unseen - r + pick  # the largest rank that this pick may take
        drawn = np.floor(uniform[:, :, pick] * (top + 1)).astype(np.int64)
        repeated = (ranks[:, :, :pick] == drawn[:, :, None]).any(axis=-1)
        chosen = np.where(repeated, top, drawn)
        ranks[:, :, pick] = np.where(n_unseen > r, chosen, pick)
    missing = ranks >= np.minimum(n_unseen, n_blocks)[:, None]
    for column in range(seen.shape[1]):
        ranks += ranks >= seen[None, :, column, None]
    ranks[missing] = n_blocks
    return ranks


@lru_cache(maxsize=512)
def sequence_lists(
    pattern: Pattern, n_blocks: int, layer: int, heads: int
) -> tuple[IntArray, IntArray]:
    """Apply a pattern to one sequence.

    Args:
        pattern: the rule.
        n_blocks: blocks of the sequence, N, extra ones included.
        layer: index of the layer; each layer draws its own random blocks.
        heads: heads, H; each head draws its own.

    Returns:
        `counts` [H, N], key blocks a query block sees, and `keys` [sum of counts], these blocks,
        ascending in each row, rows ordered by head and query block.
    """
    if pattern.kind == "google" and not google.is_full(n_blocks, pattern.random_blocks):
        return google.sequence_lists(
            n_blocks, pattern.block_size, pattern.random_blocks, heads, pattern.seed + layer
        )
    row_blocks = pattern.global_blocks + pattern.window_blocks + pattern.random_blocks
    is_short = pattern.kind == "google" or (pattern.kind == "bigbird" and n_blocks <= row_blocks)
    if pattern.kind == "full" or is_short:
        all_keys = np.tile(np.arange(n_blocks), heads * n_blocks)
        return np.full((heads, n_blocks), n_blocks), all_keys
    seen = _seen_before_random(pattern, n_blocks)
    table = np.broadcast_to(seen, (heads, *seen.shape))
    if pattern.kind in _WITH_RANDOM and pattern.random_blocks:
        drawn = _random_blocks(pattern, seen, layer, heads)
        table = np.sort(np.concatenate([table, drawn], axis=-1), axis=-1)
    n_global = min(pattern.first_blocks, n_blocks)
    counts = (table < n_blocks).sum(axis=-1)
    counts[:, :n_global] = n_blocks
    every_block = np.tile(np.arange(n_blocks), n_global)
    keys: list[IntArray] = []
    for head in range(heads):
        sparse_rows = table[head, n_global:]
        keys += [every_block, sparse_rows[sparse_rows < n_blocks]]
    return counts, np.concatenate(keys)


_HANDLES = itertools.count(1)
_LIVE: WeakValueDictionary[int, BlockLayout] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """The key blocks of each query block of a packed batch.

    Attributes:
        pattern: the rule it was made by.
        lengths: valid tokens of each sequence; a sequence takes ceil(length / block_size) blocks,
            and the extra blocks before these.
        cu_blocks: [S + 1], the first block of each sequence, and the total N.
        counts: [H, N], key blocks a query block sees.
        keys: [sum of counts], these blocks, numbered in the packed batch, rows ordered by head and
            query block. A block named twice counts twice in the softmax.
        heads: number of heads, H.
        n_blocks: blocks of the packed batch, N.
        handle: stands for the layout where only numbers may be passed.
        cache: what backends derive from the layout, such as lists on a device.
    """

    pattern: Pattern
    lengths: tuple[int, ...]
    cu_blocks: IntArray
    counts: IntArray
    keys: IntArray
    heads: int = field(init=False)
    n_blocks: int = field(init=False)
    handle: int = field(init=False)
    cache: dict[Hashable, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        heads, n_blocks = self.counts.shape
        # Plain attributes, not properties: torch.compile reads them while it traces.
        for name, value in (
            ("heads", int(heads)),
            ("n_blocks", int(n_blocks)),
            ("handle", next(_HANDLES)),
            ("cache", {}),
        ):
            object.__setattr__(self, name, value)
        _LIVE[self.handle] = self

    def __reduce__(self) -> tuple[type[BlockLayout], tuple[object, ...]]:
        """Copy and pickle without the handle and without what was cached on a device."""
        return BlockLayout, (self.pattern, self.lengths, self.cu_blocks, self.counts, self.keys)

    @classmethod
    def pack(
        cls, pattern: Pattern, lengths: Sequence[int], *, layer: int = 0, heads: int = 1
    ) -> BlockLayout:
        """Build the layout of sequences that lie end to end.

        Args:
            pattern: the rule.
            lengths: tokens of each sequence, at least 1; extra ones not counted.
            layer: index of the layer.
            heads: number of heads.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"lengths are {list(lengths)[:5]}; each sequence needs a token")
        return _pack_cached(pattern, tuple(int(length) for length in lengths), layer, heads)

    @staticmethod
    def of_handle(handle: int) -> BlockLayout:
        """Return the living layout with this handle.

        Raises:
            RuntimeError: nothing refers to the layout any more.
        """
        layout = _LIVE.get(handle)
        if layout is None:
            raise RuntimeError(
                f"the layout with handle {handle} is gone; keep a reference to it until the "
                "backward pass is over"
            )
        return layout

    @property
    def block_size(self) -> int:
        """Tokens a block."""
        return self.pattern.block_size

    @cached_property
    def valid(self) -> IntArray:
        """Valid tokens in each block, [N]; all of them but in a sequence's last block."""
        own_blocks = np.diff(self.cu_blocks) - self.pattern.extra_blocks
        last = np.asarray(self.lengths) - (own_blocks - 1) * self.block_size
        valid = np.full(self.n_blocks, self.block_size, dtype=np.int64)
        valid[self.cu_blocks[1:] - 1] = last
        return valid

    @cached_property
    def row_starts(self) -> IntArray:
        """Offset in `keys` of each row, [H * N + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts.reshape(-1))])

    @cached_property
    def full_rows(self) -> BoolArray:
        """Which rows see each block of their sequence once and in order, [H, N]."""
        starts, counts = self.row_starts, self.counts.reshape(-1)
        blocks = np.diff(self.cu_blocks)
        first = np.tile(np.repeat(self.cu_blocks[:-1], blocks), self.heads)  # [H * N]
        place = np.arange(len(self.keys)) - np.repeat(starts[:-1] - first, counts)
        wrong = np.concatenate([[0], np.cumsum(self.keys != place)])
        full: BoolArray = counts == np.tile(np.repeat(blocks, blocks), self.heads)
        full &= wrong[starts[1:]] == wrong[starts[:-1]]
        return full.reshape(self.heads, self.n_blocks)

    @cached_property
    def is_full(self) -> bool:
        """Whether every token sees its whole sequence."""
        return bool(self.full_rows.all())

    @cached_property
    def is_even(self) -> bool:
        """Whether all sequences are equally long."""
        return len(set(self.lengths)) == 1

    @cached_property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """First and last token (half-open) of the padding of each sequence that has some."""
        stops = self.cu_blocks[1:] * self.block_size
        missing = self.block_size - self.valid[self.cu_blocks[1:] - 1]
        return tuple((int(t - m), int(t)) for t, m in zip(stops, missing, strict=True) if m)

    @property
    def density(self) -> float:
        """Share of the block pairs within sequences that are computed."""
        blocks = np.diff(self.cu_blocks)
        return float(self.counts.sum() / (self.heads * (blocks**2).sum()))

    def flops(self, head_width: int) -> int:
        """Floating-point operations of a forward pass: two products for each block pair seen.

        A backward pass needs 2.5 times as many: it recomputes the scores.
        """
        return 4 * self.block_size**2 * head_width * int(self.counts.sum())

    def bytes(self, head_width: int, dtype: torch.dtype) -> int:
        """Bytes that a forward pass must move: q, k, v, the output, and a float32 for each row."""
        rows = self.n_blocks * self.block_size * self.heads
        return rows * (4 * head_width * dtype.itemsize + 4)

    def plot(self, head: int = 0, sequence: int = 0, ax: Axes | None = None) -> Axes:
        """Draw which key blocks (across) each query block (down) of a sequence sees.

        Args:
            head: the head.
            sequence: the sequence.
            ax: matplotlib axes to draw on; new ones by default.
        """
        from genobird.attention.picture import draw

        return draw(self, head, sequence, ax)

    def extra_tokens(self) -> Tensor:
        """Return where each sequence's extra global tokens stand, int64 [S, g * block_size]."""
        extra = torch.arange(self.pattern.extra_blocks * self.block_size)
        return torch.from_numpy(self.cu_blocks[:-1, None] * self.block_size) + extra

    def own_tokens(self) -> Tensor:
        """Return where the tokens of the sequences stand, padding included, int64 [T].

        All tokens but the extra ones, in order: `x[layout.own_tokens()]` takes the extra ones out.
        """
        extra, size = self.pattern.extra_blocks, self.block_size
        own_blocks = np.diff(self.cu_blocks) - extra
        before = extra * size * np.arange(1, len(own_blocks) + 1)
        places = np.arange(own_blocks.sum() * size) + np.repeat(before, own_blocks * size)
        return torch.from_numpy(places)

    def token_mask(self) -> Tensor:
        """Return how often each query token counts each key token, [H, T, T]; for small batches."""
        multiplicity = torch.zeros(self.heads * self.n_blocks, self.n_blocks)
        rows = torch.repeat_interleave(
            torch.arange(self.heads * self.n_blocks), torch.from_numpy(self.counts.reshape(-1))
        )
        ones = torch.ones(len(rows))
        multiplicity.index_put_((rows, torch.from_numpy(self.keys)), ones, accumulate=True)
        multiplicity = multiplicity.view(self.heads, self.n_blocks, self.n_blocks)
        mask = multiplicity.repeat_interleave(self.block_size, 1)
        mask = mask.repeat_interleave(self.block_size, 2)
        return mask * self.valid_tokens()

    def valid_tokens(self) -> Tensor:
        """Return which tokens of the packed batch are no padding, bool [T]."""
        offsets = torch.arange(self.block_size)
        return (offsets < torch.from_numpy(self.valid)[:, None]).reshape(-1)


@lru_cache(maxsize=256)
def _pack_cached(pattern: Pattern, lengths: tuple[int, ...], layer: int, heads: int) -> BlockLayout:
    blocks = [pattern.extra_blocks + -(-length // pattern.block_size) for length in lengths]
    cu_blocks = np.concatenate([[0], np.cumsum(blocks)])
    lists = [sequence_lists(pattern, n, layer, heads) for n in blocks]
    counts = np.concatenate([count for count, _ in lists], axis=1)
    splits = [
        np.split(keys + first, np.cumsum(count.sum(axis=1))[:-1])
        for (count, keys), first in zip(lists, cu_blocks[:-1], strict=True)
    ]
    keys = np.concatenate([split[head] for head in range(heads) for split in splits])
    return BlockLayout(pattern, lengths, cu_blocks, counts, keys)
