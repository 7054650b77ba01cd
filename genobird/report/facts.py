"""JSON that describes a model, or says what `evaluate` measured of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genobird.errors import InputError, UsageError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        UsageError: there is no such file.
        InputError: it is no JSON.
    """
    if not path.is_file():
        raise UsageError(f"there is no {path}")
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    return found
