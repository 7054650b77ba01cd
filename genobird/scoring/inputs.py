"""Inputs given in Python: rows of tables, regions, sequences.

A row may be a tuple, a list or an array, whose cells come in a fixed order; or a dict, a row of a
frame, a named tuple, a record of NumPy or of pysam, whose cells have names. Sequences are strings,
or what Biopython makes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from Bio.Seq import MutableSeq, Seq, UndefinedSequenceError

from genobird.errors import InputError, SequenceError, TableError, UsageError, quoted
from genobird.genome.interval import Interval, one_region, read_intervals, strand_of
from genobird.genome.streams import position_of

_ALIASES = {"alts": "alt"}  # as pysam calls them
_SEVERAL = (list, tuple, set, np.ndarray, pd.Series)


@dataclass(frozen=True, slots=True)
class Columns:
    """What rows of one kind hold: a contig, a position, and more."""

    what: str
    """What the rows are, for messages."""
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    hint: str
    """What to give, for messages."""

    def places(self, names: Sequence[str]) -> list[int] | None:
        """Return where the needed columns are among these; None where one is missing."""
        plain = [plain_name(name) for name in names]
        known = set(self.needed) <= set(plain)
        return [plain.index(name) for name in self.needed] if known else None

    def frame_of(self, given: object) -> pd.DataFrame | None:
        """Return a frame, also of a dict of columns (TableError: not of one length); else None."""
        if isinstance(given, Mapping) and any(
            plain_name(name) == self.needed[0] and isinstance(cells, _SEVERAL)
            for name, cells in given.items()
        ):
            try:
                return pd.DataFrame(given)
            except ValueError as error:
                raise TableError(f"the {self.what} are no table: {error}") from None
        return given if isinstance(given, pd.DataFrame) else None

    def of_frame(self, frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
        """Yield the cells of each row: the needed ones, then the optional ones, None without.

        Raises:
            TableError: a needed column is missing.
        """
        found = self._named([(name, place) for place, name in enumerate(frame.columns)])
        columns = (
            [None] * len(frame) if place is None else frame.iloc[:, place].tolist()
            for place in found
        )
        return zip(*columns, strict=True)

    def of(self, row: object) -> Sequence[Any] | None:
        """Return the cells of one row, as `of_frame` does; None where it is no row.

        Raises:
            TableError: a row with names misses a needed one.
        """
        if isinstance(row, pd.Series) and row.index.inferred_type == "string":
            return self._named(list(row.items()))
        if isinstance(row, Mapping):
            return self._named(list(row.items()))
        if isinstance(row, np.void) and row.dtype.names:
            return self._named([(name, row[name]) for name in row.dtype.names])
        if isinstance(row, tuple) and hasattr(row, "_asdict"):
            return self._named(list(row._asdict().items()))
        if all(hasattr(row, name) for name in self.needed[:2]):
            names = [*self.needed, *self.optional, *_ALIASES]
            return self._named([(name, getattr(row, name)) for name in names if hasattr(row, name)])
        if isinstance(row, pd.Series) or (isinstance(row, np.ndarray) and row.ndim == 1):
            row = row.tolist()
        if isinstance(row, Sequence) and not isinstance(row, str | bytes):
            missing = len(self.needed) + len(self.optional) - len(row)
            if 0 <= missing <= len(self.optional):
                return [*row, *[None] * missing]
        return None

    def listed(self, given: object) -> Iterable[Any]:
        """Return what was given as a list, one row as a list of one; UsageError if it is none."""
        if self._is_row(given):
            return [given]
        is_scalar = isinstance(given, bytes) or (isinstance(given, np.ndarray) and given.ndim == 0)
        if is_scalar or not isinstance(given, Iterable):
            raise UsageError(f"{quoted(given)} is given as {self.what}; {self.hint}")
        return given

    def _is_row(self, given: object) -> bool:
        if isinstance(given, pd.Series):
            return set(self.needed) <= set(map(plain_name, given.index))
        if isinstance(given, Mapping):
            return True
        if isinstance(given, Iterator):
            return False
        cells = self.of(given)
        return cells is not None and position_of(cells[1]) is not None

    def _named(self, cells: Sequence[tuple[object, Any]]) -> list[Any]:
        plain = {plain_name(name): cell for name, cell in reversed(cells)}  # the first one counts
        missing = [name for name in self.needed if name not in plain]
        if missing:
            raise TableError(f"the {self.what} have no column {', '.join(missing)}; {self.hint}")
        return [plain.get(name) for name in (*self.needed, *self.optional)]


def plain_name(name: object) -> str:
    """Return the name of a column without what makes no difference."""
    plain = str(name).strip().lstrip("\ufeff#").lower()
    return _ALIASES.get(plain, plain)


def text_of(cell: object) -> str:
    """Return the text of a cell; a missing one is empty, and 20.0, of a column with gaps, is 20.

    Raises:
        TableError: it holds several values.
    """
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace").strip()
    if isinstance(cell, (*_SEVERAL, Mapping)):
        raise TableError(f"{quoted(cell)} is found where one value is needed")
    if pd.api.types.is_scalar(cell) and pd.isna(cast(Any, cell)):
        return ""
    if isinstance(cell, Real) and not isinstance(cell, Integral) and float(cell).is_integer():
        return str(int(float(cell)))
    return str(cell).strip()


def texts_of(cell: object) -> list[str]:
    """Return the texts of a cell: separated by commas, or the items of a list."""
    items = cell if isinstance(cell, _SEVERAL) else [cell]
    return [text for item in items for text in text_of(item).split(",")] or [""]


Region = Interval | str | Sequence[Any] | Mapping[str, Any]
"""An interval, a string as `chr20:1,001-2,000`, or a row of `(chrom, start, end)` and perhaps name
and strand, 0-based half-open; see `Columns`."""
Regions = Path | str | pd.DataFrame | Mapping[str, Any] | Interval | Iterable[Region]

_ROWS = Columns(
    "regions",
    ("chrom", "start", "end"),
    ("name", "strand"),
    "needed are chrom, start (0-based) and end, name and strand are optional; or strings as "
    "chr20:1,000-2,000",
)


def read_regions(regions: Regions) -> list[Interval]:
    """Read regions of any kind; see `score_regions`. `-` is BED on standard input.

    Raises:
        BedError, TableError, UsageError: they cannot be read.
    """
    if isinstance(regions, Path | str):
        return read_intervals(regions)
    if isinstance(regions, Interval):
        return [regions]
    if (frame := _ROWS.frame_of(regions)) is not None:
        rows = enumerate(_ROWS.of_frame(frame))
        return [_from_cells(row, f"row {number} of the regions") for number, row in rows]
    return list(map(region_of, _ROWS.listed(regions)))


def region_of(region: Interval | str | Sequence[Any] | Mapping[str, Any]) -> Interval:
    """Read one of a list of regions; UsageError or TableError for what is none."""
    if isinstance(region, Interval):
        return region
    if isinstance(region, str):
        return one_region(region)
    cells = _ROWS.of(region)
    if cells is None:
        raise UsageError(
            f"{quoted(region)} is among the regions; give intervals, or strings as "
            "chr20:1,000-2,000, or rows of (chrom, start, end), 0-based half-open"
        )
    return _from_cells(cells, f"region {quoted(tuple(cells))}")


def _from_cells(row: Sequence[Any], where: str) -> Interval:
    """Read chrom, start (0-based), end, perhaps name and strand; TableError for no region."""
    try:
        contig, name, strand = text_of(row[0]), text_of(row[3]), text_of(row[4])
        if not contig:
            raise InputError("chrom is empty; each row needs chrom, start and end")
        start, end = _whole(row[1], "start"), _whole(row[2], "end")
        return Interval(contig, start, end, strand_of(strand or "."), name)
    except InputError as error:
        raise TableError(f"{where}: {error}") from None


def _whole(value: object, title: str) -> int:
    place = position_of(value)
    if place is None:
        text = text_of(value)
        found = f"{quoted(text)} is no whole number" if text else "is empty"
        raise InputError(f"{title} {found}; give whole numbers from 0 on, start 0-based")
    return place


Sequences = Any
"""A list, array, Series or dict of sequences; or one sequence, which is a list of one.

A sequence is a string, bytes, a `Seq`, or a record that holds one of these, such as a `SeqRecord`.
"""

_HINT = "give strings, Seq or SeqRecord of Biopython, or a list or dict of these"
# What records call their sequence and their name: those of Biopython, pyfaidx and pysam.
_TEXTS, _NAMES = ("seq", "sequence"), ("id", "name")
_BYTES = bytes | bytearray | memoryview


def named_sequences(sequences: Sequences) -> Iterator[tuple[str, str]]:
    """Yield name and text of each sequence.

    A dict and a Series name them by their keys, a record by its id; others are numbered from 0.

    Raises:
        UsageError: there is something else.
        SequenceError: a sequence of Biopython has a length alone.
    """
    if _text(sequences) is not None:
        sequences = [sequences]
    if isinstance(sequences, pd.DataFrame) or not isinstance(sequences, Iterable):
        raise UsageError(f"{quoted(sequences)} is given as sequences; {_HINT}")
    keyed = isinstance(sequences, Mapping | pd.Series)
    items: Any = sequences
    for key, item in items.items() if keyed else enumerate(items):
        text = _text(item)
        if text is None:
            raise UsageError(f"{quoted(item)} is given as sequence {key}; {_HINT}")
        yield str(key if keyed else _first(item, _NAMES, key)), text


def _text(item: object) -> str | None:
    held = item if isinstance(item, str | _BYTES) else _first(item, _TEXTS, item)
    if isinstance(held, _BYTES):
        return bytes(held).decode("latin-1")
    try:
        return str(held) if isinstance(held, str | Seq | MutableSeq) else None
    except UndefinedSequenceError:
        raise SequenceError(f"{quoted(held)} has a length, but no letters; read it whole") from None


def _first(item: object, names: Iterable[str], default: object) -> object:
    """Return the first of these attributes that is there."""
    return next((getattr(item, name) for name in names if hasattr(item, name)), default)
