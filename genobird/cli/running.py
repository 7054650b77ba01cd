"""What the verbs do around their work: open things, show progress, sum up."""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import typer

import genobird
from genobird.errors import UsageError, counted, one_line, quoted
from genobird.files import STDOUT
from genobird.genome.streams import whole
from genobird.names import deferred

if TYPE_CHECKING:
    from genobird.cli.options import Passes, Run
    from genobird.genome.fasta import Genome
    from genobird.scoring.scorer import Scorer

with deferred():
    from genobird import inference
    from genobird.genome import fasta
    from genobird.scoring import scorer as scorers

logger = logging.getLogger(__name__)
_GENOBIRD: Final = logging.getLogger("genobird")

# Seconds between plain lines of progress, where there is no terminal.
_PLAIN_SECONDS = 15.0

_words: ContextVar[tuple[str, ...]] = ContextVar("words", default=())
"""The command that is running, behind `genobird`."""


def open_genome(path: Path | str | None) -> Genome:
    """Open a FASTA file."""
    return fasta.Genome(str(path))


def open_scorer(
    model: Path | None, compute: Passes, precision: str = "float32", processes: int = 1
) -> Scorer:
    """Load a model as the options say; the bundled one by default.

    Raises:
        UsageError: the batch size is no number, or the precision is unknown; or several processes
            would have several threads each, or share a GPU.
    """
    if processes > 1 and (compute.threads or 1) > 1:
        raise UsageError(
            f"--processes {processes} and --threads {compute.threads} found; each of several "
            "processes computes with one thread, so leave --threads out"
        )
    size: int | Literal["auto"] = "auto"
    if compute.batch_size != "auto":
        number = whole(compute.batch_size)
        if number is None:
            raise UsageError(
                f"batch size {quoted(compute.batch_size)} found; auto or a number is allowed, "
                f"{scorers.MOST:,} at most"
            )
        size = number
    with _kept():
        exact = inference.precision_of(precision)
        scorer = scorers.load(
            model, compute.device, threads=compute.threads, batch_size=size, precision=exact
        )
    if processes > 1 and scorer.device.type != "cpu":
        raise UsageError(
            f"--processes {processes} and device {scorer.device} found; one process keeps a GPU "
            "busy: leave --processes out, or compute with --device cpu"
        )
    return scorer


@contextmanager
def _kept() -> Iterator[None]:
    """Look for no cycles while torch is loaded, nor later among what was there then: modules stay.

    This spares a tenth of the time of a short command. It is done once in a process: what a later
    command of the same process leaves behind is not kept.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def commanded(words: Sequence[str]) -> Iterator[None]:
    """Keep the words of a command, for what it writes into its outputs."""
    token = _words.set(tuple(words))
    try:
        yield
    finally:
        _words.reset(token)


def command_line() -> str:
    """Return the command as it was given, without --resume, which changes no result."""
    return shlex.join(["genobird", *(word for word in _words.get() if word != "--resume")])


def provenance() -> dict[str, Any]:
    """Return what made a result: version and command."""
    return {"genobird": genobird.__version__, "command": command_line()}


def origin(scorer: Scorer) -> dict[str, str]:
    """Return what made a table: version, model and command."""
    model = scorer.model_hash
    return {"version": genobird.__version__, "model": model, "command": command_line()}


@contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """Let genobird say nothing but warnings and errors in the block, if `quiet`."""
    level = _GENOBIRD.level
    if quiet:
        _GENOBIRD.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _GENOBIRD.setLevel(level)


def is_hushed() -> bool:
    """Tell whether nothing but warnings and errors is said."""
    return not _GENOBIRD.isEnabledFor(logging.INFO)


def tell(text: str, *, err: bool = True) -> None:
    """Say something about the work on standard error, or output, unless `--quiet` is given."""
    if not is_hushed():
        typer.echo(one_line(text), err=err)


def summarise(
    unit: str,
    summary: dict[str, Any],
    counts: Counter[str],
    scorer: Scorer | None,
    run: Run,
    began: float,
) -> None:
    """Tell at the end how many there were of each status, as a line or as JSON."""
    seconds = time.monotonic() - began
    to_stdout = STDOUT in (summary["output"], summary.get("table"))
    statuses = dict(sorted(counts.items(), key=lambda item: (item[0] != "OK", item[0])))
    if run.as_json:
        facts = {
            **summary,
            "statuses": statuses,
            **({"model": scorer.model_hash, "device": str(scorer.device)} if scorer else {}),
            "version": genobird.__version__,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(facts), err=to_stdout)
    else:
        listing = ", ".join(f"{status} {count:,}" for status, count in statuses.items())
        where = "standard output" if to_stdout else summary["output"]
        tell(f"{counted(counts.total(), unit)} in {seconds:.1f} s ({listing or 'none'}): {where}")


@contextmanager
def progress_of(unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far work is: a bar on a terminal, else a line now and then; not if `--quiet`."""
    if is_hushed():
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich import console, progress

        with progress.Progress(console=console.Console(stderr=True), transient=True) as bar:
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
