"""Which key blocks each query block sees: the attention pattern as data.

A `BlockLayout` joins the lists of a packed batch (`pattern.py` makes those of one sequence): each
sequence's lists are shifted by the sequence's first block, so attention never crosses from one
sequence to the next, and a sequence's lists depend on nothing but (pattern, layer, head, its own
number of blocks).
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

from genobird.attention.pattern import IntArray, Pattern, SequenceLists, sequence_lists

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What a block pair is to the pattern, and its colour; the index is its value in the picture.
_COLOURS = {
    "not seen": "#f4f4f4",
    "global": "#c44e52",
    "window": "#4c72b0",
    "random": "#55a868",
    "seen": "#8172b3",
}
_GLOBAL, _WINDOW, _RANDOM, _SEEN = range(1, 5)

_HANDLES = itertools.count(1)
_LIVE: WeakValueDictionary[int, BlockLayout] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """The key blocks of each query block of a packed batch."""

    pattern: Pattern
    """The rule it was made by."""
    lengths: tuple[int, ...]
    """Valid tokens of each sequence; a sequence takes ceil(length / block_size) blocks, and the
    extra blocks before these."""
    lists: tuple[SequenceLists, ...]
    """Of each sequence; sequences of equally many blocks share theirs."""
    cu_blocks: IntArray = field(init=False)
    """[S + 1], the first block of each sequence, and the total N."""
    heads: int = field(init=False)
    """Number of heads, H."""
    n_blocks: int = field(init=False)
    """Blocks of the packed batch, N."""
    handle: int = field(init=False)
    """Stands for the layout where only numbers may be passed."""
    cache: dict[Hashable, Any] = field(init=False, repr=False)
    """What backends derive from the layout, such as lists on a device."""

    def __post_init__(self) -> None:
        cu_blocks = np.cumsum([0, *(lists.n_blocks for lists in self.lists)])
        # Plain attributes, not properties: torch.compile reads them while it traces.
        for name, value in (
            ("cu_blocks", cu_blocks),
            ("heads", len(self.lists[0].counts)),
            ("n_blocks", int(cu_blocks[-1])),
            ("handle", next(_HANDLES)),
            ("cache", {}),
        ):
            object.__setattr__(self, name, value)
        _LIVE[self.handle] = self

    def __reduce__(self) -> tuple[type[BlockLayout], tuple[object, ...]]:
        """Copy and pickle without the handle and without what was cached on a device."""
        return BlockLayout, (self.pattern, self.lengths, self.lists)

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
                f"the layout with handle {handle} is gone; keep a reference to it as long "
                "as you use its handle"
            )
        return layout

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.pattern.block_size

    @cached_property
    def counts(self) -> IntArray:
        """Key blocks that a query block sees, [H, N]."""
        return np.concatenate([lists.counts for lists in self.lists], axis=1)

    @cached_property
    def keys(self) -> IntArray:
        """These blocks, numbered in the packed batch, [sum of counts]; rows as in `counts`."""
        splits = [
            np.split(lists.keys + first, lists.row_starts[lists.n_blocks : -1 : lists.n_blocks])
            for lists, first in zip(self.lists, self.cu_blocks[:-1], strict=True)
        ]
        return np.concatenate([split[head] for head in range(self.heads) for split in splits])

    @cached_property
    def row_starts(self) -> IntArray:
        """Offset in `keys` of each row, [H * N + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def valid(self) -> IntArray:
        """Valid tokens in each block, [N]; all of them but in a sequence's last block."""
        own_blocks = np.diff(self.cu_blocks) - self.pattern.extra_blocks
        last = np.asarray(self.lengths) - (own_blocks - 1) * self.block_size
        valid = np.full(self.n_blocks, self.block_size, dtype=np.int64)
        valid[self.cu_blocks[1:] - 1] = last
        return valid

    @cached_property
    def is_full(self) -> bool:
        """Whether every token sees its whole sequence."""
        return all(bool(lists.full_rows.all()) for lists in self.lists)

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
        from matplotlib import colors, patches, pyplot

        pattern = self.pattern
        first, last = (int(block) for block in self.cu_blocks[sequence : sequence + 2])
        n_blocks = last - first
        blocks = np.arange(n_blocks)
        kinds = np.full((n_blocks, n_blocks), _SEEN if pattern.kind == "full" else _RANDOM)
        if pattern.has_window:
            kinds[abs(blocks[:, None] - blocks) <= pattern.window_blocks // 2] = _WINDOW
        at_edges = [0, n_blocks - 1] if pattern.kind == "google" else blocks[: pattern.first_blocks]
        for block in at_edges:
            kinds[block] = kinds[:, block] = _GLOBAL
        starts = self.row_starts[head * self.n_blocks + first :]
        picture = np.zeros_like(kinds)
        for i in blocks:
            seen = self.keys[starts[i] : starts[i + 1]] - first
            picture[i, seen] = kinds[i, seen]
        if ax is None:
            _, ax = pyplot.subplots(figsize=(5, 5))
        names, colours = list(_COLOURS), list(_COLOURS.values())
        ax.imshow(picture, cmap=colors.ListedColormap(colours), vmin=0, vmax=len(colours) - 1)
        ax.set(xlabel="key block", ylabel="query block", title=f"{pattern.kind}, head {head}")
        drawn = np.unique(picture[picture > 0])
        handles = [patches.Patch(color=colours[i], label=names[i]) for i in drawn]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        return ax

    def extra_tokens(self) -> Tensor:
        """Return where each sequence's extra global tokens stand, int64 [S, g * block_size]."""
        extra = torch.arange(self.pattern.extra_blocks * self.block_size)
        return torch.from_numpy(self.cu_blocks[:-1, None] * self.block_size) + extra

    def only(self, tokens: Tensor) -> tuple[BlockLayout, Tensor]:
        """Return the layout in which only the blocks of some tokens see anything, and their tokens.

        Args:
            tokens: int64 [M], in the packed batch.

        Returns:
            The layout, and all tokens of these blocks, int64 [R], ascending, on the device of
            `tokens`.
        """
        blocks = torch.unique(tokens // self.block_size)
        kept = np.zeros(self.n_blocks, dtype=bool)
        kept[blocks.cpu().numpy()] = True
        parts = np.split(kept, self.cu_blocks[1:-1])
        lists = tuple(
            _some_rows(lists, part.tobytes()) for lists, part in zip(self.lists, parts, strict=True)
        )
        inside = torch.arange(self.block_size, device=tokens.device)
        rows = (blocks[:, None] * self.block_size + inside).flatten()
        return BlockLayout(self.pattern, self.lengths, lists), rows

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
    lists = tuple(sequence_lists(pattern, n, layer, heads) for n in blocks)
    return BlockLayout(pattern, lengths, lists)


@lru_cache(maxsize=256)
def _some_rows(lists: SequenceLists, kept: bytes) -> SequenceLists:
    """Return the lists in which only some query blocks see anything; `kept`: bool [N], as bytes."""
    rows = np.frombuffer(kept, dtype=bool)
    keys = lists.keys[np.repeat(np.tile(rows, len(lists.counts)), lists.counts.reshape(-1))]
    return SequenceLists(lists.counts * rows, keys)
