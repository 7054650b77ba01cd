"""A layout as a picture: which key blocks each query block sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from genobird.attention.layout import BlockLayout

# What a block pair is to the pattern, and its colour; the index is its value in the picture.
_COLOURS = {
    "not seen": "#f4f4f4",
    "global": "#c44e52",
    "window": "#4c72b0",
    "random": "#55a868",
    "seen": "#8172b3",
}
_GLOBAL, _WINDOW, _RANDOM, _SEEN = range(1, 5)


def draw(layout: BlockLayout, head: int, sequence: int, ax: Axes | None) -> Axes:
    """Draw one head of one sequence, query blocks downwards; see `BlockLayout.plot`."""
    pattern = layout.pattern
    first, last = (int(block) for block in layout.cu_blocks[sequence : sequence + 2])
    n_blocks = last - first
    blocks = np.arange(n_blocks)
    kinds = np.full((n_blocks, n_blocks), _SEEN if pattern.kind == "full" else _RANDOM)
    if pattern.has_window:
        kinds[abs(blocks[:, None] - blocks) <= pattern.window_blocks // 2] = _WINDOW
    at_edges = [0, n_blocks - 1] if pattern.kind == "google" else blocks[: pattern.first_blocks]
    for block in at_edges:
        kinds[block] = kinds[:, block] = _GLOBAL
    starts = layout.row_starts[head * layout.n_blocks + first :]
    picture = np.zeros_like(kinds)
    for i in blocks:
        seen = layout.keys[starts[i] : starts[i + 1]] - first
        picture[i, seen] = kinds[i, seen]
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 5))
    colours = list(_COLOURS.values())
    ax.imshow(picture, cmap=ListedColormap(colours), vmin=0, vmax=len(colours) - 1)
    ax.set(xlabel="key block", ylabel="query block", title=f"{pattern.kind}, head {head}")
    drawn = [(name, colours[i]) for i, name in enumerate(_COLOURS) if i and (picture == i).any()]
    handles = [Patch(color=colour, label=name) for name, colour in drawn]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return ax
