"""Columns: the names of chromatin features in tables, and which of them are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from genobird.errors import UsageError, quoted
from genobird.scoring.table import as_list

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"#[0-9]+$")
_SHOWN = 3


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Return the column of each feature of a model: its name; one that repeats, with its index.

    Args:
        table: the checkpoint's, with columns `name` and `index`.
    """
    repeated = table["name"].duplicated(keep=False)
    return [
        f"{name}#{index}" if again else str(name)
        for name, index, again in zip(table["name"], table["index"], repeated, strict=True)
    ]


def select(
    columns: Sequence[str], table: pd.DataFrame, wanted: str | Sequence[str] | None
) -> list[int]:
    """Return places of features, in model order.

    Args:
        columns: of all features.
        table: the checkpoint's, with columns `name` and `class`.
        wanted: columns, names (one without its `#number` is all that differ in that alone),
            classes, or the cell or target of names `cell|target|treatment`; one string is a list of
            one; None is all.

    Raises:
        UsageError: there is nothing of that name.
    """
    if wanted is None:
        return list(range(len(columns)))
    if not isinstance(wanted, Iterable):
        raise UsageError(f"{quoted(wanted)} is given as features; give names or classes")
    chosen: set[int] = set()
    for text in map(str, as_list(wanted)):
        rows = zip(columns, table["name"], table["class"], strict=True)
        found = [
            place
            for place, (column, name, kind) in enumerate(rows)
            if text in (column, name, _NUMBER.sub("", column), *name.split("|")[:2])
            or text.lower() == str(kind).lower()
        ]
        if not found:
            hint = _hint(text, columns, sorted(set(table["class"])))
            raise UsageError(f"the model has no feature or class {text!r}; {hint}")
        chosen.update(found)
    return sorted(chosen)


def _hint(text: str, columns: Sequence[str], kinds: Sequence[str]) -> str:
    """Say which names or classes an unknown one may have meant."""
    begin = [name for name in columns if text and name.lower().startswith(text.lower())]
    if len(begin) > _SHOWN:
        some = ", ".join(begin[:_SHOWN])
        return f"{len(begin)} names begin so, such as {some}; genobird info lists all names"
    near = begin or get_close_matches(text, [*kinds, *columns], n=_SHOWN, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"classes are {', '.join(kinds)}, and genobird info lists all names"
