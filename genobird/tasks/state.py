"""What a run leaves on disk to be continued from: its step and what it was asked to do.

A run may only be continued as what it was: with other settings it would be neither the old run nor
a new one. Settings that change no weight are free, and so are paths; what lies there is compared by
its hash.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genobird import runs
from genobird.errors import CheckpointError

STATE = "last.ckpt"

# What torch raises for bytes that it did not write depends on where they are.
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    pickle.UnpicklingError,
)

FREE = frozenset(
    {
        "fit.activation_checkpointing",
        "fit.compile",
        "fit.device",
        "fit.devices",
        "fit.log_every",
        "fit.loggers",
        "fit.nodes",
        "fit.save_every",
        "fit.save_minutes",
        "fit.strategy",
        "fit.threads",
        "fit.validate_every",
        "fit.workers",
        "validation_batches",
    }
)


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run must be continued with, by key (`fit.steps`).

    Args:
        facts: settings by section, and hashes of what is read.
    """
    return {key: value for key, value in runs.flat(facts).items() if key not in FREE}


@dataclass(frozen=True)
class SavedRun:
    """A run's state on disk.

    Attributes:
        path: the run directory.
        step: steps done.
        identity: what it was asked to do, as `identity` returned it.
    """

    path: Path
    step: int
    identity: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SavedRun | None:
        """Read the state in a run directory; None where there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        file = path / STATE
        if not file.exists():
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            return cls(path, int(state["global_step"]), dict(state.get("identity", {})))
        except PermissionError:
            raise  # it names the file, and a state that is whole is no reason to start again
        except _DAMAGE as error:
            raise CheckpointError(f"{file} is damaged; start again with --force") from error

    @property
    def progress(self) -> str:
        """How far the run came, in words."""
        steps = self.identity.get("fit.steps")
        if steps == self.step:
            return f"all of its {steps} steps, and no model yet"
        return f"step {self.step} of {steps}"


def rewrite_progress(loop: dict[str, Any], batches: int, validating: bool) -> None:
    """Rewrite the saved progress of Lightning's fit loop: so many batches are done, and no more.

    Args:
        loop: state of the loop, changed in place.
        batches: of each process so far.
        validating: the state was saved within a validation, which is then done again.
    """
    done = {"ready": batches, "started": batches, "processed": batches, "completed": batches - 1}
    loop["epoch_loop.batch_progress"] |= {"total": {**done}, "current": {**done}}
    # What stands so has begun its first batch and not ended it, or has begun nothing.
    begun = {"ready": 1, "started": 1} if validating else {"ready": 0, "started": 0}
    begun |= {"processed": 0, "completed": 0}
    loop["epoch_loop.val_loop.batch_progress"] |= {"total": {**begun}, "current": {**begun}}
    if validating:  # Lightning counts a step once more behind its validation
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
