"""How an evaluation is written down: its file, the names of its models, its figures, tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import TemplateError

from genobird.errors import GenobirdError, InputError
from genobird.names import deferred

with deferred():
    from genobird.baselines import train as baselines  # needs the extra of training

Facts = Mapping[str, Any]
# What facts of another shape raise.
_ODD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError)


def names() -> dict[str, str]:
    """Return what models are called, by their names in an evaluation."""
    return {
        **{name: model.title for name, model in baselines.MODELS.items()},
        "bert_512": "dense transformer of 512 tokens",
        "counts": "counts of neighbouring pieces alone",
    }


def name_of(model: str) -> str:
    """Return what a model is called; one that is not known keeps its name."""
    return names().get(model, model)


@contextmanager
def as_written(what: Path | str) -> Iterator[None]:
    """Tell by an InputError where facts are not such as genobird writes."""
    try:
        yield
    except GenobirdError:
        raise
    except _ODD as error:
        raise InputError(f"{what} is not as genobird writes it; make or fetch it again") from error


def read_table(path: Path, numbers: Sequence[str], sep: str = "\t") -> pd.DataFrame:
    """Read a table of text that has columns of these numbers.

    Raises:
        InputError: it is no table, or a column is missing or holds something else.
    """
    try:
        table = pd.read_csv(path, sep=sep)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no table: {' '.join(str(error).split())}") from error
    for name in numbers:
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path} has no column {name} of numbers; make it again")
    return table


def shown(interval: Mapping[str, float | None], *, signed: bool = False) -> str:
    """Write `low`, `point` and `high` as `point [low, high]`, or what there is of it."""
    if interval["low"] is None:
        return number(interval["point"], signed)
    point, low, high = (number(interval[k], signed) for k in ("point", "low", "high"))
    return f"{point} [{low}, {high}]"


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals, or two leading digits where three decimals would hide them."""
    if value is None:
        return "none"
    digits = 3 if value == 0 or abs(value) >= 0.01 else 1 - math.floor(math.log10(abs(value)))
    return f"{value:{'+' if signed else ''}.{min(digits, 6)}f}"


def listed(items: Iterable[str]) -> str:
    """Write items as `a, b and c`."""
    *first, last = list(items) or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(plain, cells))} |" for cells in lines)


def plain(text: str) -> str:
    """Write what somebody named as text that neither ends a cell nor is HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
