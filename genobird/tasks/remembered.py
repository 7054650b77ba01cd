"""Hidden states of a frozen encoder at a few draws of each window, computed once, used often.

Files of a folder, one per batch, appear whole or not at all: a run that was stopped goes on where
it was, even in the middle of encoding.
"""

from __future__ import annotations

import io
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from genobird.batch import LabelledBatch
from genobird.files import Draft
from genobird.heads import Head
from genobird.inference import Inference
from genobird.tasks.data import visiting_order

logger = logging.getLogger(__name__)

_SAY_SECONDS = 15.0


class RememberedBatches:
    """Batches of places of which a head knows what it reads; a function of the step.

    Of each place what the head pools is kept, in float16.

    Args:
        draws: makes batches of places.
        steps: how many of them are encoded.
        inference: runs the encoder.
        head: one of its heads, which says what of a place is read.
        batch: places per step of the head's training; no more than there are.
        seed: of the order.
        folder: where what is encoded is kept, and found by a run that was stopped; its name must
            tell apart whatever makes it differ. None keeps nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a word on what is kept.
    """

    def __init__(
        self,
        draws: Callable[[int], LabelledBatch],
        steps: int,
        inference: Inference,
        head: Head,
        *,
        batch: int,
        seed: int,
        folder: Path | None = None,
    ) -> None:
        found: list[_Encoded] = []

        def encode(step: int) -> _Encoded:
            return _encode(draws(step), inference, head)

        try:
            for encoded in _all(encode, steps, folder):
                found.append(encoded)
        except KeyboardInterrupt:
            if folder is not None:
                logger.warning(
                    "stopped after %d of %d batches were encoded; the same command with --resume "
                    "goes on with them", len(found), steps,
                )  # fmt: skip
            raise
        pooled, labels, weights = zip(*found, strict=True)
        self.pooled = torch.cat(pooled)  # [P, R]
        self.labels, self.weights = torch.cat(labels), torch.cat(weights)
        self.batch, self.seed = min(batch, len(self.pooled)), seed

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


_Encoded = tuple[Tensor, Tensor, Tensor]  # what the head reads, labels and weights of places


def _all(encode: Callable[[int], _Encoded], steps: int, folder: Path | None) -> Iterator[_Encoded]:
    """Encode what does not lie in `folder`, and keep it there."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    said = time.monotonic()
    for step in range(steps):
        file = folder / f"{step:06d}.pt" if folder else None
        encoded = _read(file) if file else None
        if encoded is None:
            encoded = encode(step)
            if file:
                _write(file, encoded)
        yield encoded
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            logger.info("encoded %d of %d batches", step + 1, steps)


def _encode(drawn: LabelledBatch, inference: Inference, head: Head) -> _Encoded:
    assert drawn.places is not None
    pooled = inference.read([head.pool], drawn.places).cpu().half()
    return pooled, drawn.labels, drawn.weights


def _read(file: Path) -> _Encoded | None:
    try:
        pooled, labels, weights = torch.load(file, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        return None
    return pooled, labels, weights


def _write(file: Path, encoded: _Encoded) -> None:
    packed = io.BytesIO()  # torch tells no full disk from other faults
    torch.save(encoded, packed)
    with Draft(file) as part:
        part.write_bytes(packed.getbuffer())
