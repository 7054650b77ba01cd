"""Public names of a package, loaded when they are first used: importing the package stays light."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from genobird.extras import require


def loader(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package.

    Args:
        package: its name.
        homes: public name -> the module that has it.
    """

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(require(homes[name], f"{package}.{name}"), name)
        vars(sys.modules[package])[name] = value
        return value

    return load
