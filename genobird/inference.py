"""Inference: an encoder and its heads outside of training.

Scores, evaluations and cached features are computed here alone, by the same rules, so that what is
measured is what ships:

- Matrix products are IEEE's float32, on a GPU too; with `bf16` those of the encoder are in
  bfloat16, those of the heads are not.
- A pass takes sequences in the order they come until it holds so many bases, or so many sequences.
  What a pass holds therefore follows from the call alone, and the same call gives the same bits.
- Heads compute places, and the encoder the tokens that are read, in multiples of `batch.ROWS`, so
  that an answer does not depend on how many places are asked about.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genobird.batch import PackedBatch, Places, filled
from genobird.checkpoint import Checkpoint
from genobird.errors import GenobirdError, UsageError, counted
from genobird.files import renew_after_fork
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.places import Question, pack_questions

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Precision = Literal["float32", "bf16"]
Ready = TypeVar("Ready")
Reader = Callable[[Tensor, Places], Tensor]
"""Hidden states [T, D] and P places in them to values [P, columns]: a head, or its `pool`."""

DEVICES: Final = ("cpu", "cuda")
# Bases per pass. On a CPU two chromatin windows, about 6,300 tokens of a 4,096-piece vocabulary,
# stay closer to the cache than five: 0.21 against 0.27 s a window (two cores, four layers of 256).
CAPACITY: Final = {"cpu": 2 * 16_200, "cuda": 80 * 16_200}


class Inference:
    """A model that is asked, on one device.

    Args:
        checkpoint: the model; its parts are moved to the device and set to evaluation.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        precision: of the encoder's matrix products, `float32` or `bf16`.
        most: sequences per pass; None is as many as fit a fixed number of bases.

    Raises:
        UsageError: an unknown device or precision.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        *,
        precision: str = "float32",
        most: int | None = None,
    ) -> None:
        self.precision: Final = precision_of(precision)
        self.device: Final = device_of(str(device))
        self.checkpoint: Final = checkpoint.to(self.device)
        for module in checkpoint.modules().values():
            module.eval()
        self.passes: Final = Passes(self.device, most)

    def head(self, name: Literal["chromatin", "promoter", "table"]) -> Head:
        """Return a head; UsageError where the model has none of this name."""
        found: Head | None = getattr(self.checkpoint, name)
        if found is None:
            raise UsageError(
                f"the model has no {name} head; add one with `genobird finetune {name}`, or choose "
                "another model"
            )
        return found

    @torch.inference_mode()
    def encode(self, batch: PackedBatch, wanted: Tensor | None = None) -> Tensor:
        """Return hidden states [T, D] in float32.

        Args:
            batch: T tokens, on the device.
            wanted: as in the encoder.
        """
        with products(self.device, self.precision):
            hidden: Tensor = self.checkpoint.encoder(batch, wanted=wanted)
        return hidden.float()

    def read(self, readers: Sequence[Reader], asked: Places) -> Tensor:
        """Return what readers make of P places, side by side, float32 [P, columns]."""
        return self._read([readers], [asked])

    @torch.inference_mode()
    def _read(self, readers: Sequence[Sequence[Reader]], asked: Sequence[Places]) -> Tensor:
        """Read for each group of readers its own P places; all lie in one batch, encoded once."""
        asked = [places.to(self.device) for places in asked]
        spans = [replace(one, spans=filled(one.spans)) for one in asked if one.spans.shape[1]]
        hidden = torch.zeros((0, self.checkpoint.encoder.config.width), device=self.device)
        if spans:  # heads that read bases alone need no hidden states
            hidden = self.encode(asked[0].batch, torch.cat([one.tokens for one in spans]))
        with products(self.device, "float32"):
            values = [
                read(hidden, places)
                for group, places in zip(readers, asked, strict=True)
                for read in group
            ]
            return torch.cat(values, dim=1)

    @torch.inference_mode()
    def masked_logits(self, batch: PackedBatch, tokens: Tensor) -> Tensor:
        """Return the logits of the V pieces at M tokens of a batch, float32 [M, V]."""
        encoder, mlm = self.checkpoint.encoder, self.checkpoint.mlm
        assert mlm is not None
        batch, rows = batch.to(self.device), filled(tokens.to(self.device))
        hidden = self.encode(batch, rows)
        around = batch.around(rows, mlm.reach)
        with products(self.device, "float32"):
            logits: Tensor = mlm(hidden[rows], encoder.embedding.weight, around)
        return logits[: len(tokens)]

    def predict(
        self,
        readers: Sequence[Reader],
        config: HeadConfig,
        sequences: Sequence[str],
        places: Sequence[NDArray[np.int64]],
        *,
        both_strands: bool = False,
    ) -> Floats:
        """Return what readers make of places in sequences, side by side, [P, columns].

        Args:
            readers: heads, and the like.
            config: says which bases around a place are read.
            sequences: S strings over ACGTN, upper-case; one at least.
            places: of each sequence, positions in bases (0-based); P in all. On the other strand
                the place x is x bases before the end: a bin is [x - 100, x + 100).
            both_strands: average both strands.
        """
        if both_strands:
            both: list[str] = []
            turned: list[NDArray[np.int64]] = []
            for sequence, here in zip(sequences, places, strict=True):
                for strand in "+-":
                    text, at = along(sequence, here, strand)
                    both.append(text)
                    turned.append(at)
            values = self.predict(readers, config, both, turned)
            by_strand = np.split(values, np.cumsum([len(here) for here in turned])[:-1])
            pairs = zip(by_strand[::2], by_strand[1::2], strict=True)
            return np.concatenate([(plus + minus) / 2 for plus, minus in pairs])
        return self.predict_together([readers], [Question(config, places)], sequences)

    def predict_together(
        self,
        readers: Sequence[Sequence[Reader]],
        questions: Sequence[Question],
        sequences: Sequence[str],
    ) -> Floats:
        """Return what several heads make of the same windows, each encoded once, [P, columns].

        Args:
            readers: those of each question.
            questions: of each head, as many places of a sequence as of each other.
            sequences: as in `predict`, along one strand.
        """
        tokenizer = self.checkpoint.tokenizer
        block_size = self.checkpoint.encoder.config.block_size

        def prepare(part: slice) -> list[Places]:
            here = [Question(one.head, one.places[part]) for one in questions]
            return pack_questions(sequences[part], here, tokenizer, block_size)

        bases = [len(sequence) for sequence in sequences]
        return self.passes.run(bases, prepare, lambda asked: self._read(readers, asked))

    def target_values(
        self,
        sequences: Sequence[str],
        places: Sequence[NDArray[np.int64]],
        strands: Sequence[str] = "",
    ) -> Floats:
        """Predict the targets of a table head.

        Args:
            sequences: S strings over ACGTN, upper-case, forward strand.
            places: of each sequence, positions in bases (0-based); P in all.
            strands: of each sequence, `+`, `-` or `.`, of which both strands are averaged; where
                none is given, or the head was trained without strands, these are all of them.

        Returns:
            Values in the units given in training, or probabilities of the classes, [P, O].

        Raises:
            UsageError: the model has no such head.
        """
        head, targets = self.head("table"), self.checkpoint.targets
        assert targets is not None
        if not strands or not targets.stranded:
            strands = "." * len(sequences)
        logits = np.empty((sum(map(len, places)), head.config.outputs), np.float32)
        owners = np.repeat(np.arange(len(sequences)), [len(here) for here in places])
        for both in (False, True):
            rows = [row for row, strand in enumerate(strands) if (strand == ".") == both]
            read = [along(sequences[row], places[row], strands[row]) for row in rows]
            if read:
                texts, turned = zip(*read, strict=True)
                found = self.predict([head], head.config, texts, turned, both_strands=both)
                logits[np.isin(owners, rows)] = found
        return targets.values(logits)


def along(sequence: str, places: NDArray[np.int64], strand: str) -> tuple[str, NDArray[np.int64]]:
    """Return a sequence and places in it as a strand reads: turned around for `-`.

    A place x is then x bases before the end: a bin around it stays the same bases.
    """
    if strand != "-":
        return sequence, places
    return reverse_complement(sequence), len(sequence) - places


class Passes:
    """How much goes through the model at once: `most` sequences, or a fixed number of bases."""

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self.device: Final = device
        self._most = most
        self._process = os.getpid()
        self.renew()
        renew_after_fork(self)
        self._capacity = CAPACITY.get(device.type, CAPACITY["cpu"])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lock": None, "_thread": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._process = os.getpid()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the model usable in a process that was forked; see `files.renew_after_fork`."""
        self._lock = threading.Lock()
        # One thread for all calls: a fork beside a thread that is ending may find locks of the
        # libraries that it used held for ever.
        self._thread = ThreadPoolExecutor(1, "genobird-prepare")

    def run(
        self,
        bases: Sequence[int],
        prepare: Callable[[slice], Ready],
        compute: Callable[[Ready], Tensor],
    ) -> Floats:
        """Prepare and compute successive slices of sequences, and join what comes of them.

        Out of memory, passes become half as large for good, and the slice is tried again.

        Args:
            bases: length of each sequence; at least one.
            prepare: makes a slice of the sequences ready. It runs in another thread, while the
                slice before is computed.
            compute: returns [rows of the slice, ...].

        Raises:
            GenobirdError: one sequence alone does not fit into memory.
            UsageError: the model lies on a GPU, and this process was forked from the one that put
                it there.
        """
        results: list[Floats] = []

        def begin(first: int) -> tuple[slice, Future[Ready]]:
            part = slice(first, self._stop(bases, first))
            return part, self._thread.submit(prepare, part)

        with self._lock:  # torch has threads enough for one pass
            self._require_own_process()
            part, ready = begin(0)
            while True:
                ahead = None
                try:
                    prepared = ready.result()
                    if part.stop < len(bases):
                        ahead = begin(part.stop)
                    with torch.inference_mode():
                        results.append(compute(prepared).float().cpu().numpy())
                except (RuntimeError, MemoryError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    self._halve(bases, part, error)
                    part, ready = begin(part.start)
                    continue
                if ahead is None:
                    return np.concatenate(results)
                part, ready = ahead

    def _require_own_process(self) -> None:
        if self._process == os.getpid():
            return
        if self.device.type == "cuda":
            raise UsageError(
                "a model on a GPU cannot be used in a forked process; load it there, and start "
                "processes by spawn"
            )
        torch.set_num_threads(1)  # those of the parent are not here, and would be waited for
        self._process = os.getpid()

    def _stop(self, bases: Sequence[int], first: int) -> int:
        stop, held = first + 1, bases[first]
        while stop < len(bases) and stop - first != self._most:
            held += bases[stop]
            if self._most is None and held > self._capacity:
                break
            stop += 1
        return stop

    def _halve(self, bases: Sequence[int], part: slice, error: Exception) -> None:
        size = part.stop - part.start
        if size == 1:
            raise GenobirdError(
                f"one sequence of {bases[part.start]:,} bp does not fit into the memory of "
                f"{self.device}; try --device cpu or a shorter sequence"
            ) from error
        self._most = size // 2
        logger.warning("out of memory: going on with %s per pass", counted(self._most, "sequence"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    # On CPU torch says it only in words.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)


def device_of(name: str) -> torch.device:
    """Read `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        UsageError: it is none of these, or is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in DEVICES:
        raise UsageError(f"device {name!r} is unknown; allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPU(s); "
            "use --device cpu"
        )
    return device


def precision_of(name: str) -> Precision:
    """Read `float32` or `bf16`; UsageError for something else."""
    allowed = get_args(Precision)
    if name not in allowed:
        raise UsageError(f"precision {name!r} is unknown; allowed are {', '.join(allowed)}")
    return cast(Precision, name)


@contextmanager
def products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in a precision; float32 is IEEE's, in convolutions on a GPU too."""
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),  # disabled by default
    ):
        yield


def settled_precision(asked: str, known: str | None, device: str) -> Precision:
    """Decide once a run whether it multiplies in bfloat16.

    float16 is never chosen: its losses have to be scaled, and on CPUs without AVX512-FP16 it is
    many times slower than float32.

    Args:
        asked: `auto`, or the precision itself.
        known: what the run has had so far, if anything.
        device: where to compute.

    Returns:
        What was asked for; for `auto` what is known, or what is fastest here.
    """
    chosen = known if asked == "auto" else asked
    if chosen is None or chosen == "auto":  # which older states hold
        return fastest(device_of(device).type)
    return precision_of(chosen)


def fastest(device: str) -> Precision:
    """Return the precision to train in.

    Args:
        device: `cuda`, or anything else for the CPU.
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    seconds = measured_seconds()
    # bfloat16 rounds to three digits: it has to be faster by more than the noise of a measurement.
    return "bf16" if 1.2 * seconds["bf16"] < seconds["float32"] else "float32"


@lru_cache(maxsize=1)
def measured_seconds() -> dict[Precision, float]:
    """Time the feed-forward part of a layer of BigBird-base on this CPU, both ways.

    Returns:
        Seconds for 1,024 tokens by precision: the best of three runs after one that does not count.
        Taken once in a process.
    """
    x, wide, narrow = torch.ones(1024, 768), torch.ones(3072, 768), torch.ones(768, 3072)
    found: dict[Precision, float] = {}
    for precision in get_args(Precision):
        times = []
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            for _ in range(4):
                start = time.perf_counter()
                F.linear(F.gelu(F.linear(x, wide)), narrow)
                times.append(time.perf_counter() - start)
        found[precision] = min(times[1:])
    return found
