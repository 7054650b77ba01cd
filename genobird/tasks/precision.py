"""Whether matrix products in bfloat16 pay on a device: measured on a CPU, known on a GPU.

Training in `bf16` keeps its weights in float32 and multiplies in bfloat16, by torch's autocast.
float16 is never chosen: it needs its losses scaled, and on CPUs without AVX512-FP16 it is many
times slower than float32.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import get_args

import torch
from torch.nn import functional as F

from genobird.inference import Precision, device_of, precision_of

_PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# bfloat16 rounds to three digits: it has to be faster by more than the noise of a measurement.
WORTH = 1.2


def settled_precision(asked: str, known: str | None, device: str) -> Precision:
    """Decide on `auto` once a run.

    Args:
        asked: `auto`, or the precision itself.
        known: what the run has had so far, if anything.
        device: where to compute.

    Returns:
        What was asked for; for `auto` what is known, or what is fastest here.
    """
    chosen = known if asked == "auto" else asked
    return precision_of(chosen) if chosen in _PRECISIONS else fastest(device_of(device).type)


def fastest(device: str) -> Precision:
    """Return the precision to train in.

    Args:
        device: `cuda`, or anything else for the CPU.
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    seconds = measure()
    return "bf16" if WORTH * seconds["bf16"] < seconds["float32"] else "float32"


@lru_cache(maxsize=1)
def measure() -> dict[Precision, float]:
    """Time the feed-forward part of a layer of BigBird-base on this CPU, both ways.

    Returns:
        Seconds for 1,024 tokens by precision: the best of three runs after one that does not count.
        Taken once in a process.
    """
    x, wide, narrow = torch.ones(1024, 768), torch.ones(3072, 768), torch.ones(768, 3072)
    found: dict[Precision, float] = {}
    for precision in _PRECISIONS:
        times = []
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            for _ in range(4):
                start = time.perf_counter()
                F.linear(F.gelu(F.linear(x, wide)), narrow)
                times.append(time.perf_counter() - start)
        found[precision] = min(times[1:])
    return found
