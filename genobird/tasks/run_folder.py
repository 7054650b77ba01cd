"""The folder of a training run: begun, continued, or put in the place of an older run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from genobird.errors import UsageError
from genobird.files import locked, refuse_existing
from genobird.runs import refuse_unfinished
from genobird.tasks.state import SavedRun

SETTINGS = "config.yaml"
SAVED = ("encoded", "last.ckpt", "model", "states")
"""What a run is continued from, or was made for."""
LOGS, BAD_BATCH = "logs", "not-finite.pt"
FILES = (*SAVED, SETTINGS, LOGS, BAD_BATCH, "held_out.json", "last.part")
"""All that a run writes: nothing else of a folder is ever removed."""
ASIDE = ".replaced"


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
        UsageError: both are asked for, a run is there and neither is, or what is there is no run.
        OutputError: another process trains in the folder.
    """
    if resume and force:
        raise UsageError("--resume continues a run and --force replaces it; choose one")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, and a run needs a folder; choose another place")
    with locked(output):
        _restore(output)
        if not (resume or force):
            _refuse_run(output)
        if force:
            _refuse_others(output)
        existed = output.exists()
        output.mkdir(parents=True, exist_ok=True)
        if force:
            _set_aside(output)
        if not (resume and _present(output, SAVED) and (output / SETTINGS).exists()):
            text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
            (output / SETTINGS).write_text(text)
        try:
            yield
        except BaseException:
            _restore(output)
            if not _present(output, (*SAVED, LOGS)):
                _clear(output)
                if not existed and not any(output.iterdir()):
                    output.rmdir()
            raise
        _remove(output / ASIDE)


def _present(output: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (output / name).exists()]


def _refuse_run(output: Path) -> None:
    refuse_existing(output / "model", force=False)
    saved = SavedRun.read(output)
    if saved or _present(output, SAVED):
        refuse_unfinished(output, saved.progress if saved else "")


def _refuse_others(output: Path) -> None:
    """Refuse to replace what has only the names of a run's files."""
    found = _present(output, FILES)
    try:
        settings = yaml.safe_load((output / SETTINGS).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        settings = None
    is_run = isinstance(settings, dict) and ("fit" in settings or "held_out" in settings)
    if found and not is_run:
        raise UsageError(
            f"{output} holds {', '.join(found)} and is no run of genobird; choose another place"
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
