"""Networks over bases: what they share (input, training, predictions), and their architectures.

A network reads base codes and gives logits of places that lie 200 bp apart, so that neighbouring
bins are asked about together. All are trained alike (AdamW, warm-up, cosine decay), whatever their
publications did: what is compared is what they can learn from the same windows. One architecture is
our own, the others are those of publications.

The published ones have their published sizes; `width` scales every hidden layer, so that they can
be trained on a small machine too; 1 is what was published. Their last layer gives logits; `outputs` is 919 in the chromatin papers and here as many
as the dataset has features. All see a place by itself: 1,000 bp around a bin, or the bases around a
transcription start.

| network | parameters | where they come from |
|---|---|---|
| DeepSEA | 52,843,119 with 919 outputs | Zhou and Troyanskaya 2015, supplementary note: 320, 480 and 960 kernels of 8, pools of 4, 925 hidden units; the number is the sum over these layers (the released code has 919 hidden units: 52,532,319) |
| DanQ | 46,926,479 with 919 outputs | Quang and Xie 2016 and their released Keras code: 320 kernels of 26, pool of 13, bidirectional LSTM of 320, 925 hidden units |
| CNNProm | 64,157 | Umarov and Solovyev 2017, human non-TATA promoters: 300 kernels of 21, pool of 231, 128 hidden units, -200..+50; the number is the sum over these layers |
| DeePromoter | 449,121 | Oubounyt et al. 2019: kernels of 27, 14 and 7, pool of 6, bidirectional LSTM of 32, 128 hidden units, -249..+50; the 32 filters a kernel are our choice, and the number follows from it |
"""  # noqa: E501

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.config import MOST_SEED, Strict
from genobird.errors import InputError
from genobird.files import Draft
from genobird.genome.sequence import complement_codes
from genobird.schedule import rate_factor

UInt8Array = NDArray[np.uint8]

STEP_BP = 200
"""Bases between neighbouring outputs."""
_WINDOWS = 64  # predicted at a time
_FIRST, _FIRST_POOL, _SECOND, _SECOND_POOL = 17, 8, 9, 5  # with pools of 8 x 5 = 40 = 200 / 5


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
        """Return logits [S, n, outputs] of uint8 codes [S, L], L = `input_bp` + 200 (n - 1)."""
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


class NetworkSettings(Strict):
    """How a network is trained."""

    steps: int = Field(4_000, ge=1, description="Optimiser steps.")
    learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up; then cosine decay.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Key of every random draw.")
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
    network: Network, codes: UInt8Array, *, both_strands: bool
) -> NDArray[np.float32]:
    """Return the logits of windows [S, L], float32 [S, n, F]; strands averaged if asked."""
    parts = []
    for first in range(0, len(codes), _WINDOWS):
        part = codes[first : first + _WINDOWS]
        logits = network(torch.from_numpy(np.ascontiguousarray(part)))
        if both_strands:
            other = torch.from_numpy(np.ascontiguousarray(complement_codes(part)))
            logits = (logits + network(other).flip(1)) / 2
        parts.append(logits)
    return torch.cat(parts).numpy()


class ConvolutionConfig(Strict):
    """Shape of the network."""

    outputs: int = Field(1, ge=1, description="Logits per place.")
    input_bp: int = Field(1_000, ge=400, multiple_of=STEP_BP, description="Bases seen by a place.")
    first: int = Field(96, ge=1, description="Kernels of the first convolution.")
    second: int = Field(128, ge=1, description="Kernels of the second convolution.")
    hidden: int = Field(256, ge=1, description="Width of the dense layer.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout before the last two layers.")


class Convolution(Network):
    """Convolution, pooling, convolution, pooling, dense layer, logits; shaped as DeepSEA.

    DeepSEA is three convolutions (320, 480 and 960 kernels of 8 bp) and a dense layer of 925; this
    one has two convolutions, 96 kernels of 17 bp and 128 kernels of 9 positions, and a dense layer
    of 256: 0.93 million parameters with 242 outputs instead of 53 million with 919. It has batch
    norms, which DeepSEA lacks: they cut the training it needs several times. Its strides divide a
    bin of 200 bp, so a long window gives every bin's logits with the convolutions shared, and each
    is what the bin's own 1,000 bp give.

    A window of `input_bp + 200 (n - 1)` bases gives n places, 200 bp apart; the first one's centre
    is `input_bp / 2`.
    """

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__(config.input_bp, config.input_bp // 2, config.outputs)
        self.config = config
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

    def logits(self, codes: Tensor) -> Tensor:
        """Predict all places of the windows with the convolutions shared, [S, n, outputs]."""
        x = self.one_hot[codes.long()].transpose(1, 2)
        x = F.relu(self.first_norm(F.max_pool1d(self.first(x), _FIRST_POOL)))
        x = F.relu(self.second_norm(F.max_pool1d(self.second(x), _SECOND_POOL)))
        x = F.relu(self.dense_norm(self.dense(self.dropout(x))))
        return self.out(self.dropout(x)).transpose(1, 2)  # type: ignore[no-any-return]


class _RecurrentLayer(nn.Module):
    """Bidirectional LSTM with one bias a gate, as Keras has it; torch's second one stays 0."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, units, batch_first=True, bidirectional=True)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                nn.init.zeros_(parameter).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[W, C, positions] -> [W, positions, 2 units]."""
        return self.lstm(x.transpose(1, 2))[0]  # type: ignore[no-any-return]


class DeepSEA(PlaceNetwork):
    """Three convolutions and a dense layer."""

    INPUT_BP, BEFORE_BP = 1_000, 500

    def __init__(self, outputs: int = 919, width: float = 1.0) -> None:
        super().__init__(outputs)
        first, second, third, hidden = (scaled(n, width) for n in (320, 480, 960, 925))
        self.layers = nn.Sequential(
            *_convolved(4, first, 8, pool=4, dropout=0.2),
            *_convolved(first, second, 8, pool=4, dropout=0.2),
            *_convolved(second, third, 8, dropout=0.5),
            *_dense(53 * third, hidden, outputs),
        )

    def place(self, bases: Tensor) -> Tensor:
        """One-hot [W, 4, 1000] -> logits [W, outputs]."""
        return self.layers(bases)  # type: ignore[no-any-return]


class DanQ(PlaceNetwork):
    """A convolution, a bidirectional LSTM and a dense layer."""

    INPUT_BP, BEFORE_BP = 1_000, 500

    def __init__(self, outputs: int = 919, width: float = 1.0) -> None:
        super().__init__(outputs)
        kernels, units, hidden = (scaled(n, width) for n in (320, 320, 925))
        self.motifs = nn.Sequential(*_convolved(4, kernels, 26, pool=13, dropout=0.2))
        self.grammar = _RecurrentLayer(kernels, units)
        self.layers = nn.Sequential(nn.Dropout(0.5), *_dense(75 * 2 * units, hidden, outputs))

    def place(self, bases: Tensor) -> Tensor:
        """One-hot [W, 4, 1000] -> logits [W, outputs]."""
        return self.layers(self.grammar(self.motifs(bases)))  # type: ignore[no-any-return]


class CNNProm(PlaceNetwork):
    """A convolution, its maximum over the whole window, and a dense layer."""

    INPUT_BP, BEFORE_BP = 251, 200

    def __init__(self, outputs: int = 1, width: float = 1.0) -> None:
        super().__init__(outputs)
        kernels, hidden = scaled(300, width), scaled(128, width)
        self.layers = nn.Sequential(
            *_convolved(4, kernels, 21, pool=231), *_dense(kernels, hidden, outputs)
        )

    def place(self, bases: Tensor) -> Tensor:
        """One-hot [W, 4, 251] -> logits [W, outputs]."""
        return self.layers(bases)  # type: ignore[no-any-return]


class DeePromoter(PlaceNetwork):
    """Convolutions of three widths side by side, a bidirectional LSTM and a dense layer."""

    INPUT_BP, BEFORE_BP = 300, 249

    def __init__(self, outputs: int = 1, width: float = 1.0) -> None:
        super().__init__(outputs)
        filters, units, hidden = (scaled(n, width) for n in (32, 32, 128))
        self.kernels = nn.ModuleList(nn.Conv1d(4, filters, size) for size in (27, 14, 7))
        self.dropout = nn.Dropout(0.5)
        self.grammar = _RecurrentLayer(3 * filters, units)
        self.layers = nn.Sequential(*_dense(50 * 2 * units, hidden, outputs, dropout=0.5))

    def place(self, bases: Tensor) -> Tensor:
        """One-hot [W, 4, 300] -> logits [W, outputs]."""
        seen = []
        for kernel in self.kernels:
            reach = int(kernel.kernel_size[0]) - 1  # type: ignore[index]
            padded = F.pad(bases, (reach // 2, reach - reach // 2))
            seen.append(F.max_pool1d(F.relu(kernel(padded)), 6))
        x = self.dropout(torch.cat(seen, dim=1))  # [W, 3 filters, 50]
        return self.layers(self.grammar(x))  # type: ignore[no-any-return]


def _convolved(
    inputs: int, kernels: int, width: int, *, pool: int = 0, dropout: float = 0
) -> list[nn.Module]:
    """Return a convolution and what follows it."""
    pooled = [nn.MaxPool1d(pool)] if pool else []
    return [nn.Conv1d(inputs, kernels, width), nn.ReLU(), *pooled, *_dropped(dropout)]


def _dense(inputs: int, hidden: int, outputs: int, *, dropout: float = 0) -> list[nn.Module]:
    """Return the layers that make logits of all positions."""
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    return [nn.Flatten(), first, nn.ReLU(), *_dropped(dropout), last]


def _dropped(share: float) -> list[nn.Module]:
    return [nn.Dropout(share)] if share else []


def scaled(size: int, width: float) -> int:
    """Return a published layer size times `width`, at least 1."""
    return max(1, round(size * width))
