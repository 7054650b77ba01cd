"""The sequence around a place at base resolution: a convolutional network that knows motifs.

What binds at a place is mostly written within a few hundred bases of it, in words of 6 to 20 bases.
`LocalNetwork` reads them as a plain network of convolutions does, centred on the place to the base:
where a window of the encoder begins, and how it was cut into tokens, changes nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import in_rows
from genobird.config import Strict
from genobird.genome.sequence import NO_BASE, base_codes


def bases_around(
    sequence: str, places: NDArray[np.int64], before: int, after: int
) -> NDArray[np.uint8]:
    """Return the codes of the bases [place - before, place + after) of places, [P, before + after].

    Beyond the ends of the sequence there is `NO_BASE`.
    """
    if not before + after:
        return np.zeros((len(places), 0), dtype=np.uint8)
    padded = np.pad(base_codes(sequence), (before, after), constant_values=NO_BASE)
    return padded[places[:, None] + np.arange(before + after)]


class LocalConfig(Strict):
    """Shape of a `LocalNetwork`."""

    span_bp: int = Field(600, ge=40, le=65_536, description="Bases read, centred on the place.")
    filters: int = Field(384, ge=4, le=16_384, description="Motif filters.")
    filter_bp: int = Field(19, ge=3, le=1_001, description="Bases a motif filter sees; odd.")
    pool_bp: int = Field(
        8, ge=1, le=1_024, description="Bases of a cell: a filter's best match in it."
    )
    shifts_bp: tuple[Annotated[int, Field(ge=-1_024, le=1_024)], ...] = Field(
        (0,),
        min_length=1,
        max_length=64,
        description="Bases off the place at which spans are read, and averaged, outside of "
        "training; half a cell to each side evens out where cells begin.",
    )
    width: int = Field(192, ge=4, le=16_384, description="Channels that combine motifs.")
    dilations: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (2, 4), max_length=64, description="Of the residual convolutions."
    )
    cells: int = Field(
        5, ge=1, le=1_024, description="Cells that are pooled before positions are read."
    )
    kept: int = Field(128, ge=1, le=16_384, description="Channels kept of each position.")
    hidden: int = Field(384, ge=1, le=65_536, description="Numbers that come out.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout around the hidden layer.")

    @property
    def reach_bp(self) -> int:
        """Bases on each side of a place that are read, at any shift."""
        return self.span_bp // 2 + max(map(abs, self.shifts_bp))

    @model_validator(mode="after")
    def _whole_cells(self) -> LocalConfig:
        if self.filter_bp % 2 == 0:
            raise ValueError(f"filter_bp is {self.filter_bp}; it must be odd")
        if self.span_bp % 2 or self.span_bp % (self.pool_bp * self.cells):
            raise ValueError(
                f"span_bp is {self.span_bp}; it must be even, and a whole number of {self.cells} "
                f"cells of {self.pool_bp} bp"
            )
        return self


class LocalNetwork(nn.Module):
    """Bases around places -> what is seen there.

    Motif filters, the best match of each in cells of `pool_bp`, squared so that strong matches
    outweigh many weak ones; convolutions that combine them; then a linear layer that knows where
    in the span each stands. All convolutions run as images [P, C, 1, L] in channels-last memory,
    the fast layout on CPUs.
    """

    def __init__(self, config: LocalConfig) -> None:
        super().__init__()
        self.config = config
        width, cells = config.width, config.span_bp // config.pool_bp // config.cells
        self.motifs = nn.Conv2d(
            4, config.filters, (1, config.filter_bp), padding=(0, config.filter_bp // 2), bias=False
        )
        self.motif_norm = nn.BatchNorm2d(config.filters)
        nn.init.constant_(self.motif_norm.bias, -1.0)  # most matches are chance
        self.combine = nn.Conv2d(config.filters, width, (1, 5), padding=(0, 2), bias=False)
        self.combine_norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(_Dilated(width, dilation) for dilation in config.dilations)
        self.keep = nn.Conv2d(width, config.kept, (1, 3), padding=(0, 1), bias=False)
        self.keep_norm = nn.BatchNorm2d(config.kept)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(config.kept * (cells + 1), config.hidden)

    def forward(self, codes: Tensor) -> Tensor:
        """Read bases, uint8 [P, 2 reach_bp], 0 to 3 for A C G T, `NO_BASE` elsewhere.

        Returns:
            [P, hidden], not negative; the mean over `shifts_bp`, in training the middle alone.
        """
        if self.training:
            return self._read(self._span(codes, 0))
        shifts = self.config.shifts_bp
        read = [in_rows(self._read, self._span(codes, shift)) for shift in shifts]
        return torch.stack(read).mean(0) if len(read) > 1 else read[0]

    def _span(self, codes: Tensor, shift: int) -> Tensor:
        """Return the span whose middle is `shift` bases off the place, [P, span_bp]."""
        first = self.config.reach_bp + shift - self.config.span_bp // 2
        return codes[:, first : first + self.config.span_bp]

    def _read(self, codes: Tensor) -> Tensor:
        # [P, L, 4] -> [P, 4, 1, L], channels last
        x = F.one_hot(codes.long(), NO_BASE + 1)[..., :NO_BASE].to(self.motifs.weight.dtype)
        x = x.unsqueeze(1).permute(0, 3, 1, 2)
        x = F.max_pool2d(self.motifs(x), (1, self.config.pool_bp))
        x = F.relu(self.motif_norm(x)).square()
        x = F.relu(self.combine_norm(self.combine(x)))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.keep_norm(self.keep(F.max_pool2d(x, (1, self.config.cells)))))
        read = torch.cat([x.flatten(1), x.amax(3).flatten(1)], dim=1)
        return self.dropout(F.relu(self.hidden(self.dropout(read))))  # type: ignore[no-any-return]

    @torch.no_grad()
    def set_motifs(self, weights: Sequence[NDArray[np.float64]]) -> None:
        """Begin the first filters with known motifs, each on both strands.

        Args:
            weights: log-odds [4, L] of each motif, rows A C G T; L may be any length: the most
                informative `filter_bp` columns are taken. At most half as many as filters.
        """
        wide = self.config.filter_bp
        if 2 * len(weights) > self.config.filters:
            raise ValueError(f"{len(weights)} motifs on two strands, {self.config.filters} filters")
        for k, odds in enumerate(weights):
            gain = np.maximum(odds, 0).sum(0)
            starts = range(max(1, odds.shape[1] - wide + 1))
            first = max(starts, key=lambda start: float(gain[start : start + wide].sum()))
            core = odds[:, first : first + wide]
            left = (wide - core.shape[1]) // 2
            for strand, matrix in enumerate((core, core[::-1, ::-1])):
                filled = self.motifs.weight[2 * k + strand, :, 0].zero_()
                filled[:, left : left + core.shape[1]] = torch.from_numpy(matrix.copy()) / 4


class _Dilated(nn.Module):
    """x + norm(dilated convolution(x)), rectified."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            width, width, (1, 3), dilation=(1, dilation), padding=(0, dilation), bias=False
        )
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))
