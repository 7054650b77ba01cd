"""What a report says about score tables of any length, gathered in one pass.

Enters pieces of a region table or of a variant table, as `genobird score` and `genobird variants`
write them; leaves counts and the rows that stand out. Memory is that of one piece and of one number
per region.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pandas.api.types import is_scalar

from genobird.columns import (
    EVALUE,
    FLAGS,
    LLR,
    LLR_SE,
    PROMOTER,
    REGION_KEYS,
    REGION_LIFTED,
    VARIANT_KEYS,
    VARIANT_LIFTED,
    outputs_in,
)
from genobird.errors import TableError, UsageError, counted, quoted
from genobird.genome.interval import STRANDS, RegionStatus
from genobird.genome.streams import Compression, Peeked, compression_of, lines
from genobird.genome.variant import Status
from genobird.report.plots import short
from genobird.targets import MARK

STRONGEST = 5
"""Features of a variant that are kept."""
BACKGROUND = "background"
"""A region whose name begins so is shown as a place to compare with, not as a promoter."""

_OK = "OK"
_TEXT = ("chrom", "name", "strand", "ref", "alt", "id", "status", FLAGS)
# What a table of older versions has too: no flags, and no ids.
_OF_REGION = tuple(key for key in REGION_KEYS if key != FLAGS)
_OF_VARIANT = tuple(key for key in VARIANT_KEYS if key not in (FLAGS, "id"))
_NO_FEATURES = (*REGION_KEYS, *REGION_LIFTED)
_LARGEST = 10**18  # of a position; no genome comes near
_LARGEST_SCORE = float(np.finfo(np.float32).max)  # in which scores are written
_PIECE = 4096
_QUOTED = re.compile(r'(?<![^\t])"[^"]*(?:""[^"]*)*"')  # a whole cell
_WANTED = "give the table of genobird score or of genobird variants --table"
# A quarter of a power of ten each, down to what a background of millions can tell.
_THRESHOLDS = 10.0 ** (-np.arange(29) / 4)
_RANKS = {EVALUE: True, "size": False}  # the smallest E-values, then the largest effects


@dataclass(frozen=True, eq=False)
class Summary:
    """What is counted in a table."""

    statuses: dict[str, int]
    """Rows by status, most frequent first; those of a variant table are ALTs."""
    flags: dict[str, int]
    """Rows by flag."""

    @property
    def total(self) -> int:
        """Rows of the table."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Rows with status OK."""
        return self.statuses.get(_OK, 0)


@dataclass(frozen=True, eq=False)
class RegionSummary(Summary):
    """What stands out in a region table."""

    promoter: NDArray[np.float64]
    """Promoter probabilities of the scored rows that are no background."""
    background: NDArray[np.float64]
    """The same of the background."""
    top: pd.DataFrame
    """The scored rows with the highest promoter probability, best first; in their order where the
    model has no promoter head (`promoter` is NaN then)."""
    features: list[str]
    """Names of the chromatin columns."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a variant does to one output; logits."""

    name: str
    ref: float
    alt: float
    delta: float
    quantile: float
    """Share of the background with a smaller effect; NaN where the table does not say."""


@dataclass(frozen=True, eq=False)
class Rarity:
    """How many ALTs have small E-values."""

    thresholds: NDArray[np.float64]
    """E-values, falling from 1."""
    counts: NDArray[np.int64]
    """ALTs at or below each."""
    total: int
    """ALTs with an E-value."""


@dataclass(frozen=True, eq=False)
class VariantSummary(Summary):
    """What stands out in a variant table."""

    top: pd.DataFrame
    """The rows with the smallest E-value, or, of equal ones and where the table has none, the
    largest difference of any chromatin feature: the keys, `feature` with its `delta`, `effects` (of
    the features that differ most, a list), `evalue`, `promoter`, `llr` and its standard error
    `llr_se` (NaN where the table has none), `id` and `flags` (empty where the table has none) and
    the columns of the place that REF was lifted to, where there are."""
    rarity: Rarity | None = None
    """How many E-values are small; None where the table has none."""


Gathered = TypeVar("Gathered", bound=Summary)


class _RowsError(TableError):
    """Rows are wrong, or their heading; they do not know the file that they are of."""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except _RowsError as error:
        raise TableError(f"{path}, {error}") from None  # one of two tables, or of many


def summary_of(path: Path, summarise: Callable[[Iterable[pd.DataFrame]], Gathered]) -> Gathered:
    """Read a table and gather it; see `read_pieces` and the two ways to summarise.

    Raises:
        UsageError: there is no such file.
        TableError: it cannot be read as a table, lacks a column, or a value is none that it can
            hold.
    """
    with _naming(path):
        return summarise(read_pieces(path))


def read_pieces(path: Path, only: Sequence[str] = ()) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table in pieces, numbered from 0 on; TSV unless the name says `.parquet`.

    Args:
        path: the table.
        only: the columns that are wanted, where they are there; none is all.

    Raises:
        UsageError: there is no such file.
        TableError: it cannot be read as a table.
    """
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {found}; check the path")
    _require_rows(path)
    try:
        yield from (_of_parquet if path.suffix == ".parquet" else _of_text)(path, only)
    except TableError:  # of its lines, and says so
        raise
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise TableError(f"{path} cannot be read as a table: {reason}; {_WANTED}") from error


def _of_parquet(path: Path, only: Sequence[str]) -> Iterator[pd.DataFrame]:
    rows = 0
    with pq.ParquetFile(path) as file:
        _require_once(file.schema_arrow.names)
        for batch in file.iter_batches(_PIECE, columns=only or None):
            piece = batch.to_pandas()
            piece.index = pd.RangeIndex(rows, rows := rows + len(piece))
            yield piece
        if not rows:  # its columns tell all the same what it is
            yield file.read(only or None).to_pandas()


def _of_text(path: Path, only: Sequence[str]) -> Iterator[pd.DataFrame]:
    # Of these pandas makes other names, and of cells that are missing empty ones.
    _require_once(
        pd.read_csv(path, sep="\t", header=None, nrows=1, dtype=str, na_filter=False).iloc[0]
    )
    widths = _widths(lines(path, TableError))
    wanted = next(widths)
    with pd.read_csv(
        path,
        sep="\t",
        dtype=dict.fromkeys(_TEXT, str),
        keep_default_na=False,
        na_values=[""],
        usecols=only.__contains__ if only else None,
        chunksize=_PIECE,
        low_memory=False,
    ) as pieces:
        for piece in pieces:
            if not isinstance(piece.index, pd.RangeIndex):
                raise ValueError("its rows have more cells than its heading")
            for row, width in zip(piece.index, islice(widths, len(piece)), strict=False):
                if width < wanted:
                    raise ValueError(f"row {row + 1:,} has {width:,} of {counted(wanted, 'cell')}")
            yield piece


def _require_once(names: Iterable[str]) -> None:
    columns = pd.Index(names)
    if not columns.is_unique:
        raise ValueError(f"it has two columns {quoted(columns[columns.duplicated()][0])}")


def _widths(text: Iterable[str]) -> Iterator[int]:
    """Yield how many cells each row has; one in quotes may hold tabs and line feeds."""
    row = ""
    for line in text:
        row += line
        bare = _QUOTED.sub("", row) if '"' in row else row
        if '\t"' in f"\t{bare}":
            continue  # the cell ends in another line
        if row.strip(" \r"):  # pandas skips others
            yield bare.count("\t") + 1
        row = ""


def _require_rows(path: Path) -> None:
    """Refuse what is seen to be no table by its first bytes."""
    peeked = Peeked(path, TableError)
    peeked.close()
    if not peeked.start.strip():
        raise TableError(f"{path} cannot be read as a table: it is empty; {_WANTED}")
    if peeked.start.startswith((b"##fileformat=VCF", b"BCF")):
        raise TableError(
            f"{path} is a VCF, a report needs the table; give the file of genobird variants --table"
        )
    if path.suffix != ".parquet" and compression_of(path) is Compression.PLAIN:
        _require_end(path)


def _require_end(path: Path) -> None:
    """Refuse a text that lost its end: pandas takes the rest of a row as it is."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            raise TableError(
                f"{path} is cut short: its last row has no end; copy it again, or put a line feed "
                "there if it is whole"
            )


def count_statuses(path: Path) -> Counter[str]:
    """Count the rows of a region table or a variant table by status.

    Raises:
        UsageError: there is no such file.
        TableError: it cannot be read as a table, has no places or statuses, or one that is unknown.
    """
    counts: Counter[str] = Counter()
    for piece in read_pieces(path, columns := ("chrom", "status")):
        if missing := [column for column in columns if column not in piece]:
            raise TableError(f"{path} has no column {missing[0]}; {_WANTED}")
        with _naming(path):
            _require_one_of(piece, "status", dict.fromkeys((*Status, *RegionStatus)))
        counts.update(piece["status"])
    return counts


def read_facts(path: Path) -> dict[str, str]:
    """Return what the metadata of a Parquet file say about its origin; nothing for other files."""
    if path.suffix != ".parquet":
        return {}
    metadata = pq.read_schema(path).metadata or {}
    return {
        key.decode(errors="replace").removeprefix("genobird."): value.decode(errors="replace")
        for key, value in metadata.items()
        if key.startswith(b"genobird.")
    }


def summarise_regions(pieces: Iterable[pd.DataFrame], top: int = 60) -> RegionSummary:
    """Gather a region table from its pieces, with the `top` rows.

    Raises:
        TableError: a column is missing, or a value is none that it can hold.
    """
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    scores: list[NDArray[np.float64]] = []
    marks: list[NDArray[np.bool_]] = []
    best = pd.DataFrame(columns=[*REGION_KEYS, PROMOTER])
    for piece in pieces:
        scored = _scored(piece, _OF_REGION, "region")
        statuses.update(piece["status"])
        flags.update(filter(None, scored[FLAGS]))
        if PROMOTER not in scored:
            scored[PROMOTER] = np.nan
        others = [
            str(name)
            for name in scored
            if name not in _NO_FEATURES and not str(name).startswith(MARK)
        ]
        values = _numbers(scored, others, "a probability", 0, 1)
        keys = scored[list(REGION_KEYS)]
        scored = pd.concat([keys, pd.DataFrame(values, scored.index, others)], axis=1)
        scores.append(scored[PROMOTER].to_numpy(np.float64))
        marks.append(scored["name"].str.startswith(BACKGROUND).to_numpy(np.bool_))
        best = _first(best, scored, {PROMOTER: False}, top)
    promoter = np.concatenate(scores) if scores else np.empty(0)
    is_background = np.concatenate(marks) if marks else np.empty(0, np.bool_)
    known = np.isfinite(promoter)
    return RegionSummary(
        dict(statuses.most_common()),
        dict(flags),
        promoter[known & ~is_background],
        promoter[known & is_background],
        best.reset_index(drop=True),
        [name for name in best.columns if name not in (*_NO_FEATURES, PROMOTER)],
    )


def summarise_variants(pieces: Iterable[pd.DataFrame], top: int = 30) -> VariantSummary:
    """Gather a variant table from its pieces, with the `top` rows.

    Raises:
        TableError: a column is missing, or a value is none that it can hold.
    """
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    best = pd.DataFrame()
    small = np.zeros(len(_THRESHOLDS), np.int64)
    ranked = False
    for piece in pieces:
        scored = _scored(piece, _OF_VARIANT, "variant")
        statuses.update(piece["status"])
        flags.update(filter(None, scored[FLAGS]))
        features = _features(piece)
        if EVALUE in piece:
            ranked = True
            [evalues] = _numbers(scored, [EVALUE], "an E-value", 0, 1).T
            small += _at_most(evalues[np.isfinite(evalues)])
        if len(scored):
            best = _first(best, _strongest(scored, features, top), _RANKS, top)
    rarity = Rarity(_THRESHOLDS, small, int(small[0])) if ranked else None
    best = best.reset_index(drop=True)
    return VariantSummary(dict(statuses.most_common()), dict(flags), best, rarity)


def is_turned(row: Mapping[Any, Any]) -> bool:
    """Tell whether a row of a table has its variant on the other strand than the genome."""
    return bool(row.get(VARIANT_LIFTED[2]) == "-")


def _at_most(evalues: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the values at or below each threshold; all are at or below the first, which is 1."""
    counts = np.searchsorted(np.sort(evalues), _THRESHOLDS, side="right").astype(np.int64)
    counts[0] = len(evalues)
    return counts


def _features(piece: pd.DataFrame) -> list[str]:
    outputs = outputs_in(piece.columns)
    features = [
        name for name in outputs if name not in (PROMOTER, LLR) and not name.startswith(MARK)
    ]
    if not features and outputs:  # a model without a chromatin head; of an LLR nothing is drawn
        return sorted(outputs, key=LLR.__eq__)[:1]
    if not features:
        raise _RowsError(
            "heading: the variant table has no column <feature>|delta; give the table of genobird "
            "variants"
        )
    return features


def _strongest(scored: pd.DataFrame, features: Sequence[str], count: int) -> pd.DataFrame:
    """Keep the first rows in the order of a summary, with the features that differ most."""
    sizes = np.nan_to_num(_sizes(scored, features), nan=-1.0)
    lifted = [name for name in VARIANT_LIFTED if name in scored]
    made = scored[[*_OF_VARIANT, FLAGS, *lifted]].copy()
    made["id"] = _texts(scored, "id") if "id" in scored else ""
    known = {PROMOTER: f"{PROMOTER}|delta", LLR: f"{LLR}|delta", "llr_se": LLR_SE}
    for name, column in {**known, EVALUE: EVALUE}.items():
        made[name] = _numbers(scored, [column])[:, 0] if column in scored else np.nan
    made["size"] = sizes.max(axis=1)
    made["row"] = np.arange(len(scored))
    made = _first(pd.DataFrame(), made, _RANKS, count)
    effects = []
    for row in made.pop("row"):
        strongest = np.argsort(-sizes[row], kind="stable")[:STRONGEST]
        found = scored.iloc[[row]]
        effects.append([_effect(found, features[place]) for place in strongest])
    made["effects"] = pd.Series(effects, index=made.index, dtype=object)
    made["feature"] = [found[0].name for found in effects]
    made["delta"] = [found[0].delta for found in effects]
    return made


def _sizes(scored: pd.DataFrame, features: Sequence[str]) -> NDArray[np.float64]:
    """Return by what features are ordered, [n, F]: the size of the change of their logit.

    Where the table has quantiles, these count first, and the change of the probability among equal
    ones: logits reward features that are hardly ever there.
    """
    # With torch, which a report without scores spares.
    from genobird.heads import POSITIVE_WEIGHT, probabilities
    from genobird.scoring.effects import FLOOR

    parts = {
        part: [f"{name}|{part}" for name in features]
        for part in ("delta", "ref", "alt", "quantile")
    }
    if any(name not in scored for names in parts.values() for name in names):
        plain: NDArray[np.float64] = np.abs(_numbers(scored, parts["delta"]))
        return plain
    ref, alt = (
        probabilities(_numbers(scored, parts[part]).astype(np.float32), POSITIVE_WEIGHT)
        for part in ("ref", "alt")
    )
    usual = _numbers(scored, parts["quantile"])
    usual = np.where(np.maximum(ref, alt) < FLOOR, 0.0, usual)
    sizes: NDArray[np.float64] = 1e6 * usual + np.abs(alt - ref)
    return sizes


def _effect(row: pd.DataFrame, name: str) -> Effect:
    columns = (f"{name}|{part}" for part in ("ref", "alt", "delta", "quantile"))
    parts = (_numbers(row, [c])[0, 0] if c in row else np.nan for c in columns)
    return Effect(name, *map(float, parts))


def _first(
    best: pd.DataFrame, more: pd.DataFrame, ranks: Mapping[str, bool], count: int
) -> pd.DataFrame:
    """Keep the first rows by columns that ascend or fall; of equal ones those that came first."""
    rows = more if best.empty else pd.concat([best, more])
    order, ascending = list(ranks), list(ranks.values())
    return rows.sort_values(order, ascending=ascending, kind="stable").head(count)


def _scored(piece: pd.DataFrame, keys: Sequence[str], kind: str) -> pd.DataFrame:
    """Copy the scored rows; TableError where a column is missing or twice, or a key is none."""
    missing = [key for key in keys if key not in piece]
    if missing:
        command = "score" if kind == "region" else "variants"
        raise _RowsError(
            f"heading: the {kind} table has no column {missing[0]}; give the table that genobird "
            f"{command} wrote, whose columns begin with {' '.join(keys)}"
        )
    if not piece.columns.is_unique:
        twice = piece.columns[piece.columns.duplicated()][0]
        raise TableError(f"the {kind} table has two columns {twice}; {_WANTED}")
    _require_one_of(piece, "status", RegionStatus if kind == "region" else Status)
    scored = piece[piece["status"] == _OK].copy()
    scored[FLAGS] = _texts(scored, FLAGS) if FLAGS in scored else ""
    for key in keys:
        if key in ("name", "strand"):
            scored[key] = _texts(scored, key)
        elif key in _TEXT:
            _require(scored, key, lambda value: isinstance(value, str) and value != "", "a text")
    for key in (*keys, VARIANT_LIFTED[-1]):
        if key.endswith("strand") and key in scored:
            _require_one_of(scored, key, STRANDS)
    whole = [key for key in keys if key not in _TEXT]
    values = _numbers(scored, whole, "a whole number", 0, _LARGEST)
    lost = ~(values == np.floor(values))  # also where there is none
    if lost.any():
        row, column = np.argwhere(lost)[0]
        raise _wrong(scored, row, whole[column], "a whole number")
    scored[whole] = values.astype(np.int64)
    if kind == "region":
        is_place, key, wanted = scored["start"] <= scored["end"], "end", "a place from start on"
    else:
        is_place, key, wanted = scored["pos"] >= 1, "pos", "a place from 1 on"
    if not is_place.all():
        raise _wrong(scored, int(np.argmin(is_place)), key, wanted)
    return scored


def _texts(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return a column as text, empty where there is none; one without any may be of numbers."""
    _require(rows, name, is_scalar, "a text")
    texts = ["" if pd.isna(value) else str(value) for value in rows[name]]
    return pd.Series(texts, rows.index, dtype=str)


def _require_one_of(rows: pd.DataFrame, name: str, allowed: Iterable[str]) -> None:
    known = set(allowed)
    wanted = f"one of {' '.join(allowed)}"
    _require(rows, name, lambda value: isinstance(value, str) and value in known, wanted)


def _require(
    rows: pd.DataFrame, name: str, is_right: Callable[[object], bool], wanted: str
) -> None:
    lost = [not is_right(value) for value in rows[name]]
    if any(lost):
        raise _wrong(rows, lost.index(True), name, wanted)


def _numbers(
    rows: pd.DataFrame,
    names: Sequence[str],
    wanted: str = "a number",
    low: float = -_LARGEST_SCORE,
    high: float = _LARGEST_SCORE,
) -> NDArray[np.float64]:
    """Return columns as numbers [rows, names], NaN where there is none.

    Raises:
        TableError: something else stands there, or a number that is not from `low` to `high`.
    """
    numbers = rows[list(names)]
    for name, kind in numbers.dtypes.items():
        if kind.kind not in "iuf":
            numbers[name] = _parsed(numbers[name])
    values: NDArray[np.float64] = numbers.to_numpy(np.float64, na_value=np.nan)
    lost = (values < low) | (values > high)
    if lost.any():
        row, name = np.argwhere(lost)[0]
        raise _wrong(rows, row, names[name], wanted)
    return values


def _parsed(values: pd.Series) -> pd.Series:
    """Read texts as numbers; infinite, which none can be, is what is no number, nor empty."""
    numbers = pd.to_numeric(values.astype(object), errors="coerce")
    return numbers.where(numbers.notna() | values.isna(), np.inf)


def _wrong(rows: pd.DataFrame, row: int, name: str, wanted: str) -> TableError:
    """Return the error for a value; rows are counted from 1, the heading is none."""
    value = rows[name].iloc[row]
    is_empty = is_scalar(value) and (pd.isna(value) or value == "")
    found = "empty" if is_empty else short(str(value))
    at = f"row {rows.index[row] + 1:,} of the table"
    return _RowsError(f"{at}: {short(name)} is {found}, {wanted} is needed; {_WANTED}")
