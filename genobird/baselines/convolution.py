"""A small convolutional network over bases, shaped as DeepSEA.

DeepSEA is three convolutions (320, 480 and 960 kernels of 8 bp) and a dense layer of 925; this one
has two convolutions, 96 kernels of 17 bp and 128 kernels of 9 positions, and a dense layer of 256:
0.93 million parameters with 242 outputs instead of 52 million with 919. It has batch norms, which
DeepSEA lacks: they cut the training it needs several times. Its strides divide a bin of 200 bp, so
a long window gives every bin's logits with the convolutions shared, and each is what the bin's own
1,000 bp give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.errors import InputError

UInt8Array = NDArray[np.uint8]

STEP_BP = 200
"""Bases between neighbouring outputs."""
_FIRST, _FIRST_POOL, _SECOND, _SECOND_POOL = 17, 8, 9, 5  # with pools of 8 x 5 = 40 = 200 / 5
_N = 4

_CODES = np.full(256, _N, dtype=np.uint8)
_CODES[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)


class ConvolutionConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(1, ge=1, description="Logits a place.")
    input_bp: int = Field(1_000, ge=400, multiple_of=STEP_BP, description="Bases a place sees.")
    first: int = Field(96, ge=1, description="Kernels of the first convolution.")
    second: int = Field(128, ge=1, description="Kernels of the second convolution.")
    hidden: int = Field(256, ge=1, description="Width of the dense layer.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout before the last two layers.")


def base_codes(sequence: str) -> UInt8Array:
    """Return A C G T as 0 to 3 and all else as 4, uint8 [L]."""
    return _CODES[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]


def complement_codes(codes: UInt8Array) -> UInt8Array:
    """Return the codes [..., L] of the other strand, read in its direction."""
    return np.where(codes < _N, 3 - codes, _N).astype(np.uint8)[..., ::-1]


class Convolution(nn.Module):
    """Convolution, pooling, convolution, pooling, dense layer, logits.

    A window of `input_bp + 200 (n - 1)` bases gives n places, 200 bp apart; the first one's centre
    is `input_bp / 2`.
    """

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__()
        self.config = config
        table = torch.cat([torch.eye(4), torch.zeros(1, 4)])
        self.register_buffer("one_hot", table, persistent=False)  # [5, 4]: N is nothing
        positions = config.input_bp // (_FIRST_POOL * _SECOND_POOL) - 2  # valid convolutions eat 2
        self.first = nn.Conv1d(4, config.first, _FIRST)
        self.second = nn.Conv1d(config.first, config.second, _SECOND)
        stride = STEP_BP // (_FIRST_POOL * _SECOND_POOL)
        self.dense = nn.Conv1d(config.second, config.hidden, positions, stride=stride)
        self.out = nn.Conv1d(config.hidden, config.outputs, 1)
        self.first_norm = nn.BatchNorm1d(config.first)
        self.second_norm = nn.BatchNorm1d(config.second)
        self.dense_norm = nn.BatchNorm1d(config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, codes: Tensor) -> Tensor:
        """Predict.

        Args:
            codes: uint8 [S, L], L = `input_bp` + 200 (n - 1).

        Returns:
            Logits [S, n, outputs].
        """
        extra = codes.shape[1] - self.config.input_bp
        if extra < 0 or extra % STEP_BP:
            raise ValueError(
                f"windows of {codes.shape[1]} bp; {self.config.input_bp} bp and multiples of "
                f"{STEP_BP} more are allowed"
            )
        x = self.one_hot[codes.long()].transpose(1, 2)  # type: ignore[index]
        x = F.relu(self.first_norm(F.max_pool1d(self.first(x), _FIRST_POOL)))
        x = F.relu(self.second_norm(F.max_pool1d(self.second(x), _SECOND_POOL)))
        x = F.relu(self.dense_norm(self.dense(self.dropout(x))))
        return self.out(self.dropout(x)).transpose(1, 2)  # type: ignore[no-any-return]


class ConvolutionSettings(BaseModel):
    """How a network is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4_000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up; then cosine decay.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    seed: int = Field(0, ge=0, description="Key of every random draw.")
    precision: Literal["float32", "bf16"] = Field("float32", description="Of matrix products.")


Batch = tuple[UInt8Array, UInt8Array, NDArray[np.bool_]]
"""Codes uint8 [S, L], labels uint8 [S, n, F], and which places count, bool [S, n]."""


def fit_convolution(
    config: ConvolutionConfig,
    batches: Callable[[int], Batch],
    settings: ConvolutionSettings,
    *,
    positive_weight: float = 1.0,
    log: Callable[[int, float], None] | None = None,
) -> Convolution:
    """Train a network with binary cross-entropy; the same arguments give the same weights.

    Args:
        config: its shape.
        batches: makes the batch of a step.
        settings: how to train.
        positive_weight: weight of a positive label.
        log: called with each step and its loss.

    Raises:
        InputError: the loss is no longer a number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Convolution(config).train()
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
        weight = torch.full((config.outputs,), positive_weight)
        for step in range(settings.steps):
            codes, labels, counts = batches(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = network(torch.from_numpy(codes))
            places = torch.from_numpy(counts)
            loss = F.binary_cross_entropy_with_logits(
                logits.float()[places],
                torch.from_numpy(labels)[places].float(),
                pos_weight=weight,
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            schedule.step()
            if log is not None:
                log(step, float(loss.detach()))
    if not all(p.isfinite().all() for p in network.parameters()):
        raise InputError("the network's weights are no numbers; lower the learning rate")
    return network.eval()


def _rate(step: int, settings: ConvolutionSettings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0))))


@torch.inference_mode()
def predict_codes(
    network: Convolution, codes: UInt8Array, *, precision: str = "float32", both_strands: bool
) -> NDArray[np.float32]:
    """Return the logits of windows [S, L], float32 [S, n, F]; strands averaged if asked."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = network(torch.from_numpy(np.ascontiguousarray(codes))).float()
        if both_strands:
            other = torch.from_numpy(np.ascontiguousarray(complement_codes(codes)))
            logits = (logits + network(other).float().flip(1)) / 2
    found: NDArray[np.float32] = logits.numpy()
    return found
