"""Hidden states of a frozen encoder, computed once: what a head is trained on in minutes.

Of each place what the head pools is kept, in float16. Files of a folder, one a chunk of windows,
appear whole or not at all, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.checkpoint import Checkpoint
from genobird.files import Draft, write_text
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head
from genobird.peaks import BIN_BP
from genobird.places import pack_places
from genobird.tasks.bins import ChosenBins
from genobird.tasks.data import generator
from genobird.tasks.precision import Precision

logger = logging.getLogger(__name__)

_CHUNK, _PASS = 64, 8  # windows a file, and windows that the encoder reads at once
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
    checkpoint: Checkpoint,
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
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> HiddenStates:
    """Run the encoder over windows, in their order, until the time is up.

    Args:
        checkpoint: its encoder is used as it is.
        head: says what of a place is read.
        genome: the sequence.
        chosen: the bins.
        groups: rows of `chosen` that share a window.
        folder: where the states are kept; what lies there is not computed again.
        context_bp: bases of a window before its first bin and behind its last.
        both_strands: read each window on both strands; else on one, drawn at random.
        seconds: no further chunk is begun after so long; None is no limit.
        seed: of the strands.
        precision: of the encoder's matrix products.
        device: where the encoder runs.

    Returns:
        The states of all bins without N in the windows that were read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done"
    known = _windows(done)
    if known is not None:  # time was up here: a resumed run goes on with the same bins
        groups, seconds = groups[:known], None
    checkpoint.encoder.to(device).eval()
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
            end = min(first + _CHUNK, len(groups))
            found = _joined(
                [
                    _pass(
                        checkpoint, head, genome, chosen, groups, numbers, context_bp,
                        both_strands, seed, precision, device,
                    )
                    for numbers in _passes(chosen, groups, range(first, end))
                ]
            )  # fmt: skip
            _write(file, found)
        parts.append(found)
    write_text(done, f"{len(groups)}\n")
    rows, pooled = _joined(parts)
    return HiddenStates(torch.from_numpy(rows), torch.from_numpy(pooled))


def _passes(
    chosen: ChosenBins, groups: Sequence[NDArray[np.int64]], numbers: range
) -> Iterator[list[int]]:
    """Put windows of one width together."""
    widths: dict[int, list[int]] = {}
    for number in numbers:
        first, last = chosen.bins[groups[number][[0, -1]]].tolist()
        start, end = window(first, last, 0)
        widths.setdefault(end - start, []).append(number)
    for same in widths.values():
        for at in range(0, len(same), _PASS):
            yield same[at : at + _PASS]


_Arrays = tuple[NDArray[np.int64], NDArray[np.float16]]


@torch.inference_mode()
def _pass(
    checkpoint: Checkpoint, head: Head, genome: Genome, chosen: ChosenBins,
    groups: Sequence[NDArray[np.int64]], numbers: Sequence[int], context_bp: int,
    both_strands: bool, seed: int, precision: Precision, device: torch.device | str,
) -> _Arrays:  # fmt: skip
    """Encode some windows: rows [P], what the head pools [P, R]."""
    sequences, centres, rows = [], [], []
    for number in numbers:
        group = groups[number]
        first, last = chosen.bins[group[[0, -1]]].tolist()
        contig = str(chosen.contigs[group[0]])
        text, start = genome.fetch_clipped(contig, *window(first, last, context_bp))
        at = chosen.bins[group] * BIN_BP - start  # first base of each bin in the window
        known = np.array(["N" not in text[i : i + BIN_BP] for i in at])
        group, place = group[known], at[known] + BIN_BP // 2
        if not len(group):
            continue
        reverse = bool(generator(seed, 3, number).random() < 0.5)
        for turned in (False, True) if both_strands else (reverse,):
            sequences.append(reverse_complement(text) if turned else text)
            centres.append(len(text) - place if turned else place)
            rows.append(group)
    if not sequences:
        return np.empty(0, np.int64), np.empty((0, head.reads), np.float16)
    block_size = checkpoint.encoder.config.block_size
    asked = pack_places(sequences, centres, checkpoint.tokenizer, head.config, block_size)
    asked = asked.to(device)
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
        hidden = checkpoint.encoder(asked.batch, wanted=asked.tokens)
    pooled = head.pool(hidden, asked)
    return np.concatenate(rows), pooled.to("cpu", torch.float16).numpy()


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
