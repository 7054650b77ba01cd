"""A model's answers for a whole split: every place once, in long windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from genobird.checkpoint import Checkpoint
from genobird.datasets import UPSTREAM_BP, ChromatinDataset, Predictions
from genobird.errors import InputError, UsageError
from genobird.inference import Inference, Precision

_WINDOWS = 64  # predicted at once: as many sequences are held in memory


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch that is read at once, and the bins of it that are kept.

    Attributes:
        contig: its name.
        start: first base, 0-based.
        end: base after the last.
        bins: int64 [n], ascending; their context lies in [start, end) or beyond the contig.
    """

    contig: str
    start: int
    end: int
    bins: NDArray[np.int64]


def windows_over(
    dataset: ChromatinDataset, split: str, context_bp: int, window_bp: int
) -> Iterator[Window]:
    """Cover each usable bin of a split once.

    A window reaches `context_bp` beyond its bins on both sides, also where that leaves the split:
    the sequence there is context, its labels are never read. It is clipped at the contig's ends.

    Raises:
        UsageError: a window has no room for a bin.
    """
    width = dataset.bin_bp
    room = (window_bp - 2 * context_bp) // width
    if room < 1:
        raise UsageError(
            f"window_bp {window_bp} has no bin with {context_bp} bp of context on both sides; "
            f"it is at least {2 * context_bp + width}"
        )
    for interval in dataset.intervals(split):
        usable = dataset.usable_bins(interval)
        stretch = (usable - -(-interval.start // width)) // room
        for bins in np.split(usable, np.flatnonzero(np.diff(stretch)) + 1):
            if len(bins):
                start = int(bins[0]) * width - context_bp
                end = int(bins[-1] + 1) * width + context_bp
                length = dataset.length(interval.contig)
                yield Window(interval.contig, max(0, start), min(end, length), bins)


def predict_chromatin(
    checkpoint: Checkpoint,
    dataset: ChromatinDataset,
    split: str,
    *,
    both_strands: bool = True,
    context_bp: int = 8_000,
    window_bp: int = 30_000,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> Predictions:
    """Predict every usable bin of a split once.

    Bins share long windows, so most see more than `context_bp` on a side, none sees less unless its
    contig ends. Windows reach over the split's borders for sequence, never for labels.

    Args:
        checkpoint: a model with a chromatin head.
        dataset: its features are those of the head.
        split: whose bins are predicted.
        both_strands: average the logits of both strands.
        context_bp: least context of a bin on either side.
        window_bp: longest window.
        precision: of the encoder's matrix products.
        device: where to compute.

    Raises:
        UsageError: the model has no chromatin head.
        InputError: the head has other features than the dataset, or the split has no usable bin.
    """
    inference = Inference(checkpoint, device, precision=precision)
    head = inference.head("chromatin")
    names = checkpoint.features["name"].tolist()
    if names != dataset.features["name"].tolist():
        raise InputError(
            f"the model's {len(names)} features are not the {len(dataset.features)} of "
            f"{dataset.path}; evaluate it on the dataset that it was trained on"
        )
    width, windows = dataset.bin_bp, list(windows_over(dataset, split, context_bp, window_bp))
    if not windows:
        raise InputError(f"{dataset.path}: split {split} has no bin without N")
    logits = []
    for first in range(0, len(windows), _WINDOWS):
        part = windows[first : first + _WINDOWS]
        sequences = [dataset.sequence(window.contig, window.start, window.end) for window in part]
        centres = [window.bins * width + width // 2 - window.start for window in part]
        logits.append(
            inference.predict([head], head.config, sequences, centres, both_strands=both_strands)
        )
    return Predictions(
        np.concatenate([np.full(len(window.bins), window.contig) for window in windows]),
        np.concatenate([window.bins for window in windows]),
        np.concatenate([dataset.labels(window.contig, window.bins) for window in windows]),
        np.concatenate(logits),
        width,
    )


def predict_promoters(
    checkpoint: Checkpoint,
    table: pd.DataFrame,
    *,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Predict the windows of a promoter table as they are, oriented along their strand.

    Args:
        checkpoint: a model with a promoter head.
        table: N rows with a column `sequence` whose transcription start is base 5,000.
        precision: of the encoder's matrix products.
        device: where to compute.

    Returns:
        Logits, float32 [N].

    Raises:
        UsageError: the model has no promoter head.
    """
    inference = Inference(checkpoint, device, precision=precision)
    head = inference.head("promoter")
    texts = [str(text) for text in table["sequence"]]
    places = [np.array([UPSTREAM_BP], dtype=np.int64)] * len(texts)
    return inference.predict([head], head.config, texts, places)[:, 0]
