"""The `genobird` command: verbs are registered here, and errors caught once.

Exit codes: 0 ok, 1 bad data or a failed run, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import click
import typer

import genobird
from genobird.cli import house, scoring, training
from genobird.errors import GenobirdError

app = typer.Typer(
    name="genobird",
    help="BigBird for regulatory DNA: promoters, chromatin profiles, variant effects.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"genobird {genobird.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for part in (scoring, training, house):
    part.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: arguments without the program's name; default `sys.argv[1:]`.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    try:
        result = app(list(sys.argv[1:] if argv is None else argv), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GenobirdError as error:
        return _report(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader has left. Point stdout elsewhere, or the interpreter complains when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return _report(f"{error.strerror or error}{place}", 1)
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", 130)
    return result if isinstance(result, int) else 0


def _report(message: str, code: int) -> int:
    typer.echo(f"genobird: error: {message}", err=True)
    return code
