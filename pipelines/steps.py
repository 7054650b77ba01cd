"""What every step shares: outputs that appear whole or not at all, one-line errors, file hashes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from genobird.digest import file_sha256
from genobird.errors import GenobirdError, OutputError, UsageError

FORMAT_VERSION = 1


def refuse_existing(path: Path, force: bool, result: str | None = None) -> None:
    """Refuse to replace a result, before any work is done for it.

    Args:
        path: what is to be written.
        force: replace it, if it is a result.
        result: a file that every folder of this step's results holds; None replaces anything.

    Raises:
        UsageError: `path` exists, and `force` is not set or it is something else than a result. An
            empty folder is always replaced by force.
    """
    if not path.exists():
        return
    if not force:
        raise UsageError(f"{path} exists; choose another --output or pass --force to replace it")
    if result is not None and not _may_replace(path, result):
        raise UsageError(
            f"{path} exists and holds no {result}, so it is no result of this step; choose another "
            "--output"
        )


def _may_replace(path: Path, result: str) -> bool:
    return path.is_dir() and ((path / result).is_file() or not any(path.iterdir()))


def _prepare(path: Path, force: bool, result: str | None = None) -> Path:
    refuse_existing(path, force, result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder of {path}: {error.strerror}") from error
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def new_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it becomes `path` when the block ends without error.

    Raises:
        UsageError: `path` exists and `force` is not set.
        OutputError: the folder or the file cannot be written.
    """
    part = _prepare(path, force)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, force: bool = False, result: str | None = None) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; it becomes `path` when the block ends well.

    Args:
        path: the directory to write.
        force: replace what is there.
        result: see `refuse_existing`.

    Raises:
        UsageError: `path` exists and may not be replaced, see `refuse_existing`.
        OutputError: the directory cannot be written.
    """
    part = _prepare(path, force, result)
    try:
        part.mkdir()
        yield part
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        part.rename(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
