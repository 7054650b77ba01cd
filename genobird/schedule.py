"""The learning rate over a training: it warms up, then decays to zero."""

from __future__ import annotations

import torch


def rate_factor(
    step: int,
    steps: int,
    warmup_steps: int,
    decay: str = "cosine",
    *,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return the share of the peak learning rate that a step is taken with.

    Args:
        step: its number, from 0.
        steps: of the training.
        warmup_steps: over which it grows linearly.
        decay: how it falls in the others, `linear` or `cosine`.
        dtype: that the cosine is rounded to, which the last digits of trained weights depend on.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if decay == "linear":
        return max(0.0, 1.0 - done)
    angle = torch.tensor(min(done, 1.0) * torch.pi, dtype=dtype)
    return 0.5 * (1 + float(angle.cos()))
