"""Regions to score, read from any kind of input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from genobird.errors import InputError, TableError, UsageError, quoted
from genobird.genome.interval import Interval, read_intervals, strand_of
from genobird.genome.position import position_of
from genobird.scoring.rows import Columns, text_of

Listed = Interval | str | Sequence[Any] | Mapping[str, Any]
"""An interval, a string as `chr20:1,001-2,000`, or a row of `(chrom, start, end)` and perhaps name
and strand, 0-based half-open; see `rows`."""
Regions = Path | str | pd.DataFrame | Mapping[str, Any] | Interval | Iterable[Listed]

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
    if isinstance(regions, Path | str | Interval):
        return read_intervals(regions)
    if (frame := _ROWS.frame_of(regions)) is not None:
        return list(_from_rows(_ROWS.of_frame(frame)))
    return list(map(region_of, _ROWS.listed(regions)))


def region_of(region: Interval | str | Sequence[Any] | Mapping[str, Any]) -> Interval:
    """Read one of a list of regions.

    Raises:
        UsageError, TableError: it is none.
    """
    if isinstance(region, Interval | str):
        return read_intervals([region])[0]
    cells = _ROWS.of(region)
    if cells is None:
        raise UsageError(
            f"{quoted(region)} is among the regions; give intervals, or strings as "
            "chr20:1,000-2,000, or rows of (chrom, start, end), 0-based half-open"
        )
    return _from_cells(cells, f"region {quoted(tuple(cells))}")


def _from_rows(rows: Iterable[Sequence[Any]]) -> Iterator[Interval]:
    for number, row in enumerate(rows):
        yield _from_cells(row, f"row {number} of the regions")


def _from_cells(row: Sequence[Any], where: str) -> Interval:
    """Read the cells chrom, start (0-based), end, name and strand; the last two may be missing.

    Raises:
        TableError: they are no region.
    """
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
