"""Settings -> parameters: a verb takes pydantic models, the command line takes their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from genobird.config import COMMAS


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
        long = () if any(flag.startswith("--") for flag in extra["flags"]) else (_flag(name),)
        info = typer.Option(*long, *extra["flags"], **facts)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
