"""The `genobird` command: verbs are listed here, and errors caught once.

Exit codes: 0 ok, 1 bad data or a failed run, 2 misuse, 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import genobird
from genobird.cli.running import commanded
from genobird.errors import GenobirdError, UsageError, one_line
from genobird.names import deferred, missing

with deferred():
    from genobird.cli import options  # loads pydantic, which not every TAB needs

INTERRUPTED = 130
DEBUG, DEBUG_VARIABLE = "--debug", "GENOBIRD_DEBUG"
# Characters of a message that nobody wrote for users.
_MOST_TEXT = 300
_alone = threading.RLock()  # a command logs, loads verbs and tells its words for the whole process


VERBS: Final = {
    "score": "scoring.score",
    "variants": "variants.variants",
    "variants merge": "variants.merge",
    "mutagenesis": "scoring.mutagenesis",
    "corpus": "training.corpus",
    "shards": "training.shards",
    "pretrain": "training.pretrain",
    "baselines": "training.baselines",
    "evaluate": "training.evaluate",
    "card": "training.card",
    "import-hf": "models.import_hf",
    "export-hf": "models.export_hf",
    "build-db": "background.build_db",
    "serve": "reports.serve",
    "demo": "reports.demo",
    "report": "reports.report",
    "report multiqc": "reports.report_multiqc",
    "info": "models.info",
    "schema": "schema.schema",
    "doctor": "models.doctor",
    "background build": "background.build",
    "background info": "background.info",
    "compat kipoi-veff2": "compat.kipoi_veff2",
    "compat selene": "compat.selene",
    "tokenizer train": "training.tokenizer_train",
    "tokenizer encode": "training.tokenizer_encode",
    "tokenizer info": "training.tokenizer_info",
    "finetune chromatin": "training.finetune_chromatin",
    "finetune mlm": "training.finetune_mlm",
    "finetune promoter": "training.finetune_promoter",
    "finetune table": "training.finetune_table",
}
"""Modules of `genobird.cli` and functions in them, by name."""
GROUPS: Final = {
    "background": "Effects among variants such as common ones, to compare others with.",
    "compat": "Variant tables as older tools write them.",
    "tokenizer": "Train and use SentencePiece tokenizers.",
    "finetune": "Train a head of a model.",
}
"""What the first word of some verbs has in common; `variants` is a verb itself."""


class Verbs(TyperGroup):
    """Verbs of one word and of two; each is loaded when it is asked for, not with the others."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs that are no part of a group, then the groups."""
        return [*(name for name in VERBS if name.split()[0] not in GROUPS), *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb or a group, or None."""
        if cmd_name not in self.commands and cmd_name in self.list_commands(ctx):
            self.commands[cmd_name] = _built(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Take the first two words as one where there is such a verb: `variants merge SHARD...`."""
        known, words = self.list_commands(ctx), " ".join(args[:2])
        if args[0] not in known:
            for name in known:  # to tell which are like it
                self.get_command(ctx, name)
        return super().resolve_command(ctx, [words, *args[2:]] if words in known else args)


def load_verb(name: str) -> Callable[..., Any]:
    """Return the function of a verb."""
    module, _, function = VERBS[name].partition(".")
    verb: Callable[..., Any] = getattr(import_module(f"genobird.cli.{module}"), function)
    return verb


def _built(name: str) -> Any:
    """Load a verb, or the verbs of a group."""
    part = typer.Typer(
        name=name,
        help=GROUPS.get(name),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
    )
    for verb in VERBS:
        if verb == name or (name in GROUPS and verb.startswith(f"{name} ")):
            options.add(part, verb.removeprefix(f"{name} "), load_verb(verb))
    return typer.main.get_command(part)


app = typer.Typer(
    name="genobird",
    cls=Verbs,
    help="Predict promoters, chromatin profiles and effects of variants from DNA sequence.",
    no_args_is_help=True,
    context_settings={"max_content_width": 100},
    rich_markup_mode=None,  # plain text reads well everywhere, and costs no import
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
    debug: Annotated[  # taken by `main`, so that it may also stand behind the verb
        bool, typer.Option(DEBUG, help="Show tracebacks of faults in genobird.")
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; of several threads one runs at a time, others wait.

    Raises:
        Exception: what genobird did not foresee, with `--debug` or GENOBIRD_DEBUG in the
            environment.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in given or bool(os.environ.get(DEBUG_VARIABLE))
    words = [word for word in given if word != DEBUG]
    with _alone, _log_to_stderr(), commanded(given):
        try:
            return _run(words)
        except Exception as error:
            if debug:
                raise
            return _report(_unforeseen(error, words), 1)


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show what genobird logs, for the length of a command and no longer."""
    logger = logging.getLogger("genobird")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _run(argv: list[str]) -> int:
    try:
        _require_text(argv)
        result = app(argv, prog_name=app.info.name, standalone_mode=False)
    except typer.TyperException as error:
        return _misuse(error.format_message())
    except GenobirdError as error:
        return _report(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        fault = missing(error, f"genobird {argv[0]}")
        if fault is None:
            raise
        return _report(str(fault), fault.exit_code)
    except BrokenPipeError:
        # The reader has left. Point stdout elsewhere, or the interpreter complains when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return _report(f"{error.strerror or error}{place}", 1)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    if result == INTERRUPTED:
        return _report("interrupted", INTERRUPTED)
    return result if isinstance(result, int) else 0


def _require_text(words: Sequence[str]) -> None:
    """Refuse words before work begins that would be taken for something else.

    Htslib, Arrow and others need UTF-8, and a path without letters is the folder where one is.
    """
    for before, word in zip((app.info.name, *words), words, strict=False):
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1):
            raise UsageError(
                f"nothing is given behind {word or before}, as where a variable of a shell is not "
                "set; give a value, or leave the option out"
            )
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"argument {word!a} is no valid UTF-8; rename that file or folder, or make a "
                "link to it"
            ) from None


def _unforeseen(error: Exception, words: Sequence[str]) -> str:
    """Say in one line what failed where, and what to do."""
    package = Path(genobird.__file__).parent
    step = ""
    for frame in traceback.extract_tb(error.__traceback__):
        place = Path(frame.filename)
        if place.is_relative_to(package):
            step = f" at {place.relative_to(package)}, line {frame.lineno} ({frame.name})"
    verb = " ".join(["genobird", *words[:1]])
    # where the system refuses memory, torch raises a plain RuntimeError
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"{verb} needs more memory than there is{step}; try a smaller --batch-size or input"
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_TEXT].rstrip(":")
    return (
        f"{verb} failed{step}: {text}; this is a fault of genobird: please report this line and "
        f"the input that leads to it, {DEBUG} shows the whole traceback"
    )


def _misuse(message: str) -> int:
    if message.startswith("Usage: "):  # a group of verbs without a verb: its help
        typer.echo(message, err=True)
        return 2
    message = message.rstrip(".").replace("'", "").replace("Value error, ", "")
    return _report(f"{message[:1].lower()}{message[1:]}; see --help", 2)


def _report(message: str, code: int) -> int:
    typer.echo(f"genobird: error: {one_line(message)}", err=True)
    return code
