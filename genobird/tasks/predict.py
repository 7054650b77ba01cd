"""A model's answers for a whole split: every place once, in long windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from genobird.checkpoint import Checkpoint
from genobird.datasets import UPSTREAM_BP, ChromatinDataset, Predictions
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head
from genobird.places import pack_places

Precision = Literal["float32", "bf16"]


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
        precision: of matrix products.
        device: where to compute.

    Raises:
        UsageError: the model has no chromatin head.
        InputError: the head has other features than the dataset, or the split has no usable bin.
    """
    head = _head(checkpoint, "chromatin")
    names = checkpoint.features["name"].tolist()
    if names != dataset.features["name"].tolist():
        raise InputError(
            f"the model's {len(names)} features are not the {len(dataset.features)} of "
            f"{dataset.path}; evaluate it on the dataset that it was trained on"
        )
    contigs, bins, labels, logits = [], [], [], []
    for window in windows_over(dataset, split, context_bp, window_bp):
        sequence = dataset.sequence(window.contig, window.start, window.end)
        centres = window.bins * dataset.bin_bp + dataset.bin_bp // 2 - window.start
        sequences, places = [sequence], [centres]
        if both_strands:
            sequences.append(reverse_complement(sequence))
            places.append(len(sequence) - centres)
        found = _logits(checkpoint, head, sequences, places, precision, device)
        logits.append(found.reshape(len(sequences), len(centres), -1).mean(0))
        labels.append(dataset.labels(window.contig, window.bins))
        bins.append(window.bins)
        contigs.append(np.full(len(centres), window.contig))
    if not bins:
        raise InputError(f"{dataset.path}: split {split} has no bin without N")
    return Predictions(
        np.concatenate(contigs),
        np.concatenate(bins),
        np.concatenate(labels),
        np.concatenate(logits),
        dataset.bin_bp,
    )


def predict_promoters(
    checkpoint: Checkpoint,
    table: pd.DataFrame,
    *,
    sequences: int = 8,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Predict the windows of a promoter table as they are, oriented along their strand.

    Args:
        checkpoint: a model with a promoter head.
        table: N rows with a column `sequence` whose transcription start is base 5,000.
        sequences: windows a pass.
        precision: of matrix products.
        device: where to compute.

    Returns:
        Logits, float32 [N].

    Raises:
        UsageError: the model has no promoter head.
    """
    head = _head(checkpoint, "promoter")
    texts = [str(text) for text in table["sequence"]]
    logits = []
    for first in range(0, len(texts), sequences):
        part = texts[first : first + sequences]
        places = [np.array([UPSTREAM_BP], dtype=np.int64)] * len(part)
        logits.append(_logits(checkpoint, head, part, places, precision, device)[:, 0])
    return np.concatenate(logits)


def _head(checkpoint: Checkpoint, name: str) -> Head:
    head = checkpoint.modules().get(name)
    if not isinstance(head, Head):
        raise UsageError(f"the model has no {name} head; add one with `genobird finetune {name}`")
    return head


def autocast(precision: Precision, device: torch.device | str) -> Any:
    """Return the context in which matrix products have a precision."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def _logits(
    checkpoint: Checkpoint,
    head: Head,
    sequences: Sequence[str],
    places: Sequence[NDArray[np.int64]],
    precision: Precision,
    device: torch.device | str,
) -> NDArray[np.float32]:
    """Run encoder and head once, [P, F]."""
    encoder, head = checkpoint.encoder.to(device).eval(), head.to(device).eval()
    block_size = encoder.config.block_size
    asked = pack_places(sequences, places, checkpoint.tokenizer, head.config, block_size).to(device)
    with autocast(precision, device):
        logits = head(encoder(asked.batch), asked)
    found: NDArray[np.float32] = logits.float().cpu().numpy()
    return found
