"""What the verbs do around their work: open things, show progress, sum up."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

import genobird
from genobird.errors import UsageError, quoted

if TYPE_CHECKING:
    from genobird.genome.fasta import Genome
    from genobird.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

# Seconds between plain lines of progress, where there is no terminal.
_PLAIN_SECONDS = 15.0


def open_genome(path: Path | str | None) -> Genome:
    """Open a FASTA file."""
    from genobird.genome.fasta import Genome

    return Genome(str(path))


def open_scorer(
    model: Path | None,
    device: str,
    batch_size: str,
    threads: int | None,
    precision: str = "float32",
) -> Scorer:
    """Load a model as the options say.

    Raises:
        UsageError: the batch size is no number, or the precision is unknown.
    """
    from genobird.genome.position import whole
    from genobird.inference import precision_of
    from genobird.scoring.scorer import load

    size: int | Literal["auto"] = "auto"
    if batch_size != "auto":
        number = whole(batch_size)
        if number is None:
            raise UsageError(f"batch size {quoted(batch_size)} found; auto or a number is allowed")
        size = number
    exact = precision_of(precision)
    return load(model, device, threads=threads, batch_size=size, precision=exact)


def split_names(features: str | None) -> list[str] | None:
    """Read a list with commas; None stays None.

    Raises:
        UsageError: nothing is between the commas, as where a variable of a shell is not set.
    """
    if features is None:
        return None
    names = [text.strip() for text in features.split(",") if text.strip()]
    if not names:
        raise UsageError(
            f"a list {features!r} without names found; give names, or leave the option out"
        )
    return names


def command_line() -> str:
    """Return the command as it was given, without --resume, which changes no result."""
    return shlex.join(["genobird", *(text for text in sys.argv[1:] if text != "--resume")])


def summarise(
    unit: str,
    summary: dict[str, Any],
    counts: Counter[str],
    scorer: Scorer | None,
    began: float,
    data: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Say at the end how many there were of each status, as a line or as JSON."""
    seconds = time.monotonic() - began
    statuses = dict(sorted(counts.items(), key=lambda item: (item[0] != "OK", item[0])))
    if as_json:
        facts = {
            **summary,
            "statuses": statuses,
            **({"model": scorer.model_hash, "device": str(scorer.device)} if scorer else {}),
            "version": genobird.__version__,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(facts), err=data == "-")
    elif not quiet:
        listing = ", ".join(f"{status} {count:,}" for status, count in statuses.items())
        where = "standard output" if data == "-" else summary["output"]
        typer.echo(
            f"{counts.total():,} {unit} in {seconds:.1f} s ({listing or 'none'}): {where}", err=True
        )


@contextmanager
def progress_of(unit: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far work is: a bar on a terminal, else a line now and then."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(unit, total=total)
            yield lambda number: bar.advance(task, number)
    else:
        done, said = 0, time.monotonic()

        def line(number: int) -> None:
            nonlocal done, said
            done += number
            if time.monotonic() - said >= _PLAIN_SECONDS:
                said = time.monotonic()
                logger.info("%s %s%s", f"{done:,}", unit, f" of {total:,}" if total else "")

        yield line


def refuse_existing(output: Path, force: bool) -> None:
    """Refuse to write over something.

    Raises:
        UsageError: it exists and `force` is not given.
    """
    if output.exists() and not force:
        raise UsageError(f"{output} exists; choose another place or pass --force")


def refuse_same_file(
    outputs: Mapping[str, Path | str | None], inputs: Mapping[str, Path | str | None]
) -> None:
    """Refuse an output that is an input or another output: the one would replace the other.

    Args:
        outputs: what will be written, by how a message calls it; None and `-` are no file.
        inputs: what will be read.

    Raises:
        UsageError: two are the same file, also by way of links; also with --force.
    """
    taken: dict[object, str] = {}
    for name, path in (*inputs.items(), *outputs.items()):
        if path is None or str(path) == "-":
            continue
        file = _file_of(path)
        if name in outputs and file in taken:
            raise UsageError(
                f"{name} and {taken[file]} are the same file, {path}; name another one to write to"
            )
        taken[file] = name


def _file_of(path: Path | str) -> object:
    """Return what two names of one file have in common."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def provenance() -> dict[str, Any]:
    """Return what made a result: version and command."""
    return {"genobird": genobird.__version__, "command": command_line()}
