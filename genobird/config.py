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
            values = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds a {type(values).__name__}; a mapping is needed")
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind, path)) from error


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


def _explain(error: ValidationError, kind: type[BaseModel], path: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the configuration"
    where = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields(kind, first["loc"][:-1])))
        return f"{where}unknown key {key}; allowed here: {allowed}"
    return f"{where}{key}: {first['msg']}"


def _fields(kind: type[BaseModel], sections: Sequence[int | str]) -> set[str]:
    for section in sections:
        field = kind.model_fields.get(str(section))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            kind = annotation
    return set(kind.model_fields)
