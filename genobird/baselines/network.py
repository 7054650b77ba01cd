"""What the networks over bases share: their input, their training, their predictions.

A network reads base codes and gives logits of places that lie 200 bp apart, so that neighbouring
bins are asked about together. All are trained alike (AdamW, warm-up, cosine decay), whatever their
publications did: what is compared is what they can learn from the same windows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.errors import InputError
from genobird.files import Draft
from genobird.genome.sequence import complement_codes
from genobird.schedule import rate_factor

UInt8Array = NDArray[np.uint8]

STEP_BP = 200
"""Bases between neighbouring outputs."""


class Network(nn.Module, ABC):
    """Logits of places from the bases around them.

    Attributes:
        input_bp: bases that a place sees.
        before_bp: how many of them lie before the place.
        outputs: logits per place.
    """

    one_hot: Tensor

    def __init__(self, input_bp: int, before_bp: int, outputs: int) -> None:
        super().__init__()
        self.input_bp, self.before_bp, self.outputs = input_bp, before_bp, outputs
        table = torch.cat([torch.eye(4), torch.zeros(1, 4)])
        self.register_buffer("one_hot", table, persistent=False)  # [5, 4]: N is nothing

    @property
    def parameters_trained(self) -> int:
        """Number of weights that training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(self, codes: Tensor) -> Tensor:
        """Predict.

        Args:
            codes: uint8 [S, L], L = `input_bp` + 200 (n - 1).

        Returns:
            Logits [S, n, outputs].
        """
        extra = codes.shape[1] - self.input_bp
        if extra < 0 or extra % STEP_BP:
            raise ValueError(
                f"windows of {codes.shape[1]} bp; {self.input_bp} bp and multiples of "
                f"{STEP_BP} more are allowed"
            )
        return self.logits(codes)

    @abstractmethod
    def logits(self, codes: Tensor) -> Tensor:
        """Do the work of `forward`."""


class PlaceNetwork(Network):
    """A network that sees each place by itself, as most publications have them."""

    INPUT_BP: ClassVar[int]
    BEFORE_BP: ClassVar[int]

    def __init__(self, outputs: int) -> None:
        super().__init__(self.INPUT_BP, self.BEFORE_BP, outputs)

    def logits(self, codes: Tensor) -> Tensor:
        """Cut the windows of all places and predict them, [S, n, outputs]."""
        windows = codes.unfold(1, self.input_bp, STEP_BP)  # [S, n, input_bp]
        found = self.place(self.one_hot[windows.flatten(0, 1).long()].transpose(1, 2))
        return found.view(*windows.shape[:2], self.outputs)

    @abstractmethod
    def place(self, bases: Tensor) -> Tensor:
        """Predict places from their bases, one-hot [W, 4, input_bp] -> logits [W, outputs]."""


class NetworkSettings(BaseModel):
    """How a network is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4_000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up; then cosine decay.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    seed: int = Field(0, ge=0, description="Key of every random draw.")
    precision: Literal["float32", "bf16"] = Field("float32", description="Of matrix products.")
    save_every: int = Field(200, ge=1, description="Steps between saves of an unfinished training.")


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
        codes: uint8 [S, L].
        labels: uint8 [S, n, F].
        counts: which places count, bool [S, n].
        weights: how much each label counts beside the others, float32 [S, n, F]; None is alike.
    """

    codes: UInt8Array
    labels: UInt8Array
    counts: NDArray[np.bool_]
    weights: NDArray[np.float32] | None = None


def fit_network(
    make: Callable[[], Network],
    batches: Callable[[int], Batch],
    settings: NetworkSettings,
    *,
    positive_weight: float = 1.0,
    log: Callable[[int, float], None] | None = None,
    state: Path | None = None,
) -> Network:
    """Train a network with binary cross-entropy; the same arguments give the same weights.

    Args:
        make: builds it, with weights drawn from torch's generator.
        batches: makes the batch of a step.
        settings: how to train.
        positive_weight: weight of a positive label.
        log: called with each step and its loss.
        state: file that keeps an unfinished training, and that it goes on from to the same weights.

    Raises:
        InputError: the loss is no longer a number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = make().train()
        optimiser = torch.optim.AdamW(
            [p for p in network.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: rate_factor(
                step, settings.steps, settings.warmup_steps, dtype=torch.float64
            ),
        )
        weight = torch.full((network.outputs,), positive_weight)
        parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
        for step in range(_restored(state, parts), settings.steps):
            batch = batches(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = network(torch.from_numpy(batch.codes))
            places = torch.from_numpy(batch.counts)
            loss = F.binary_cross_entropy_with_logits(
                logits.float()[places],
                torch.from_numpy(batch.labels)[places].float(),
                weight=None if batch.weights is None else torch.from_numpy(batch.weights)[places],
                pos_weight=weight,
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            schedule.step()
            if log is not None:
                log(step, float(loss.detach()))
            if state is not None and (step + 1) % settings.save_every == 0:
                _save(state, parts, step + 1)
    if not all(p.isfinite().all() for p in network.parameters()):
        raise InputError("the network's weights are no numbers; lower the learning rate")
    return network.eval()


def _save(state: Path, parts: dict[str, Any], steps: int) -> None:
    """Keep a training: its parts, its steps, and the state of the generator of torch."""
    kept = {name: part.state_dict() for name, part in parts.items()}
    with Draft(state) as file:
        torch.save({**kept, "steps": steps, "random": torch.get_rng_state()}, file)


def _restored(state: Path | None, parts: dict[str, Any]) -> int:
    """Give parts what `_save` kept of them, where it did; return the steps that are done."""
    if state is None or not state.is_file():
        return 0
    found = torch.load(state, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(found[name])
    torch.set_rng_state(found["random"])
    return int(found["steps"])


@torch.inference_mode()
def predict_codes(
    network: Network, codes: UInt8Array, *, precision: str = "float32", both_strands: bool
) -> NDArray[np.float32]:
    """Return the logits of windows [S, L], float32 [S, n, F]; strands averaged if asked."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = network(torch.from_numpy(np.ascontiguousarray(codes))).float()
        if both_strands:
            other = torch.from_numpy(np.ascontiguousarray(complement_codes(codes)))
            logits = (logits + network(other).float().flip(1)) / 2
    found: NDArray[np.float32] = logits.numpy()
    return found
