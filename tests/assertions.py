"""How tests compare tensors and files.

`assert_close` measures the relative root mean square error against one table of tolerances, by the
dtype of the inputs and by what is compared (outputs or gradients). NaN always fails. A tolerance
does not depend on the machine; loosening one is a change of its own, with its reason.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

DType = Literal["float64", "float32", "tf32", "float16", "bfloat16"]


class Tolerance(NamedTuple):
    """Largest relative RMS error of an output and of a gradient."""

    output: float
    gradient: float


TOLERANCES: dict[DType, Tolerance] = {
    "float64": Tolerance(output=1e-12, gradient=1e-11),
    "float32": Tolerance(output=1e-5, gradient=5e-5),  # IEEE products
    "tf32": Tolerance(output=2e-3, gradient=4e-3),  # float32 inputs, TF32 products
    "float16": Tolerance(output=5e-3, gradient=5e-3),
    "bfloat16": Tolerance(output=1e-2, gradient=2e-2),
}


def assert_close(
    name: str,
    actual: torch.Tensor,
    expected: torch.Tensor,
    dtype: torch.dtype | DType,
    gradient: bool | None = None,
) -> None:
    """Fail unless `rms(actual - expected) / rms(expected)` is within the tolerance of `dtype`.

    Args:
        name: What is compared, as the message calls it: `o`, `dq`, `dk`, `dv`, ...
        actual: Values under test, any shape and dtype.
        expected: Reference values, same shape.
        dtype: Dtype of the inputs from which `actual` was computed; `"tf32"` for float32 inputs
            that are multiplied in TF32.
        gradient: Whether `actual` is a gradient; by default `dq`, `dk` and `dv` are.

    Raises:
        AssertionError: The shapes differ, a value is NaN or infinite, or the error is too large.
    """
    key = str(dtype).removeprefix("torch.")
    if key not in get_args(DType):
        raise ValueError(f"no tolerance for {key}; there is one for {', '.join(TOLERANCES)}")
    tolerance = TOLERANCES[key]  # type: ignore[index]
    if gradient is None:
        gradient = name in {"dq", "dk", "dv"}
    limit = tolerance.gradient if gradient else tolerance.output

    if actual.shape != expected.shape:
        raise AssertionError(f"{name}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    for what, tensor in (("actual", actual), ("expected", expected)):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise AssertionError(f"{name}: {bad} of {tensor.numel()} {what} values are not finite")
    if not actual.numel():
        return
    difference = (actual - expected).abs()
    error, scale = _rms(difference), _rms(expected)
    ratio = 0.0 if error == 0 else error / scale if scale else math.inf
    if ratio > limit:
        raise AssertionError(
            f"{name}: relative RMS error {ratio:.3g} exceeds {limit:g} ({key}); "
            f"largest deviation {float(difference.max()):.3g}"
        )


def assert_files_equal(actual: Path, expected: Path) -> None:
    """Fail with a unified diff unless two text files are equal to the last byte."""
    if actual.read_bytes() == expected.read_bytes():
        return
    diff = difflib.unified_diff(
        _lines(expected), _lines(actual), fromfile=str(expected), tofile=str(actual), lineterm=""
    )
    raise AssertionError("\n".join(diff))


def _rms(values: torch.Tensor) -> float:
    return math.sqrt(float(values.square().mean()))


def _lines(path: Path) -> list[str]:
    # Escaped, so that a difference in line ends or in the last one can be seen.
    text = path.read_bytes().decode(errors="backslashreplace")
    return [line.replace("\r", "\\r") for line in text.split("\n")]
