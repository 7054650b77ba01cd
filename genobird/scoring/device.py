"""Device: where a model is, and how its matrix products are computed there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, cast, get_args

import torch

from genobird.errors import UsageError

Precision = Literal["float32", "bf16"]

DEVICES: Final = ("cpu", "cuda")


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
    """Read `float32` or `bf16`.

    Raises:
        UsageError: it is neither.
    """
    allowed = get_args(Precision)
    if name not in allowed:
        raise UsageError(f"precision {name!r} is unknown; allowed are {', '.join(allowed)}")
    return cast(Precision, name)


@contextmanager
def products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute matrix products in a precision; float32 is IEEE's, on a GPU too."""
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        torch.backends.cudnn.flags(allow_tf32=False),
    ):
        yield
