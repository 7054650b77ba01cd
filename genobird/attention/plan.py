"""What each program of the Triton kernels does: the lists of a `BlockLayout`, on the device.

A work item is one query block of one head and a run of the key blocks that it sees (`rows`), or one
key block of one head and a run of the query blocks that see it (`columns`). Items are sorted
longest first. Rows far longer than the others of their sequence (global blocks) are cut into
chunks, whose partial sums are merged in a fixed order. Whether and where a row is cut depends on
nothing but its own sequence, so neither do the bits of its result.

The work of a sequence is kept with its lists, and does not depend on how much of its last block is
padding; that block comes last in each list and is masked in any case. So the plan of a new tuple of
lengths is work that is there already, shifted and joined. A step reads it and does not wait for the
device, nor does the copying: it is queued behind what the device still has to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.attention.layout import BlockLayout
from genobird.attention.pattern import IntArray, SequenceLists

# A chunk of a long row spans about this many tokens.
CHUNK_TOKENS = 1024
ITEM_FIELDS = 8


@dataclass(frozen=True)
class WorkList:
    """One direction of the lists."""

    items: Tensor
    """int32 [I, 8]: head, block, offset of the first entry in `entries`, entries but the sequence's
    last block, all entries, slot of the partial sums or -1, whether it is the first of its row, 0.
    """
    entries: Tensor
    """int32 [E], blocks; in each row the sequence's last block, which alone may have padding, comes
    last."""
    merges: Tensor
    """int32 [M, 4]: head, block, first slot, slots; of rows that were cut."""
    slots: int
    """Number of partial sums."""


@dataclass(frozen=True)
class LaunchPlan:
    """Everything the kernels need to know of a layout."""

    rows: WorkList
    """Query blocks and the key blocks that they see."""
    columns: WorkList
    """Key blocks and the query blocks that see them."""
    valid: Tensor
    """int32 [N], valid tokens in each block."""


def launch_plan(layout: BlockLayout, device: torch.device) -> LaunchPlan:
    """Return the plan of a layout, its lists on a device; the layout keeps what is built once."""
    chunk = max(1, CHUNK_TOKENS // layout.block_size)
    key = ("plan", device, chunk)
    if key not in layout.cache:
        layout.cache[key] = _build(layout, device, chunk)
    plan: LaunchPlan = layout.cache[key]
    return plan


class _Work(NamedTuple):
    """A `WorkList` of one sequence, numbered within it, as int32 arrays."""

    items: NDArray[np.int32]
    entries: NDArray[np.int32]
    merges: NDArray[np.int32]
    slots: int


def _build(layout: BlockLayout, device: torch.device, chunk: int) -> LaunchPlan:
    works = [_sequence_work(lists, chunk) for lists in layout.lists]
    rows, columns = zip(*works, strict=True)
    return LaunchPlan(
        _join(rows, layout.cu_blocks, device),
        _join(columns, layout.cu_blocks, device),
        _queue(layout.valid.astype(np.int32), device),
    )


def _queue(array: NDArray[np.int32], device: torch.device) -> Tensor:
    """Copy to a device without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _join(works: Sequence[_Work], cu_blocks: IntArray, device: torch.device) -> WorkList:
    """Shift the work of each sequence to its place, longest items of all first."""
    items: list[NDArray[np.int32]] = []
    entries: list[NDArray[np.int32]] = []
    merges: list[NDArray[np.int32]] = []
    n_entries = slots = 0
    for work, first in zip(works, cu_blocks.tolist(), strict=False):
        shift = np.array([0, first, n_entries, 0, 0, slots, 0, 0], dtype=np.int32)
        moved = work.items + shift
        moved[work.items[:, 5] < 0, 5] = -1
        items.append(moved)
        entries.append(work.entries + np.int32(first))
        merges.append(work.merges + np.array([0, first, slots, 0], dtype=np.int32))
        n_entries += len(work.entries)
        slots += work.slots
    every = np.concatenate(items)
    if len(works) > 1:
        missing = (every[:, 4].max() - every[:, 4]).astype(np.uint16)  # numpy counts 16 bits
        every = every[np.argsort(missing, kind="stable")]
    return WorkList(
        _queue(every, device),
        _queue(np.concatenate(entries), device),
        _queue(np.concatenate(merges), device),
        slots,
    )


def _sequence_work(lists: SequenceLists, chunk: int) -> tuple[_Work, _Work]:
    """Return the work of rows and columns of a sequence, kept with its lists."""
    key = ("work", chunk)
    if key not in lists.cache:
        n_blocks = lists.n_blocks
        rows = np.repeat(np.arange(lists.counts.size), lists.counts.reshape(-1))
        columns = rows // n_blocks * n_blocks + lists.keys
        lists.cache[key] = (
            _group(lists.counts.shape, rows, lists.keys, chunk),
            _group(lists.counts.shape, columns, rows % n_blocks, chunk),
        )
    found: tuple[_Work, _Work] = lists.cache[key]
    return found


def _group(shape: tuple[int, ...], owners: IntArray, others: IntArray, chunk: int) -> _Work:
    """Group entries by owner (head * N + block), cut the long owners, sort longest first."""
    heads, n_blocks = shape
    is_last = others == n_blocks - 1
    entries = others[np.lexsort((is_last, owners))]  # stable: they keep their order otherwise
    counts = np.bincount(owners, minlength=heads * n_blocks)
    full = np.bincount(owners[~is_last], minlength=heads * n_blocks)
    starts = np.cumsum(counts) - counts

    # Only what is much longer than its sequence's mean is cut, so partial sums stay few.
    limit = max(1.5 * counts.mean(), chunk)
    pieces = np.where(counts > limit, -(-counts // chunk), 1)  # [H * N]

    owner = np.repeat(np.arange(heads * n_blocks), pieces)
    part = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = counts[owner] * part // pieces[owner]
    last = counts[owner] * (part + 1) // pieces[owner]
    cut = pieces[owner] > 1
    items = np.zeros((len(owner), ITEM_FIELDS), dtype=np.int32)
    items[:, 0] = owner // n_blocks
    items[:, 1] = owner % n_blocks
    items[:, 2] = starts[owner] + first
    items[:, 3] = np.clip(full[owner] - first, 0, last - first)
    items[:, 4] = last - first
    items[:, 5] = np.where(cut, np.cumsum(cut) - 1, -1)
    items[:, 6] = part == 0
    items = items[np.argsort(first - last, kind="stable")]

    merged = np.flatnonzero(pieces > 1)
    first_slot = np.cumsum(pieces[merged]) - pieces[merged]
    merges = np.stack([merged // n_blocks, merged % n_blocks, first_slot, pieces[merged]], axis=1)
    slots = int(pieces[merged].sum())
    return _Work(items, entries.astype(np.int32), merges.astype(np.int32), slots)
