"""Hidden states of a frozen encoder, computed once: what a head is trained on in minutes.

Of each place what the head pools is kept, in float16. Files of a folder, one per chunk of windows,
appear whole or not at all, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.draws import generator
from genobird.files import Draft, write_text
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head
from genobird.inference import Inference
from genobird.peaks import BIN_BP
from genobird.tasks.bins import ChosenBins

logger = logging.getLogger(__name__)

_CHUNK = 64  # windows per file
_WIDTH_STEP = 1_000  # windows have few widths: libraries keep megabytes for each new shape
_SAY_SECONDS = 15.0


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """What an encoder says of P places.

    Attributes:
        rows: the bin of each place, as a row of the bins that were chosen, int64 [P].
        pooled: what the head reads of each place, float16 [P, R].
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


def encode(
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
) -> HiddenStates:
    """Run the encoder over windows, in their order, until the time is up.

    Args:
        inference: runs the encoder.
        head: one of its heads, which says what of a place is read.
        genome: the sequence.
        chosen: the bins.
        groups: rows of `chosen` that share a window.
        folder: where the states are kept; what lies there is not computed again.
        context_bp: bases of a window before its first bin and behind its last.
        both_strands: read each window on both strands; else on one, drawn at random.
        seconds: no further chunk is begun after so long; None is no limit.
        seed: of the strands.

    Returns:
        The states of all bins in the windows that were read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done"
    known = _windows(done)
    if known is not None:  # time was up here: a resumed run goes on with the same bins
        groups, seconds = groups[:known], None
    began = said = time.monotonic()
    parts: list[_Arrays] = []
    for number, first in enumerate(range(0, len(groups), _CHUNK)):
        now = time.monotonic()
        if number and seconds is not None and now - began > seconds:
            logger.info("time is up: %d of %d windows are encoded", first, len(groups))
            groups = groups[:first]
            break
        if now - said > _SAY_SECONDS:
            said = now
            logger.info("encoded %d of %d windows in %.0f s", first, len(groups), now - began)
        file = folder / f"{number:06d}.npz"
        found = _read(file)
        if found is None:
            numbers = sorted(  # windows of one width come together
                range(first, min(first + _CHUNK, len(groups))),
                key=lambda number: int(np.ptp(chosen.bins[groups[number][[0, -1]]])),
            )
            found = _encode(
                inference, head, genome, chosen, groups, numbers, context_bp, both_strands, seed
            )
            _write(file, found)
        parts.append(found)
    write_text(done, f"{len(groups)}\n")
    rows, pooled = _joined(parts)
    return HiddenStates(torch.from_numpy(rows), torch.from_numpy(pooled))


_Arrays = tuple[NDArray[np.int64], NDArray[np.float16]]


def _encode(
    inference: Inference, head: Head, genome: Genome, chosen: ChosenBins,
    groups: Sequence[NDArray[np.int64]], numbers: Sequence[int], context_bp: int,
    both_strands: bool, seed: int,
) -> _Arrays:  # fmt: skip
    """Encode some windows: rows [P], what the head pools [P, R]."""
    sequences, centres, rows = [], [], []
    for number in numbers:
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
    return np.concatenate(rows), torch.from_numpy(pooled).half().numpy()


def _joined(parts: Sequence[_Arrays]) -> _Arrays:
    rows, pooled = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(pooled)


def _windows(done: Path) -> int | None:
    """Return how many windows a run encoded; None where it did not come so far, or is damaged."""
    try:
        return int(done.read_text())
    except (OSError, ValueError):
        return None


def _read(file: Path) -> _Arrays | None:
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            return arrays["rows"], arrays["pooled"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(file: Path, arrays: _Arrays) -> None:
    with Draft(file) as part, part.open("wb") as opened:
        np.savez(opened, rows=arrays[0], pooled=arrays[1])
