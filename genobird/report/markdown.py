"""Pieces of Markdown: tables, figures with their intervals, lists in prose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence


def shown(interval: Mapping[str, float | None], *, signed: bool = False) -> str:
    """Write `low`, `point` and `high` as `point [low, high]`."""
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
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
