"""A convolutional tower over bases: what a token embedding cannot know of single bases.

Motif scanners (a wide convolution and a maximum over `stem_pool` bases) give cells; residual blocks
of dilated convolutions combine them; each token reads the cells of its first, middle and last base.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import PackedBatch
from genobird.tokenizer import MASK

# Bases that a [MASK] stands for in the stem. One number for all: the length of the hidden token
# must not leak into the prediction.
MASK_BASES = 6
# Cells by which the line of all bases grows. Few distinct lengths: libraries keep a plan, and
# allocators a hole, for every shape that they have seen (17 MB a training step without this).
_STEP = 1024
_UNKNOWN, _NOTHING = 4, 5  # channel of N and of masked bases, after A C G T; and no base at all


def _image(rows: Tensor) -> Tensor:
    """See [L, C] as an image [1, C, 1, L] in channels-last memory: no copy, the fast layout."""
    return rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)


def _rows(image: Tensor) -> Tensor:
    """See an image [1, C, 1, L] as [L, C]."""
    return image.permute(0, 2, 3, 1)[0, 0]


class Residual(nn.Module):
    """x + linear(gelu(dilated convolution(norm(x)))) over cells [L, C]."""

    KERNEL = 7

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.conv = nn.Conv2d(
            width,
            width,
            (1, self.KERNEL),
            dilation=(1, dilation),
            padding=(0, dilation * (self.KERNEL // 2)),
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Cells [L, C], which of them hold bases [L, 1] -> [L, C]."""
        y = self.norm(x) * real
        return x + self.out(F.gelu(_rows(self.conv(_image(y)))))  # type: ignore[no-any-return]


class Tower(nn.Module):
    """Bases of packed sequences to what is seen at each token.

    Sequences are laid out with gaps as wide as the receptive field, each from the first base of a
    cell on, so nothing leaks from one to the next and a sequence alone gets the same numbers.
    Batch norms are for training's sake (the alternatives learnt several times slower); in
    evaluation they are constants.

    Args:
        bases: uint8 [V, P], the bases of each piece (`Tokenizer.bases`), 255 beyond a piece.
        width: channels, C.
        kernel: bases that a motif scanner sees; odd.
        pool: bases of a cell.
        blocks: residual blocks; each sees twice as far as the one before.
        out: width of what comes out, D.
    """

    bases: Tensor
    lengths: Tensor

    def __init__(
        self, bases: np.ndarray, *, width: int, kernel: int, pool: int, blocks: int, out: int
    ) -> None:
        super().__init__()
        spare = max(0, MASK_BASES - bases.shape[1])
        pieces = np.pad(bases, ((0, 0), (0, spare)), constant_values=255)
        pieces[MASK, :MASK_BASES] = _UNKNOWN
        table = torch.from_numpy(pieces.astype(np.int64))
        self.register_buffer("bases", table, persistent=False)  # [V, P]
        self.register_buffer("lengths", (table != 255).sum(1), persistent=False)  # [V]
        self.pool = pool
        dilations = [2**i for i in range(blocks)]
        cells = sum(dilations) * (Residual.KERNEL // 2) + -(-(kernel // 2) // pool)
        self.gap = cells * pool  # bases
        self.first = nn.Conv2d(5, width, (1, kernel), padding=(0, kernel // 2))
        self.first_norm = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(Residual(width, dilation) for dilation in dilations)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(3 * width, out)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return what is seen at each token, [T, D]."""
        lengths = self.lengths[batch.ids] * batch.valid  # [T], bases
        starts, size = self._layout(lengths, batch)
        place = starts[:, None] + torch.arange(self.bases.shape[1], device=starts.device)  # [T, P]
        codes = self.bases[batch.ids]
        inside = (codes != 255) & batch.valid[:, None]
        line = codes.new_full((size,), _NOTHING)
        line[place[inside]] = codes[inside]
        real = (line.view(-1, self.pool) != _NOTHING).any(1)[:, None]  # [L, 1]
        x = F.one_hot(line, _NOTHING + 1)[:, :_NOTHING].to(self.first.weight.dtype)
        y = _rows(F.max_pool2d(self.first(_image(x.contiguous())), (1, self.pool)))  # [L, C]
        y = F.gelu(self.first_norm(y)) * real
        for block in self.blocks:
            y = block(y, real)
        y = self.norm(y)
        last = starts + (lengths - 1).clamp(min=0)
        cells = torch.stack([starts, (starts + last) // 2, last], dim=1) // self.pool  # [T, 3]
        read = y[cells.flatten()].view(len(cells), -1)  # [T, 3 C]
        return self.out(read * (lengths > 0)[:, None])  # type: ignore[no-any-return]

    def _layout(self, lengths: Tensor, batch: PackedBatch) -> tuple[Tensor, int]:
        """Return the first base of each token on the line of all bases, [T], and its length."""
        total = lengths.new_zeros(len(batch.lengths)).index_add(0, batch.sequence, lengths)  # [S]
        room = (total + self.pool - 1) // self.pool * self.pool + self.gap
        first = room.cumsum(0) - room + self.gap
        before = total.cumsum(0) - total
        starts = lengths.cumsum(0) - lengths - before[batch.sequence] + first[batch.sequence]
        size = int(room.sum()) + self.gap
        return starts, -(-size // (_STEP * self.pool)) * _STEP * self.pool
