"""Features of a frozen encoder, computed once: what a head is trained on in minutes.

Of each place what the head pools is kept, in float16. It lies in files of a folder that appear
whole or not at all, so a run that was stopped goes on where it was, even in the middle of encoding.
"""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import LabelledBatch
from genobird.datasets import write_arrays
from genobird.draws import generator, visiting_order
from genobird.files import write_text
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head
from genobird.inference import Inference
from genobird.peaks import BIN_BP
from genobird.runs import tell_kept
from genobird.tasks.bins import ChosenBins

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
"""What is known of P places, by name, [P, ...]."""

_COUNT = "done"
"""File that tells how many were encoded, when all were or the time was up."""
_CHUNK = 64  # windows per file
_WIDTH_STEP = 1_000  # windows have few widths: libraries keep megabytes for each new shape
_SAY_SECONDS = 15.0


def encoded(
    encode: Callable[[range], Arrays],
    count: int,
    folder: Path,
    *,
    unit: str,
    each: int = 1,
    seconds: float | None = None,
) -> dict[str, NDArray[Any]]:
    """Encode windows or batches, in their order, until the time is up.

    Args:
        encode: returns the places of some of them.
        count: how many there are.
        folder: where places are kept; what lies there is not encoded again, so its name must tell
            apart whatever makes them differ.
        unit: what is counted, for messages.
        each: how many share a file.
        seconds: no further file is begun after so long; None is no limit.

    Returns:
        The places of all that were encoded, end to end.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a word on what is kept.
    """
    known = _count(folder)
    if known is not None:  # time was up here: a resumed run goes on with the same places
        count, seconds = known, None
    parts: list[Arrays] = []
    began = said = time.monotonic()
    try:
        for first in range(0, count, each):
            now = time.monotonic()
            if first and seconds is not None and now - began > seconds:
                logger.info("time is up: %d of %d %s are encoded", first, count, unit)
                count = first
                break
            if now - said > _SAY_SECONDS:
                said = now
                logger.info("encoded %d of %d %s in %.0f s", first, count, unit, now - began)
            file = folder / f"{first // each:06d}.npz"
            found = _read(file)
            if found is None:
                found = encode(range(first, min(first + each, count)))
                write_arrays(file, **found)
            parts.append(found)
    except KeyboardInterrupt:
        tell_kept(folder, f"{min(each * len(parts), count)} of {count} {unit}")
        raise
    write_text(folder / _COUNT, f"{count}\n")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _count(folder: Path) -> int | None:
    """Return how many a run encoded; None where it did not come so far, or the file is damaged."""
    try:
        return int((folder / _COUNT).read_text())
    except (OSError, ValueError):
        return None


def _read(file: Path) -> Arrays | None:
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


class FeatureBatches:
    """Batches of places of which a head knows what it reads; a function of the step.

    Args:
        pooled: what the head reads of each place, float16 [P, R].
        labels: float32 [P, F].
        weights: float32 [P] or [P, F].
        batch: places per step; no more than there are.
        seed: of the order.
    """

    def __init__(
        self, pooled: Tensor, labels: Tensor, weights: Tensor, *, batch: int, seed: int
    ) -> None:
        self.pooled, self.labels, self.weights = pooled, labels, weights
        self.batch, self.seed = min(batch, len(pooled)), seed

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.pooled) // self.batch

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step; the end of an epoch that fills no batch is left out."""
        epoch, part = divmod(step, len(self))
        order = visiting_order(len(self.pooled), self.seed, epoch)
        places = torch.from_numpy(order[part * self.batch : (part + 1) * self.batch])
        pooled = self.pooled[places].float()
        return LabelledBatch(None, self.labels[places], self.weights[places], pooled=pooled)


def encode_batches(
    batches: Callable[[int], LabelledBatch],
    count: int,
    inference: Inference,
    head: Head,
    folder: Path,
) -> dict[str, Tensor]:
    """Encode the places of the first `count` batches, as far as a head reads them.

    Returns:
        What `FeatureBatches` takes: `pooled`, `labels` and `weights`.
    """

    def encode(steps: range) -> Arrays:
        (step,) = steps
        drawn = batches(step)
        assert drawn.places is not None
        pooled = inference.read([head.pool], drawn.places).cpu().half()
        found = {"pooled": pooled, "labels": drawn.labels, "weights": drawn.weights}
        return {name: tensor.numpy() for name, tensor in found.items()}

    found = encoded(encode, count, folder, unit="batches")
    return {name: torch.from_numpy(array) for name, array in found.items()}


@dataclass(frozen=True, eq=False)
class BinFeatures:
    """What a head reads of P places, each in a bin; a bin that is read on both strands has two.

    Attributes:
        rows: the bin of each place, as a row of the bins that were chosen, int64 [P].
        pooled: float16 [P, R].
    """

    rows: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def window(first_bin: int, last_bin: int, context_bp: int) -> tuple[int, int]:
    """Return the bases read for bins, `context_bp` or more before the first and behind the last.

    The first base may lie before the contig.
    """
    bases = (last_bin - first_bin) * BIN_BP
    spare = -bases % _WIDTH_STEP
    start = first_bin * BIN_BP - context_bp - spare // 2
    return start, start + bases + spare + BIN_BP + 2 * context_bp


def encode_bins(
    inference: Inference,
    head: Head,
    genome: Genome,
    chosen: ChosenBins,
    groups: Sequence[NDArray[np.int64]],
    folder: Path,
    *,
    context_bp: int,
    both_strands: bool,
    seconds: float | None,
    seed: int,
) -> BinFeatures:
    """Encode bins in windows, in their order, until the time is up.

    Args:
        inference: runs the encoder.
        head: one of its heads, which says what of a place is read.
        genome: the sequence.
        chosen: the bins.
        groups: rows of `chosen` that share a window.
        folder: see `encoded`.
        context_bp: bases of a window before its first bin and behind its last.
        both_strands: read each window on both strands; else on one, drawn at random.
        seconds: see `encoded`.
        seed: of the strands.

    Returns:
        The features of all bins in the windows that were read.
    """

    def encode(windows: range) -> Arrays:
        sequences, centres, rows = [], [], []
        widths = {number: int(np.ptp(chosen.bins[groups[number][[0, -1]]])) for number in windows}
        for number in sorted(windows, key=widths.__getitem__):  # those of one width come together
            group = groups[number]
            first, last = chosen.bins[group[[0, -1]]].tolist()
            contig = str(chosen.contigs[group[0]])
            text, start = genome.fetch_clipped(contig, *window(first, last, context_bp))
            place = chosen.bins[group] * BIN_BP + BIN_BP // 2 - start  # centre of each bin
            reverse = bool(generator(seed, 3, number).random() < 0.5)
            for turned in (False, True) if both_strands else (reverse,):
                sequences.append(reverse_complement(text) if turned else text)
                centres.append(len(text) - place if turned else place)
                rows.append(group)
        pooled = inference.predict([head.pool], head.config, sequences, centres)
        half = torch.from_numpy(pooled).half().numpy()
        return {"rows": np.concatenate(rows), "pooled": half}

    found = encoded(encode, len(groups), folder, unit="windows", each=_CHUNK, seconds=seconds)
    return BinFeatures(torch.from_numpy(found["rows"]), torch.from_numpy(found["pooled"]))
