"""Passes: many sequences through a model, a few at a time, the next ones made ready meanwhile.

A pass takes sequences in the order they come until it holds so many bases, or so many sequences.
What a pass holds therefore follows from the call alone, and the same call gives the same bits.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.errors import GenobirdError, UsageError
from genobird.forks import renew_after_fork

logger = logging.getLogger(__name__)

Ready = TypeVar("Ready")

# Bases a pass. On a CPU two chromatin windows, about 6,300 tokens of a 4,096-piece vocabulary, stay
# closer to the cache than five: 0.21 against 0.27 s a window (two cores, four layers of 256).
CAPACITY: Final = {"cpu": 2 * 16_200, "cuda": 80 * 16_200}


class Passes:
    """How much goes through the model at once, on one device.

    Args:
        device: where the model is.
        most: sequences a pass; None is as many as fit a fixed number of bases.
    """

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self.device: Final = device
        self._most = most
        self._process = os.getpid()
        self.renew()
        renew_after_fork(self)
        self._capacity = CAPACITY.get(device.type, CAPACITY["cpu"])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._process = os.getpid()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the model usable in a process that was forked; see `forks`."""
        self._lock = threading.Lock()

    def run(
        self,
        bases: Sequence[int],
        prepare: Callable[[slice], Ready],
        compute: Callable[[Ready], Tensor],
    ) -> NDArray[np.float32]:
        """Prepare and compute successive slices of sequences, and join what comes of them.

        Out of memory, passes become half as large for good, and the slice is tried again.

        Args:
            bases: length of each sequence; at least one.
            prepare: makes a slice of the sequences ready. It runs in a thread of its own, while
                the slice before is computed.
            compute: returns [rows of the slice, ...].

        Raises:
            GenobirdError: one sequence alone does not fit into memory.
            UsageError: the model lies on a GPU, and this process was forked from the one that put
                it there.
        """
        with self._lock:  # torch has threads enough for one pass
            self._require_own_process()
            return self._run(bases, prepare, compute)

    def _run(
        self,
        bases: Sequence[int],
        prepare: Callable[[slice], Ready],
        compute: Callable[[Ready], Tensor],
    ) -> NDArray[np.float32]:
        results: list[NDArray[np.float32]] = []
        with ThreadPoolExecutor(1, "genobird-prepare") as thread:

            def begin(first: int) -> tuple[slice, Future[Ready]]:
                part = slice(first, self._stop(bases, first))
                return part, thread.submit(prepare, part)

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
        logger.warning("out of memory: going on with %d sequences a pass", self._most)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    # On CPU torch says it only in words.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)
