"""Columns: the names of chromatin features in tables, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from genobird.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


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


def select(columns: Sequence[str], table: pd.DataFrame, wanted: Sequence[str] | None) -> list[int]:
    """Return places of features, in model order.

    Args:
        columns: of all features.
        table: the checkpoint's, with columns `name` and `class`.
        wanted: columns, names or classes; None is all.

    Raises:
        UsageError: there is nothing of that name.
    """
    if wanted is None:
        return list(range(len(columns)))
    chosen: set[int] = set()
    for text in wanted:
        rows = zip(columns, table["name"], table["class"], strict=True)
        found = [
            place
            for place, (column, name, kind) in enumerate(rows)
            if text in (column, name) or text.lower() == str(kind).lower()
        ]
        if not found:
            kinds = sorted(set(table["class"]))
            near = get_close_matches(text, [*kinds, *columns], n=3, cutoff=0.5)
            hint = (
                f"did you mean {', '.join(near)}?"
                if near
                else f"classes are {', '.join(kinds)}, and genobird info lists all names"
            )
            raise UsageError(f"the model has no feature or class {text!r}; {hint}")
        chosen.update(found)
    return sorted(chosen)
