"""What every step shares: outputs that appear whole or not at all, one-line errors, file hashes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from genobird.errors import GenobirdError, UsageError
from genobird.files import Draft, Kind, file_sha256, refuse_existing

FORMAT_VERSION = 1

Force = Annotated[bool, typer.Option("--force", help="Replace the output.")]
Split = Annotated[str, typer.Option(help="Part of the data, not trained on.")]
PrecisionName = Annotated[str, typer.Option(help="float32 or bf16.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")]


@contextmanager
def new_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield where to write; it becomes `path` when the block ends without error, see `Draft`.

    Raises:
        UsageError: `path` exists and `force` is not set.
        OutputError: the folder or the file cannot be written.
    """
    refuse_existing(path, force)
    with Draft(path) as part:
        yield part


@contextmanager
def new_directory(path: Path, force: bool = False, kind: Kind | None = None) -> Iterator[Path]:
    """Yield a new directory; it becomes `path` when the block ends without error, see `Draft`.

    Args:
        path: the directory to write.
        force: replace what is there.
        kind: see `refuse_existing`.

    Raises:
        UsageError: `path` exists and may not be replaced, see `refuse_existing`.
        OutputError: the directory cannot be written.
    """
    refuse_existing(path, force, kind)
    with Draft(path) as part:
        part.mkdir()
        yield part


def sha256(path: Path) -> str:
    """Hash a file's bytes.

    Raises:
        UsageError: there is no such file.
    """
    return file_sha256(require(path))


def require(path: Path) -> Path:
    """Return `path`, a file that must exist.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(
            f"no file {path}; check the path or fetch it with `python -m pipelines.fetch`"
        )
    return path


def run(app: typer.Typer) -> None:
    """Run a command line: log to stderr, turn a genobird error into one line and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app()
    except GenobirdError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
