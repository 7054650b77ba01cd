"""Base composition around places: GC content and CpG islands, what any model has to beat.

A place is described by the GC fraction and the ratio of observed to expected CpG in windows of
several widths around it; nothing of it knows a motif.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from genobird.datasets import ChromatinDataset

CHROMATIN_WINDOWS_BP = (200, 500, 1_000, 2_000)
PROMOTER_WINDOWS_BP = (200, 500, 1_000, 2_000, 8_000)
_PIECE_BINS = 5_000


def composition(
    sequence: NDArray[np.uint8], places: NDArray[np.int64], windows_bp: Sequence[int]
) -> NDArray[np.float32]:
    """Describe the bases around places.

    Args:
        sequence: upper-case ASCII, [L].
        places: positions in the sequence, 0-based, [P].
        windows_bp: W widths; of 200, the window is [place - 100, place + 100), clipped.

    Returns:
        float32 [P, 2 W]: for each width the GC fraction of the bases that are not N, then CpG
        observed / expected (CpG x bases / (C x G)); 0 where it is not defined.
    """
    c, g = sequence == ord("C"), sequence == ord("G")
    cpg = np.zeros_like(c)
    cpg[:-1] = c[:-1] & g[1:]  # at its C
    sums = np.zeros((4, len(sequence) + 1), dtype=np.int64)
    for row, what in enumerate((sequence != ord("N"), c, g, cpg)):
        np.cumsum(what, out=sums[row, 1:])
    columns = []
    for width in windows_bp:
        first = np.clip(places - width // 2, 0, len(sequence))
        end = np.clip(places + width // 2, first, len(sequence))
        bases, n_c, n_g = sums[:3, end] - sums[:3, first]
        n_cpg = sums[3, np.maximum(end - 1, first)] - sums[3, first]  # both bases inside
        columns.append((n_c + n_g) / np.maximum(bases, 1))
        columns.append(n_cpg * bases / np.maximum(n_c * n_g, 1))
    return np.stack(columns, axis=1).astype(np.float32)


def bin_composition(
    dataset: ChromatinDataset, contig: str, bins: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return `composition` around the centres of bins of a contig, ascending, [n, 8]."""
    width, flank = dataset.bin_bp, max(CHROMATIN_WINDOWS_BP) // 2
    rows = [np.empty((0, 2 * len(CHROMATIN_WINDOWS_BP)), dtype=np.float32)]
    for piece in np.split(bins, np.flatnonzero(np.diff(bins // _PIECE_BINS)) + 1):
        if len(piece):
            first = max(0, int(piece[0]) * width - flank)
            text = dataset.sequence(contig, first, int(piece[-1] + 1) * width + flank)
            codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
            places = piece * width + width // 2 - first
            rows.append(composition(codes, places, CHROMATIN_WINDOWS_BP))
    return np.concatenate(rows)


def place_composition(
    sequences: Iterable[str], places: Iterable[int], windows_bp: Sequence[int]
) -> NDArray[np.float32]:
    """Return `composition` around one place of each sequence, [N, 2 W]."""
    codes = (np.frombuffer(sequence.encode("ascii"), np.uint8) for sequence in sequences)
    pairs = zip(codes, places, strict=True)
    return np.concatenate([composition(own, np.array([at]), windows_bp) for own, at in pairs])
