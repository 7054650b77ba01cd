"""Whole numbers as they come: positions, lengths and counts, in text or from Python.

Digits are ASCII digits, 18 of them at most: any such number fits into 64 bits, and no contig is
longer. Nothing else in genobird reads a number of a genomic file.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Final

MOST_DIGITS: Final = 18
BEYOND: Final = 10**MOST_DIGITS
"""What stands for a position of more digits. It lies beyond the end of every contig."""


def whole(text: str) -> int | None:
    """Read a whole number from 0 on; None where the text is something else, or has more digits."""
    return int(text) if len(text) <= MOST_DIGITS and text.isascii() and text.isdigit() else None


def position(text: str) -> int | None:
    """Read a position; None where the text is none, `BEYOND` where it has more digits."""
    if len(text) <= MOST_DIGITS or not (text.isascii() and text.isdigit()):
        return whole(text)
    number = whole(text.lstrip("0") or "0")
    return BEYOND if number is None else number


def grouped(text: str) -> int | None:
    """Read a position that may have commas between its digits: `1,000`."""
    return position(text.replace(",", ""))


def position_of(value: object) -> int | None:
    """Read a cell of a table, or a value from Python, as a position.

    In a table with gaps a whole number may be a float: `20.0` is 20, in text too.

    Returns:
        The position; `BEYOND` where it is larger than that. None where it is no whole number from
        0 on, or is missing.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return min(int(value), BEYOND) if int(value) >= 0 else None
    if isinstance(value, Real):
        number = float(value)
        return min(int(number), BEYOND) if number >= 0 and number.is_integer() else None
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    digits, _, zeros = text.strip().partition(".")
    return None if zeros.strip("0") else position(digits)
