"""What every step shares: outputs that appear whole or not at all, one-line errors, file hashes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from genobird.errors import GenobirdError, TableError, UsageError, one_line
from genobird.files import Draft, Kind, file_sha256, refuse_existing, write_text
from genobird.genome.interval import Interval

FORMAT_VERSION = 1

Force = Annotated[bool, typer.Option("--force", help="Replace the output.")]
OutputFolder = Annotated[Path, typer.Option("--output", help="Directory to write.")]
OutputJson = Annotated[Path, typer.Option("--output", help="JSON file to write.")]
ModelFolder = Annotated[Path, typer.Option(help="Model directory.")]
Fastas = Annotated[list[Path], typer.Option("--fasta", help="Genome; repeat for several files.")]
SplitName = Annotated[str, typer.Option(help="Name of the split.")]
SplitsFile = Annotated[Path | None, typer.Option(help="Splits of your own.")]
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
def new_directory(path: Path, force: bool, kind: Kind) -> Iterator[Path]:
    """Yield a new directory; it becomes `path` when the block ends without error, see `Draft`.

    Args:
        path: the directory to write.
        force: replace what is there.
        kind: what is replaced.

    Raises:
        UsageError: `path` exists and may not be replaced, see `refuse_existing`.
        OutputError: the directory cannot be written.
    """
    refuse_existing(path, force, kind)
    with Draft(path, kind) as part:
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


def read_table(
    path: Path, columns: Sequence[str], separator: str = "\t", **options: Any
) -> pd.DataFrame:
    """Read a table of text with pandas, which takes further options.

    Raises:
        UsageError: there is no such file.
        TableError: it is no such table, or lacks one of the columns.
    """
    try:
        table: pd.DataFrame = pd.read_csv(require(path), sep=separator, **options)
    except (ValueError, EOFError, OSError) as error:
        raise TableError(
            f"{path} is no table with {separator!r} between columns: {error}"
        ) from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise TableError(f"{path} has no column {missing[0]}; needed are {', '.join(columns)}")
    return table


def bed(intervals: Iterable[Interval]) -> str:
    """Return named intervals with their strands as lines of BED."""
    rows = (f"{i.contig}\t{i.start}\t{i.end}\t{i.name}\t.\t{i.strand}\n" for i in intervals)
    return "".join(rows)


def write(path: Path, text: str, force: bool = False) -> None:
    """Write text to a file that appears whole or not at all; errors as `new_file`."""
    refuse_existing(path, force)
    write_text(path, text)


def command(main: Callable[..., Any]) -> typer.Typer:
    """Return the command line of a function whose parameters are its options.

    Its help is the first paragraph of the docstring.
    """
    app = typer.Typer(add_completion=False)
    app.command(help=(main.__doc__ or "").partition("\n\n")[0])(main)
    return app


def run(main: Callable[..., Any] | typer.Typer) -> None:
    """Run a command line: log to stderr, turn a genobird error into one line and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        (main if isinstance(main, typer.Typer) else command(main))()
    except GenobirdError as error:
        typer.echo(f"error: {one_line(str(error))}", err=True)
        raise SystemExit(error.exit_code) from None
