"""Training of a head on the hidden states of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.checkpoint import Checkpoint
from genobird.heads import POSITIVE_WEIGHT, Head, HeadConfig
from genobird.peaks import Track
from genobird.tasks.bins import ChosenBins
from genobird.tasks.data import visiting_order
from genobird.tasks.fit import FitSettings, Task
from genobird.tasks.hidden import HiddenStates


@dataclass(frozen=True, eq=False)
class StateBatch:
    """B places with what the head reads of them [B, R], labels and weights [B, F]."""

    pooled: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> StateBatch:
        """Return the batch on a device."""
        return StateBatch(*(x.to(device) for x in (self.pooled, self.labels, self.weights)))


class StateBatches:
    """Batches of encoded bins, a function of the step.

    Args:
        states: of P places.
        chosen: the bins that the places are in.
        batch: places per step; no more than there are.
        seed: of the order.
    """

    def __init__(self, states: HiddenStates, chosen: ChosenBins, batch: int, seed: int) -> None:
        self.states, self.batch, self.seed = states, min(batch, len(states)), seed
        known = chosen.labels[states.rows.numpy()]
        self.labels = torch.from_numpy(known.astype(np.float32))
        # A bin with a peak of another track is a negative as rare as it is in the genome.
        others = known.any(axis=1, keepdims=True) & ~known
        weights = np.where(others, np.exp(-chosen.log_ratio()), 1.0)
        self.weights = torch.from_numpy(weights.astype(np.float32))

    def __call__(self, step: int) -> StateBatch:
        """Make the batch of a step."""
        epoch, part = divmod(step, len(self.states) // self.batch)
        order = visiting_order(len(self.states), self.seed, epoch)
        places = torch.from_numpy(order[part * self.batch : (part + 1) * self.batch])
        pooled = self.states.pooled[places].float()
        return StateBatch(pooled, self.labels[places], self.weights[places])


class HeadTask(Task):
    """Binary cross-entropy of the head alone.

    Args:
        checkpoint: holds the head.
        settings: how to train.
        shift: what the sample's log-odds are above those of the genome.
    """

    def __init__(self, checkpoint: Checkpoint, settings: FitSettings, shift: float) -> None:
        super().__init__(checkpoint, settings)
        found = checkpoint.modules()["chromatin"]
        assert isinstance(found, Head)
        self.head = found
        self.shift = shift - float(np.log(POSITIVE_WEIGHT))
        for part in self.parts.values():
            part.requires_grad_(part is self.head)

    def model_step(self, batch: StateBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch."""
        logits = self.head.answer(batch.pooled).float()
        loss = F.binary_cross_entropy_with_logits(
            logits + self.shift, batch.labels, weight=batch.weights
        )
        return {"loss": loss, "weight": torch.tensor(len(logits))}


def replace_head(
    checkpoint: Checkpoint, tracks: Sequence[Track], train: ChosenBins, hidden: int
) -> None:
    """Put a new chromatin head in place of the old one, with its hidden layers where it had any.

    Args:
        checkpoint: the model.
        tracks: what the new head says.
        train: bins whose rates of peaks the new head begins with.
        hidden: width of the hidden layer where there is no old head.
    """
    old = checkpoint.chromatin
    shape = HeadConfig(hidden=hidden) if old is None else old.config
    head = Head(shape.model_copy(update={"outputs": len(tracks)}), checkpoint.encoder.config.width)
    name, last = [(n, m) for n, m in head.named_modules() if isinstance(m, nn.Linear)][-1]
    if old is not None:
        state = head.state_dict()
        for key, value in old.state_dict().items():
            if not key.startswith(f"{name}.") and key in state and state[key].shape == value.shape:
                state[key] = value
        head.load_state_dict(state)
    rates = train.weights() @ train.labels / train.weights().sum()
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(np.log(POSITIVE_WEIGHT * rates / (1 - rates))))
    checkpoint.chromatin = head
    checkpoint.features = pd.DataFrame(
        {
            "index": [track.feature.index for track in tracks],
            "name": [track.feature.name for track in tracks],
            "class": [track.feature.kind for track in tracks],
        }
    )
