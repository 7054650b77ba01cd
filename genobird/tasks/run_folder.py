"""The folder of a training run: what it holds, and how it is begun, continued or replaced.

A run may only be continued as what it was: with other settings it would be neither the old run nor
a new one. Settings that change no weight are free, and so are paths; what lies there is compared by
its hash.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from genobird import checkpoint as checkpoints
from genobird.checkpoint import Checkpoint
from genobird.errors import CheckpointError, UsageError
from genobird.files import (
    Kind,
    locked,
    refuse_existing,
    refuse_foreign,
    refuse_others,
    require_place,
    write_text,
)
from genobird.runs import flat, refuse_unfinished

SETTINGS, STATE, MODEL, LOGS = "config.yaml", "last.ckpt", "model", "logs"
ENCODED = "encoded"
"""Draws of promoters, encoded."""
STATES = "states"
"""Bins of tracks, encoded."""
REPORT = "held_out.json"
"""Figures of a head for tracks of one's own."""
BAD_BATCH = "not-finite.pt"
"""The batches of a step that was not finite."""
SAVED = (ENCODED, STATE, MODEL, STATES)
"""What a run is continued from, or was made for."""
FILES = (*SAVED, SETTINGS, LOGS, BAD_BATCH, REPORT, "last.part")
"""All that a run writes: nothing else of a folder is ever removed."""
KIND = Kind("run of genobird", SETTINGS, ("*",), "# Settings of a run of genobird\n")
_INSIDE = {
    MODEL: checkpoints.KIND.files,
    LOGS: ("metrics*.csv", "hparams.yaml", "events.out.tfevents.*", "wandb", "mlflow*"),
    ENCODED: ("precision", "[0-9a-f]" * 16),
    STATES: ("plan.json", "train", "held_out"),
}
"""What its folders hold: these are removed."""
ASIDE = ".replaced"

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

    The facts are settings by section, and hashes of what is read.
    """
    return {key: value for key, value in flat(facts).items() if key not in FREE}


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
            return cls(path, int(state["global_step"]), dict(state["identity"]))
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


@dataclass(frozen=True)
class Run:
    """A training as it is done.

    Attributes:
        output: the run's folder.
        resume: go on with what an interrupted run left there.
        progress: show a progress bar.
        provenance: facts to keep with the model, such as the command.
    """

    output: Path
    resume: bool = False
    progress: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def write_model(self, checkpoint: Checkpoint, part: str, facts: Mapping[str, Any]) -> None:
        """Write the model of the run, and drop what was encoded for it.

        `facts` say how a part of it was trained. Its calibration, and the notes on a model that was
        bundled, were of the part as it was before.
        """
        known = {key: value for key, value in checkpoint.provenance.items() if key != "notes"}
        if "calibration" in known:
            lines = known["calibration"].items()
            known["calibration"] = {name: line for name, line in lines if name != part}
        checkpoint.provenance = {**known, part: {**self.provenance, **facts}}
        checkpoint.save(self.output / MODEL, force=True)
        for made in (ENCODED, STATES):
            shutil.rmtree(self.output / made, ignore_errors=True)


@contextmanager
def run_folder(output: Path, settings: Any, *, resume: bool, force: bool) -> Iterator[None]:
    """Keep the settings of a run in its folder, and an older run safe until it is replaced.

    What --force replaces is set aside, removed when the new run has ended well, and put back when
    that fails before it has saved anything. A run that fails before its first step leaves nothing.
    The batch of a step that was not finite stays in any case.

    Args:
        output: the folder.
        settings: of the run, a pydantic model; a resumed run keeps those that it began with.
        resume: continue what is there.
        force: replace what is there.

    Raises:
        UsageError: both are asked for, a run is there and neither is, other files are there and no
            run, or something that the settings name would be replaced.
        OutputError: another process trains in the folder, or no file can be made there.
    """
    if resume and force:
        raise UsageError("--resume continues a run and --force replaces it; choose one")
    require_place(output, inside=True)
    with locked(output):
        _restore(output)
        _refuse_foreign(output, goes_on=resume and bool(_present(output, (STATE, ENCODED, STATES))))
        if resume and (output / MODEL).exists():
            refuse_existing(output / MODEL, True, checkpoints.KIND)
        if not (resume or force):
            _refuse_run(output)
        if force:
            _refuse_inputs(output, settings)
        existed = output.exists()
        output.mkdir(parents=True, exist_ok=True)
        if force:
            _set_aside(output)
        if not (resume and _present(output, SAVED) and (output / SETTINGS).exists()):
            text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
            write_text(output / SETTINGS, KIND.mark + text)
        elif not KIND.is_in(output):  # an older version wrote it, or an editor
            write_text(output / SETTINGS, KIND.mark + (output / SETTINGS).read_text())
        try:
            yield
        except BaseException:
            _restore(output)
            if not _present(output, (*SAVED, LOGS, BAD_BATCH)):
                _clear(output)
                if not existed and not any(output.iterdir()):
                    output.rmdir()
            raise
        _remove(output / ASIDE)


def _present(output: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (output / name).exists()]


def _refuse_run(output: Path) -> None:
    refuse_existing(output / MODEL, force=False)
    saved = SavedRun.read(output)
    if saved or _present(output, SAVED):
        refuse_unfinished(output, saved.progress if saved else "")


def _refuse_foreign(output: Path, *, goes_on: bool) -> None:
    """Refuse a folder of other files, also of such as have only the names of a run's files.

    What is continued tells by itself whose it is: settings may be of an older version.
    """
    if output.exists() and not goes_on and not KIND.is_in(output):
        refuse_foreign(output, KIND.name)
    for name, files in _INSIDE.items():
        if (output / name).is_dir():
            refuse_others(output / name, files)


def _refuse_inputs(output: Path, settings: Any) -> None:
    """Refuse to replace what the new run reads."""
    for name, path in settings:
        if not isinstance(path, Path):
            continue
        for file in FILES:
            replaced = (output / file).resolve()
            if replaced in (path.resolve(), *path.resolve().parents):
                raise UsageError(
                    f"{name} {path} lies in the output {output}, where --force replaces it; choose "
                    "another output"
                )


def _set_aside(output: Path) -> None:
    _remove(output / ASIDE)
    if found := _present(output, FILES):
        (output / ASIDE).mkdir()
        for name in found:
            os.replace(output / name, output / ASIDE / name)


def _restore(output: Path) -> None:
    """Put back a run whose successor was stopped before it had saved anything."""
    aside = output / ASIDE
    if not aside.is_dir() or _present(output, SAVED):
        return
    _clear(output)
    for name in _present(aside, FILES):
        if not (output / name).exists():
            os.replace(aside / name, output / name)
    _remove(aside)


def _clear(output: Path) -> None:
    """Remove the files of a run, but for the batch that ended it."""
    for name in _present(output, FILES):
        if name != BAD_BATCH:
            _remove(output / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
