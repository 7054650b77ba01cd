"""What a frozen encoder says of a few draws of each window, computed once and trained on often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from genobird.heads import Head
from genobird.model import BigBird
from genobird.tasks.data import LabelledBatch, visiting_order
from genobird.tasks.precision import Precision

logger = logging.getLogger(__name__)

_SAY_SECONDS = 15.0


class RememberedBatches:
    """Batches of places of which a head knows what it reads; a function of the step.

    Of each place what the head pools is kept, in float16.

    Args:
        draws: makes batches of places.
        steps: how many of them are encoded.
        encoder: frozen; put into evaluation.
        head: says what of a place is read; put into evaluation.
        batch: places a step of the head's training; no more than there are.
        seed: of the order.
        precision: of the encoder's matrix products.
    """

    def __init__(
        self,
        draws: Callable[[int], LabelledBatch],
        steps: int,
        encoder: BigBird,
        head: Head,
        *,
        batch: int,
        seed: int,
        precision: Precision = "float32",
    ) -> None:
        encoder.eval()
        head.eval()
        pooled, labels, weights = [], [], []
        said = time.monotonic()
        for step in range(steps):
            drawn = draws(step)
            asked = drawn.places
            assert asked is not None
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                hidden = encoder(asked.batch, wanted=asked.tokens)
                pooled.append(head.pool(hidden, asked.batch, asked.spans, asked.owner).half())
            labels.append(drawn.labels)
            weights.append(drawn.weights)
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                logger.info("encoded %d of %d batches", step + 1, steps)
        self.pooled = torch.cat(pooled)  # [P, R]
        self.labels, self.weights = torch.cat(labels), torch.cat(weights)
        self.batch, self.seed = min(batch, len(self.pooled)), seed

    def __len__(self) -> int:
        """Steps that visit every place once."""
        return -(-len(self.pooled) // self.batch)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step; the end of an epoch that fills no batch is left out."""
        epoch, part = divmod(step, len(self.pooled) // self.batch)
        order = visiting_order(len(self.pooled), self.seed, epoch)
        places = torch.from_numpy(order[part * self.batch : (part + 1) * self.batch])
        pooled = self.pooled[places].float()
        return LabelledBatch(None, self.labels[places], self.weights[places], pooled=pooled)
