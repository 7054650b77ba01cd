"""Options: those that several verbs share, and how fields of settings become parameters.

A verb takes pydantic models, the command line takes their fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

import typer
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from genobird.cli.running import command_line, hushed
from genobird.config import COMMAS, Settings, flag_of, option
from genobird.files import STDOUT
from genobird.runs import Progress, Start, ignore

_STDOUT_FILES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def as_named(output: str | None) -> str | None:
    """Return `-` for the file that a system has for standard output."""
    return STDOUT if output in _STDOUT_FILES else output


Names = Annotated[Sequence[str] | None, COMMAS]
NAMED: Final = AfterValidator(as_named)
"""Marks the name of a file to write, or `-`."""

FASTA: Final = option("The genome: plain, gzip or BGZF.", "-f", default=...)
MODEL: Final = option("Model directory; the bundled one by default.", "-m")
FEATURES: Final = option(
    "Chromatin features, separated by commas: cells (K562), targets (CTCF), classes (TF) or names, "
    "as genobird info lists them; a name without its #number stands for all that differ only in "
    "that."
)
LIFTOVER: Final = option(
    "UCSC chain file from the assembly of the input to that of the FASTA; the output keeps the "
    "input's coordinates.",
    metavar="CHAIN",
)
TABLE: Final = option(".tsv, .tsv.gz, .parquet or -.", "-o", default=...)
DEVICE: Final = option("auto, cpu, cuda or cuda:N.", default="auto")
THREADS: Final = option("CPU threads; torch's choice by default.", ge=1)
FORCE: Final = option("Replace existing outputs.", default=False)
JSON: Final = option("Write JSON instead of text.", "--json", default=False)
QUIET: Final = option(
    "Nothing but warnings and errors, and what is asked for on standard output.",
    "-q",
    default=False,
)
OVERRIDES: Final = option("key=value or section.key=value; repeatable.", "--set", default=())


class Passes(Settings):
    """How a model computes."""

    device: str = DEVICE
    batch_size: str = option("Sequences per pass: auto or a number.", default="auto")
    threads: int | None = THREADS


class Compute(Passes):
    """How a model computes, and how exactly."""

    precision: str = option(
        "float32, or bf16: about twice as fast on processors that multiply bfloat16.",
        default="float32",
    )


class Run(Settings):
    """What a command does beside its work."""

    force: bool = FORCE
    quiet: bool = QUIET
    as_json: bool = option(
        "Summary as JSON on standard output; on standard error if data go there.",
        "--json",
        default=False,
    )


class ResumableRun(Run):
    """A run whose work is kept when it is interrupted, and may be shared by processes."""

    resume: bool = option(
        "Continue an interrupted run of the same command, if there is one.", default=False
    )
    processes: int = option(
        "Processes of one thread each that share the work, on a CPU.", default=1, ge=1, le=1024
    )

    def start(self, progress: Progress = ignore) -> Start:
        """Return how the run is started."""
        return Start(self.resume, self.force, command_line(), progress, self.processes)


class Made(Settings):
    """Where a result goes."""

    output: Path = option("Where to write.", "-o", default=...)
    force: bool = option("Replace an existing output.", default=False)
    quiet: bool = QUIET


class Configured(Made):
    """A result that has a configuration."""

    config: Path | None = option("YAML configuration.")
    overrides: tuple[str, ...] = OVERRIDES


def add(app: typer.Typer, name: str, verb: Callable[..., Any]) -> None:
    """Add a verb to the command.

    Each parameter of the verb that is a pydantic model becomes a parameter per field, see
    `config.option`; others are typer's.
    """
    models: dict[str, type[BaseModel]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            models[parameter.name] = kind
            parameters += [_parameter(*field) for field in kind.model_fields.items()]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(verb)
    def command(**given: Any) -> Any:
        for parameter, kind in models.items():
            values = {name: given.pop(name) for name in kind.model_fields}
            chosen = {name: value for name, value in values.items() if value is not None}
            given[parameter] = kind(**chosen)
        with hushed(any(getattr(given[parameter], "quiet", False) for parameter in models)):
            return verb(**given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}  # those of the verb
    app.command(name)(command)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the parameter that typer reads a field from."""
    extra: Any = field.json_schema_extra
    kind: Any = field.annotation
    default = inspect.Parameter.empty if field.is_required() else field.default
    if COMMAS in field.metadata:
        kind, default = str | None, None
    elif get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    limits = {
        limit: getattr(note, key)
        for note in field.metadata
        for key, limit in (("ge", "min"), ("le", "max"))
        if hasattr(note, key)
    }
    facts = {"help": field.description, "metavar": extra["metavar"], **limits}
    if "argument" in extra:
        info: Any = typer.Argument(**facts)
    else:
        long = (
            () if any(flag.startswith("--") for flag in extra["flags"]) else (flag_of(name, field),)
        )
        info = typer.Option(*long, *extra["flags"], **facts)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )
