"""Packages that only some of the work needs, and the extra of genobird that brings each of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from genobird.errors import UsageError

EXTRAS: Final = {
    "anndata": ("anndata",),
    "bigwig": ("pyBigWig",),
    "gpu": ("triton",),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
    "train": (
        *("bioframe", "h5py", "pooch", "pytorch_lightning", "requests"),
        *("scipy", "sklearn", "tensorboard"),
    ),
}
"""Modules by extra, as `pyproject.toml` declares them."""


def require(module: str, purpose: str) -> Any:
    """Import a module of an extra.

    Args:
        module: its name.
        purpose: what it is needed for, as the start of a sentence.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, purpose) or error from None


def missing(error: ModuleNotFoundError, purpose: str = "this") -> UsageError | None:
    """Return what to tell when a module of an extra is not installed; None for another module."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return UsageError(
                f"{purpose} needs {module}, which is not installed; pip install 'genobird[{extra}]'"
            )
    return None
