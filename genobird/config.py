"""One pydantic configuration a command, from a YAML file and `--set key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from genobird.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)


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
            loaded = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
        values = {} if loaded is None else loaded
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds a {type(values).__name__}; a mapping is needed")
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = f"{path}: " if path else ""
        raise ConfigError(where + explain(error, kind)) from error


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


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say in one line what is wrong with the values of a pydantic model, and what is allowed."""
    # A misspelt key makes another one missing: it is the one to name.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields(kind, first["loc"][:-1])))
        return f"unknown key {key}; allowed here: {allowed}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _fields(kind: type[BaseModel], sections: Sequence[int | str]) -> set[str]:
    for section in sections:
        field = kind.model_fields.get(str(section))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            kind = annotation
    return set(kind.model_fields)
