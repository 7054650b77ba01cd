"""Rows: how many go through a matrix product together, outside of training.

A product of few rows is computed in another way than one of many, and rounds differently. So rows
are filled up to a multiple of `ROWS`, and what comes out for one does not depend on how many others
are asked about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

ROWS: Final = 16


def filled(rows: Tensor) -> Tensor:
    """Repeat the last of [n, ...] rows, one at least, until they are a multiple of `ROWS`."""
    more = rows[-1:].expand(-len(rows) % ROWS, *rows.shape[1:])
    return torch.cat([rows, more]) if len(more) else rows


def in_rows(layers: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Compute layers that take each row by itself, on filled rows; return what the n rows give."""
    return layers(filled(rows))[: len(rows)]
