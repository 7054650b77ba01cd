"""One pydantic configuration a command, from a YAML file and `--set key=value` overrides."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from genobird.errors import ConfigError, UsageError, quoted

Config = TypeVar("Config", bound=BaseModel)

MOST_SEED: Final = (1 << 63) - 1
GIVE: Final = "; give it as {key}=..."
_LISTS: Final = "list_type", "tuple_type"
_JSON: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(defer_build=True))


class Strict(BaseModel):
    """Base of what is configured: unknown keys and numbers without end are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Settings(BaseModel):
    """Base of the arguments of a verb, or of a function: fields on the command line and in Python.

    Raises:
        UsageError: a value is missing, unknown or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(explain(error, type(self), GIVE)) from error


def option(
    text: str,
    *flags: str,
    default: Any = None,
    metavar: str | None = None,
    ge: float | None = None,
    le: float | None = None,
) -> Any:
    """Return a field of settings that is an option on the command line.

    Args:
        text: what it means; the help of the option.
        flags: a short name such as `-o`, or another long one than the field's.
        default: `...` where it is required.
        metavar: what the value is called in the help; default its type.
        ge: smallest value.
        le: largest value.
    """
    extra: Any = {"flags": flags, "metavar": metavar}
    return Field(default, description=text, ge=ge, le=le, json_schema_extra=extra)


def argument(text: str, metavar: str | None = None, default: Any = ...) -> Any:
    """Return a field of settings that is an argument on the command line, given by its place."""
    extra: Any = {"argument": True, "metavar": metavar}
    return Field(default, description=text, json_schema_extra=extra)


def flag_of(name: str, field: FieldInfo) -> str:
    """Return what the option of a field is called, without the name that turns it off."""
    extra: Any = field.json_schema_extra
    long = (flag.partition("/")[0] for flag in extra["flags"] if flag.startswith("--"))
    return next(long, f"--{name.replace('_', '-')}")


def split_names(names: str | Sequence[str] | None) -> Sequence[str] | None:
    """Read a list with commas; what is a list already, or None, stays as it is.

    Raises:
        UsageError: nothing is between the commas, as where a variable of a shell is not set.
    """
    if not isinstance(names, str):
        return names
    found = [text.strip() for text in names.split(",") if text.strip()]
    if not found:
        raise UsageError(
            f"a list {names!r} without names found; give names, or leave the option out"
        )
    return found


COMMAS: Final = BeforeValidator(split_names)
"""Marks a field that holds a list, and is one text with commas on the command line."""


def load_config(kind: type[Config], path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        kind: the pydantic model.
        path: YAML file; None for the defaults.
        overrides: `key=value` or `section.key=value`; the value is read as YAML.

    Raises:
        ConfigError: a missing file, no mapping, an unknown key, a value out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"there is no configuration file {path}")
        try:
            loaded = yaml.load(path.read_text(), _Once)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no YAML: {_fault(error)}") from error
        values = {} if loaded is None else loaded
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds a {type(values).__name__}; a mapping is needed")
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = f"{path}: " if path else ""
        remedy = "; give it in --config FILE or with --set {key}=..."
        raise ConfigError(where + explain(error, kind, remedy)) from error


def settings_of(kind: type[Config], given: BaseModel | None, values: Mapping[str, Any]) -> Config:
    """Return settings that were given in Python: as a model, as single values, or as both.

    Args:
        kind: the pydantic model.
        given: settings of this kind, or of one that it extends; None for the defaults.
        values: fields that replace those of `given`; sections may be mappings.

    Raises:
        ConfigError: an unknown or missing field, or a value out of range.
    """
    try:
        return kind.model_validate({**dict(given or ()), **values})
    except ValidationError as error:
        raise ConfigError(explain(error, kind, GIVE)) from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r} is not of the form key=value")
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section} is no section")
    try:
        values[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is no YAML") from error
    except (ValueError, RecursionError) as error:  # of 2020-13-45, or an integer of 5,000 digits
        raise ConfigError(f"--set {quoted(override)}: the value is no YAML: {error}") from error


class _Once(yaml.SafeLoader):
    """Refuses a key that is given twice: of two values YAML's takes the last, and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            problem = f"{quoted(twice[0])} is given twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _fault(error: Exception) -> str:
    """Say in one line what is no YAML, and where: lines and columns count from 1."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).splitlines()[0]


def explain(error: ValidationError, kind: type[BaseModel], remedy: str = "") -> str:
    """Say in one line what is wrong with the values of a pydantic model, and what is allowed.

    Args:
        error: what pydantic found.
        kind: the model.
        remedy: what to add where a key is missing; `{key}` in it stands for the key.
    """
    # A misspelt key makes another one missing: it is the one to name.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields(kind, first["loc"][:-1])))
        return " ".join(f"unknown key {key}; allowed here: {allowed}".split())
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] in _LISTS:
        message = "Input should be a list, as in [a, b]"
    if first["type"] == "missing" or (first["input"] is None and first["type"] != "value_error"):
        message = "Field required" + remedy.format(key=key)
    return " ".join((f"{key}: {message}" if key else message).split())


def _fields(kind: type[BaseModel], sections: Sequence[int | str]) -> set[str]:
    """The keys of the model in some section, through models, lists and mappings of models."""
    found: Any = kind
    for section in sections:
        if section in getattr(found, "model_fields", ()):
            found = found.model_fields[section].annotation
            if type(None) in get_args(found):
                found = get_args(found)[0]  # of Model | None
        elif get_args(found):
            found = get_args(found)[-1]  # of dict[str, Model] or list[Model]
    return set(getattr(found, "model_fields", ()))


def described(kind: type[BaseModel], free: Mapping[str, type[BaseModel]] | None = None) -> str:
    """Write a configuration as YAML with all defaults, each field under a comment that explains it.

    Args:
        kind: the pydantic model.
        free: for fields that hold free changes to another model, that model; its fields are listed
            as comments.

    Returns:
        Lines that `load_config` reads once what is `null  # required` has a value.
    """
    return "\n".join(_lines(kind, free or {})) + "\n"


def _lines(
    kind: type[BaseModel], free: Mapping[str, type[BaseModel]], values: BaseModel | None = None
) -> Iterator[str]:
    """Write fields, with the values that a section has by default where it has its own."""
    for name, field in kind.model_fields.items():
        required = values is None and field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        value = default if values is None else getattr(values, name)
        text = field.description or ""
        yield from textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")
        if required:
            yield f"{name}: null  # required"
        elif isinstance(value, BaseModel):
            yield f"{name}:"
            yield from (f"  {line}" for line in _lines(type(value), free, value))
        elif name in free:
            yield f"{name}: {{}}"
            yield from (f"  # {line.removeprefix('# ')}" for line in _lines(free[name], {}))
        else:
            shown = yaml.safe_dump({name: _JSON.dump_python(value, mode="json")})
            yield from shown.strip().splitlines()
