"""What a forked process has to make anew: locks that a thread of its parent held, open files."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """A thing that a forked process cannot use as it is."""

    def renew(self) -> None:
        """Give up what belongs to the parent process."""


_KEPT: WeakSet[Renewable] = WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Have `thing.renew()` called in every process that is forked, before anything else there."""
    _KEPT.add(thing)


def _renew_all() -> None:
    for thing in list(_KEPT):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
