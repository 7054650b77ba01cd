"""What each program of the Triton kernels does: the lists of a `BlockLayout`, on the device.

A work item is one query block of one head and a run of the key blocks that it sees (`rows`), or one
key block of one head and a run of the query blocks that see it (`columns`). Items are sorted
longest first. Rows far longer than the others of their sequence (global blocks) are cut into
chunks, whose partial sums are merged in a fixed order. Whether and where a row is cut depends on
nothing but its own sequence, so neither do the bits of its result.

A plan is built once for a layout and a device and kept with the layout; a step reads it and does
not wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genobird.attention.layout import BlockLayout
from genobird.attention.pattern import IntArray

# A chunk of a long row spans about this many tokens.
CHUNK_TOKENS = 1024
ITEM_FIELDS = 8


@dataclass(frozen=True)
class WorkList:
    """One direction of the lists.

    Attributes:
        items: int32 [I, 8]: head, block, offset of the first entry in `entries`, entries without
            padding, all entries, slot of the partial sums or -1, whether it is the first of its
            row, 0.
        entries: int32 [E], blocks; in each row those with padding come last.
        merges: int32 [M, 4]: head, block, first slot, slots; of rows that were cut.
        slots: number of partial sums.
    """

    items: Tensor
    entries: Tensor
    merges: Tensor
    slots: int


@dataclass(frozen=True)
class LaunchPlan:
    """Everything the kernels need to know of a layout.

    Attributes:
        rows: query blocks and the key blocks that they see.
        columns: key blocks and the query blocks that see them.
        valid: int32 [N], valid tokens in each block.
    """

    rows: WorkList
    columns: WorkList
    valid: Tensor


def launch_plan(
    layout: BlockLayout, device: torch.device, chunk_tokens: int | None = None
) -> LaunchPlan:
    """Return the plan of a layout, building it where the layout does not have it yet.

    Args:
        layout: the layout; keeps the plan.
        device: where the lists go.
        chunk_tokens: keys that a chunk of a long row spans; default `CHUNK_TOKENS`.
    """
    chunk = max(1, (chunk_tokens or CHUNK_TOKENS) // layout.block_size)
    key = ("plan", device, chunk)
    if key not in layout.cache:
        layout.cache[key] = _build(layout, device, chunk)
    plan: LaunchPlan = layout.cache[key]
    return plan


def _build(layout: BlockLayout, device: torch.device, chunk: int) -> LaunchPlan:
    n_rows = layout.heads * layout.n_blocks
    rows = np.repeat(np.arange(n_rows), layout.counts.reshape(-1))
    columns = rows // layout.n_blocks * layout.n_blocks + layout.keys
    return LaunchPlan(
        _work_list(layout, rows, layout.keys, device, chunk),
        _work_list(layout, columns, rows % layout.n_blocks, device, chunk),
        torch.from_numpy(layout.valid.astype(np.int32)).to(device),
    )


def _work_list(
    layout: BlockLayout, owners: IntArray, others: IntArray, device: torch.device, chunk: int
) -> WorkList:
    """Group entries by owner (head * N + block), cut the long owners, sort longest first."""
    n_blocks, heads = layout.n_blocks, layout.heads
    padded = layout.valid[others] < layout.block_size
    order = np.lexsort((padded, owners))  # stable: entries keep their order otherwise
    entries = others[order]
    counts = np.bincount(owners, minlength=heads * n_blocks)
    with_padding = np.bincount(owners, weights=padded, minlength=heads * n_blocks).astype(np.int64)
    starts = np.cumsum(counts) - counts

    # Only what is much longer than its sequence's mean is cut, so partial sums stay few.
    blocks = np.diff(layout.cu_blocks)
    per_block = counts.reshape(heads, n_blocks).sum(axis=0)
    mean = np.add.reduceat(per_block, layout.cu_blocks[:-1]) / (blocks * heads)
    limit = np.tile(np.maximum(np.repeat(1.5 * mean, blocks), chunk), heads)
    pieces = np.where(counts > limit, -(-counts // chunk), 1)  # [H * N]

    owner = np.repeat(np.arange(heads * n_blocks), pieces)
    part = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = counts[owner] * part // pieces[owner]
    last = counts[owner] * (part + 1) // pieces[owner]
    full = counts[owner] - with_padding[owner]
    cut = pieces[owner] > 1
    slot = np.where(cut, np.cumsum(cut) - 1, -1)
    items = np.zeros((len(owner), ITEM_FIELDS), dtype=np.int32)
    items[:, 0] = owner // n_blocks
    items[:, 1] = owner % n_blocks
    items[:, 2] = starts[owner] + first
    items[:, 3] = np.clip(full - first, 0, last - first)
    items[:, 4] = last - first
    items[:, 5] = slot
    items[:, 6] = part == 0
    items = items[np.argsort(first - last, kind="stable")]

    merged = np.flatnonzero(pieces > 1)
    first_slot = np.cumsum(pieces[merged]) - pieces[merged]
    merges = np.stack([merged // n_blocks, merged % n_blocks, first_slot, pieces[merged]], axis=1)
    return WorkList(
        torch.from_numpy(items).to(device),
        torch.from_numpy(entries.astype(np.int32)).to(device),
        torch.from_numpy(merges.astype(np.int32)).to(device),
        int(pieces[merged].sum()),
    )
