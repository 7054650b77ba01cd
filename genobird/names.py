"""What is imported when it is first used: public names, modules, and what extras bring.

Some packages are needed by some of the work alone, and an extra of genobird brings each of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
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

_forgetting = threading.Lock()


def loader(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package, by the module of each public name."""

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(require(homes[name], f"{package}.{name}"), name)
        vars(sys.modules[package])[name] = value
        return value

    return load


@contextmanager
def deferred() -> Iterator[None]:
    """Load the modules of genobird that a block imports when they are first used.

        with deferred():
            from genobird.scoring import regions

    A module is used when it is asked for an attribute; packages are loaded at once. Other threads
    may import meanwhile.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.found:  # whoever imports them next loads them
            _forget(name)


def _forget(name: str) -> None:
    """Remove a module that is not loaded from where Python looks; a loaded one stays."""
    package, _, module = name.rpartition(".")
    homes = (sys.modules, name), (vars(sys.modules[package]), module)
    with _forgetting:
        for home, key in homes:
            if isinstance(home.get(key), _Deferred):
                del home[key]


class _Deferred(ModuleType):
    """An empty module, in whose stead another of its name is asked for attributes."""

    def __getattr__(self, name: str) -> Any:
        while isinstance(module := import_module(self.__name__), _Deferred):
            _forget(self.__name__)  # asked in the block, or by another thread during it
        return getattr(module, name)


class _Empty(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Deferred


class _Finder:
    def __init__(self) -> None:
        self.found: list[str] = []
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None, _: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of genobird, None for packages and all others."""
        if threading.get_ident() != self._thread or name in self.found:
            return None
        spec = PathFinder.find_spec(name, path) if name.startswith("genobird.") else None
        if spec is None or spec.submodule_search_locations:
            return None
        self.found.append(name)
        spec.loader = _Empty(name, str(spec.origin))
        return spec


def require(module: str, purpose: str) -> Any:
    """Import a module for a purpose (the start of a sentence); UsageError names its extra."""
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
