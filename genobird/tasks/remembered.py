"""What a frozen encoder says of a few draws of each window, computed once and trained on often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from genobird.batch import PackedBatch
from genobird.model import BigBird
from genobird.places import Places
from genobird.tasks.data import LabelledBatch, visiting_order
from genobird.tasks.precision import Precision

logger = logging.getLogger(__name__)

_SAY_SECONDS = 15.0


class RememberedBatches:
    """Batches of places whose hidden states are known; a function of the step.

    Of each place the states of [CLS] and of the tokens that the head reads are kept, in float16. A
    head sees them as a packed batch of short sequences.

    Args:
        draws: makes batches of places.
        steps: how many of them are encoded.
        encoder: frozen; put into evaluation.
        batch: places a step of the head's training; no more than there are.
        seed: of the order.
        precision: of the encoder's matrix products.
    """

    def __init__(
        self,
        draws: Callable[[int], LabelledBatch],
        steps: int,
        encoder: BigBird,
        *,
        batch: int,
        seed: int,
        precision: Precision = "float32",
    ) -> None:
        encoder.eval()
        counts, states, labels, weights = [], [], [], []
        said = time.monotonic()
        for step in range(steps):
            drawn = draws(step)
            wanted, count = drawn.places.read_tokens()
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                hidden = encoder(drawn.places.batch, wanted=wanted)
            states.append(hidden[wanted].half())
            counts.append(count)
            labels.append(drawn.labels)
            weights.append(drawn.weights)
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                logger.info("encoded %d of %d batches", step + 1, steps)
        self.counts, self.states = torch.cat(counts), torch.cat(states)  # [P], [sum of counts, D]
        self.labels, self.weights = torch.cat(labels), torch.cat(weights)
        self.firsts = self.counts.cumsum(0) - self.counts
        self.batch, self.seed = min(batch, len(self.counts)), seed

    def __len__(self) -> int:
        """Steps that visit every place once."""
        return -(-len(self.counts) // self.batch)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step; the end of an epoch that fills no batch is left out."""
        epoch, part = divmod(step, len(self.counts) // self.batch)
        order = visiting_order(len(self.counts), self.seed, epoch)
        places = torch.from_numpy(order[part * self.batch : (part + 1) * self.batch])
        counts = self.counts[places]
        starts = counts.cumsum(0) - counts
        tokens = torch.arange(int(counts.sum()))
        tokens += torch.repeat_interleave(self.firsts[places] - starts, counts)
        # The head asks a batch only where its sequences start.
        batch = PackedBatch(torch.zeros_like(tokens), tuple(counts.tolist()), 1)
        spans = torch.stack([starts + 1, starts + counts], dim=1)
        return LabelledBatch(
            Places(batch, spans, torch.arange(len(places))),
            self.labels[places],
            self.weights[places],
            hidden=self.states[tokens].float(),
        )
