"""The rule of sparsity, and what it says for one sequence.

A `Pattern` is the rule (BigBird paper, section 2 and appendix D); `sequence_lists` applies it to a
sequence of N blocks. The lists depend on nothing but (pattern, layer, head, N): random blocks come
from a counter-based generator (Philox) keyed by (seed, layer, N), never from a global seed, and are
never drawn inside a forward pass.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from genobird.attention import google

PATTERNS = ("bigbird", "full", "google", "longformer", "random", "random+window", "window")
GLOBAL_TOKENS = ("extra", "internal")
_WITH_WINDOW = {"bigbird", "google", "longformer", "random+window", "window"}
_WITH_GLOBAL = {"bigbird", "longformer"}
_WITH_RANDOM = {"bigbird", "random", "random+window"}

IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class SequenceLists:
    """Which key blocks each query block of one sequence of N blocks sees."""

    counts: IntArray
    """[H, N], key blocks a query block sees."""
    keys: IntArray
    """[sum of counts], these blocks, rows ordered by head and query block. A block named twice
    counts twice in the softmax."""
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    """What backends derive from the lists; it does not depend on how many tokens of the last block
    are valid."""

    def __reduce__(self) -> tuple[type[SequenceLists], tuple[object, ...]]:
        """Copy and pickle without what was cached."""
        return SequenceLists, (self.counts, self.keys)

    @property
    def n_blocks(self) -> int:
        """Blocks of the sequence, N."""
        return int(self.counts.shape[1])

    @property
    def n_bytes(self) -> int:
        """Memory of the lists and, about as much, of what a backend derives from them."""
        return 2 * (self.counts.nbytes + self.keys.nbytes)

    @cached_property
    def row_starts(self) -> IntArray:
        """Offset in `keys` of each row, [H * N + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def full_rows(self) -> BoolArray:
        """Which rows see each block once and in order, [H, N]."""
        starts, counts = self.row_starts, self.counts.reshape(-1)
        place = np.arange(len(self.keys)) - np.repeat(starts[:-1], counts)
        wrong = np.concatenate([[0], np.cumsum(self.keys != place)])
        full: BoolArray = (counts == self.n_blocks) & (wrong[starts[1:]] == wrong[starts[:-1]])
        return full.reshape(self.counts.shape)


@dataclass(frozen=True)
class Pattern:
    """The rule of sparsity, in units of blocks (paper, table 21: block 64, g = 2, w = 3, r = 3).

    A sequence of at most `global_blocks + window_blocks + random_blocks` blocks gets full attention
    under `bigbird`. `google` is the released code's (see `google.py`): two global blocks, a window
    of three, full attention up to `2 * random_blocks + 5` blocks.
    """

    kind: str = "bigbird"
    """One of `PATTERNS`."""
    block_size: int = 64
    """Tokens per block."""
    window_blocks: int = 3
    """Blocks of the sliding window, centred on the query's own block; odd."""
    global_blocks: int = 2
    """The first blocks of a sequence, which see all and are seen by all."""
    random_blocks: int = 3
    """Distinct random blocks for each head and query block, drawn among the blocks that the query
    does not see already."""
    seed: int = 0
    """Key of the random draw."""
    global_tokens: str = "internal"
    """`internal` makes the first blocks of a sequence global (BigBird-ITC), `extra` puts
    `global_blocks` blocks of tokens of their own before each sequence (BigBird-ETC)."""

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


def sequence_lists(pattern: Pattern, n_blocks: int, layer: int, heads: int) -> SequenceLists:
    """Apply a pattern to one sequence.

    Args:
        pattern: the rule.
        n_blocks: blocks of the sequence, N, extra ones included.
        layer: index of the layer; each layer draws its own random blocks.
        heads: heads, H; each head draws its own.

    Returns:
        The lists, ascending in each row; layers that draw nothing share theirs.
    """
    draws = pattern.kind in {"google", *_WITH_RANDOM} and pattern.random_blocks
    is_drawn = draws and not _is_full(pattern, n_blocks)
    return _recent.get((pattern, n_blocks, layer if is_drawn else 0, heads))


def _is_full(pattern: Pattern, n_blocks: int) -> bool:
    """Tell whether each block of a sequence sees all: by the pattern, or in a short sequence."""
    if pattern.kind == "google":
        return google.is_full(n_blocks, pattern.random_blocks)
    row_blocks = pattern.global_blocks + pattern.window_blocks + pattern.random_blocks
    return pattern.kind == "full" or (pattern.kind == "bigbird" and n_blocks <= row_blocks)


_Key = tuple[Pattern, int, int, int]


class Recent:
    """The lists that were asked for last, of so many bytes at most."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lists: dict[_Key, SequenceLists] = {}

    def get(self, key: _Key) -> SequenceLists:
        """Return the lists of a pattern, blocks, layer and heads, made anew where they are gone."""
        lists = self._lists.pop(key, None)
        if lists is None:
            lists = _make(*key)
            if lists.n_bytes > self.most_bytes:
                return lists
            held = lists.n_bytes + sum([one.n_bytes for one in list(self._lists.values())])
            for oldest in list(self._lists):
                if held > self.most_bytes and (gone := self._lists.pop(oldest, None)):
                    held -= gone.n_bytes
        self._lists[key] = lists
        return lists

    def clear(self) -> None:
        """Forget them."""
        self._lists.clear()


_recent = Recent(256 << 20)  # twelve layers of all lengths up to 85 blocks take a third of it


def _make(pattern: Pattern, n_blocks: int, layer: int, heads: int) -> SequenceLists:
    if _is_full(pattern, n_blocks):
        all_keys = np.tile(np.arange(n_blocks), heads * n_blocks)
        return SequenceLists(np.full((heads, n_blocks), n_blocks), all_keys)
    if pattern.kind == "google":
        return SequenceLists(
            *google.sequence_lists(
                n_blocks, pattern.block_size, pattern.random_blocks, heads, pattern.seed + layer
            )
        )
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
    return SequenceLists(counts, np.concatenate(keys))
