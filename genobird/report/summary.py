"""What a report says about score tables of any length, gathered in one pass.

Enters pieces of a region table or of a variant table, as `genobird score` and `genobird variants`
write them; leaves counts and the rows that stand out. Memory is that of one piece and of one number
a region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genobird.errors import TableError, UsageError
from genobird.genome.streams import Peeked

REGION_KEYS = ("chrom", "start", "end", "name", "strand", "status")
VARIANT_KEYS = ("chrom", "pos", "ref", "alt", "record", "allele", "status")
LIFTED = ("lifted_chrom", "lifted_pos", "lifted_strand")
STRONGEST = 5
"""Features of a variant that are kept."""
BACKGROUND = "background"
"""A region whose name begins so is shown as a place to compare with, not as a promoter."""

_OK = "OK"
_PROMOTER, _LLR, _EVALUE = "promoter", "llr", "evalue"
_PIECE = 4096
_WANTED = "give the table of genobird score or of genobird variants --table"
# A quarter of a power of ten each, down to what a background of millions can tell.
_THRESHOLDS = 10.0 ** (-np.arange(29) / 4)


@dataclass(frozen=True, eq=False)
class RegionSummary:
    """What stands out in a region table.

    Attributes:
        statuses: rows by status, most frequent first.
        promoter: promoter probabilities of the scored rows that are no background.
        background: the same of the background.
        top: the scored rows with the highest promoter probability, best first; in their order
            where the model has no promoter head (`promoter` is NaN then).
        features: names of the chromatin columns.
    """

    statuses: dict[str, int]
    promoter: NDArray[np.float64]
    background: NDArray[np.float64]
    top: pd.DataFrame
    features: list[str]

    @property
    def total(self) -> int:
        """Rows of the table."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Rows with status OK."""
        return self.statuses.get(_OK, 0)


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
    """How many ALTs have small E-values.

    Attributes:
        thresholds: E-values, falling from 1.
        counts: ALTs at or below each.
        total: ALTs with an E-value.
    """

    thresholds: NDArray[np.float64]
    counts: NDArray[np.int64]
    total: int


@dataclass(frozen=True, eq=False)
class VariantSummary:
    """What stands out in a variant table.

    Attributes:
        statuses: rows (one an ALT) by status, most frequent first.
        top: the rows with the smallest E-value, or, of equal ones and where the table has none, the
            largest difference of any chromatin feature: the keys, `feature` with its `delta`,
            `effects` (of the features that differ most, a list), `evalue`, `promoter` and `llr`
            (NaN where the table has none), `id` (empty where the table has none) and the columns of
            the place that REF was lifted to, where there are.
        rarity: how many E-values are small; None where the table has none.
    """

    statuses: dict[str, int]
    top: pd.DataFrame
    rarity: Rarity | None = None

    @property
    def total(self) -> int:
        """Rows of the table."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Rows with status OK."""
        return self.statuses.get(_OK, 0)


def read_pieces(path: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table in pieces; `.parquet` by its name, anything else as TSV.

    Raises:
        UsageError: there is no such file.
        TableError: it cannot be read as a table.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist; check the path")
    _require_rows(path)
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_PIECE):
                    yield batch.to_pandas()
        else:
            text = {"chrom": str, "name": str, "strand": str, "status": str}
            with pd.read_csv(
                path, sep="\t", dtype=text, keep_default_na=False, na_values=[""], chunksize=_PIECE
            ) as pieces:
                yield from pieces
    except (ValueError, OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise TableError(f"{path} cannot be read as a table: {reason}; {_WANTED}") from error


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


def read_facts(path: Path) -> dict[str, str]:
    """Return what the metadata of a Parquet file say about its origin; nothing for other files."""
    if path.suffix != ".parquet":
        return {}
    metadata = pq.read_schema(path).metadata or {}
    return {
        key.decode().removeprefix("genobird."): value.decode()
        for key, value in metadata.items()
        if key.startswith(b"genobird.")
    }


def summarise_regions(
    pieces: Iterable[pd.DataFrame], top: int = 60, background: str = BACKGROUND
) -> RegionSummary:
    """Gather a region table.

    Args:
        pieces: the table, in order.
        top: rows to keep.
        background: how names of background regions begin.

    Raises:
        TableError: a column is missing.
    """
    statuses: Counter[str] = Counter()
    scores: list[NDArray[np.float64]] = []
    marks: list[NDArray[np.bool_]] = []
    best = pd.DataFrame(columns=[*REGION_KEYS, _PROMOTER])
    for piece in pieces:
        _require(piece, REGION_KEYS, "region")
        statuses.update(piece["status"])
        scored = piece[piece["status"] == _OK]
        if _PROMOTER not in scored:
            scored = scored.copy()
            scored[_PROMOTER] = np.nan
        scores.append(scored[_PROMOTER].to_numpy(np.float64))
        names = scored["name"].fillna("").astype(str)
        marks.append(names.str.startswith(background).to_numpy(np.bool_))
        best = _largest(best, scored, _PROMOTER, top)
    values = np.concatenate(scores) if scores else np.empty(0)
    is_background = np.concatenate(marks) if marks else np.empty(0, np.bool_)
    known = np.isfinite(values)
    return RegionSummary(
        dict(statuses.most_common()),
        values[known & ~is_background],
        values[known & is_background],
        best.reset_index(drop=True),
        [name for name in best.columns if name not in (*REGION_KEYS, _PROMOTER)],
    )


def summarise_variants(pieces: Iterable[pd.DataFrame], top: int = 30) -> VariantSummary:
    """Gather a variant table.

    Args:
        pieces: the table, in order.
        top: rows to keep.

    Raises:
        TableError: a column is missing.
    """
    statuses: Counter[str] = Counter()
    best = pd.DataFrame()
    small = np.zeros(len(_THRESHOLDS), np.int64)
    ranked = False
    for piece in pieces:
        _require(piece, VARIANT_KEYS, "variant")
        statuses.update(piece["status"])
        features = _features(piece)
        scored = piece[piece["status"] == _OK]
        if _EVALUE in piece:
            ranked = True
            small += _at_most(scored[_EVALUE].dropna().to_numpy(np.float64))
        if len(scored):
            best = _first(best, _strongest(scored, features, top), top)
    rarity = Rarity(_THRESHOLDS, small, int(small[0])) if ranked else None
    return VariantSummary(dict(statuses.most_common()), best.reset_index(drop=True), rarity)


def _at_most(evalues: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the values at or below each threshold; all are at or below the first, which is 1."""
    counts = np.searchsorted(np.sort(evalues), _THRESHOLDS, side="right").astype(np.int64)
    counts[0] = len(evalues)
    return counts


def name_variants(summary: VariantSummary, vcf: Path) -> None:
    """Write the identifiers of a VCF into the `id` column of a summary of its table.

    It is read as far as the last record that is needed.

    Raises:
        VcfError: it cannot be read.
    """
    from genobird.genome.vcf import VcfReader

    wanted = set(summary.top.get("record", ()))
    names: dict[int, str] = {}
    if wanted:
        with VcfReader(vcf) as reader:
            for record in reader:
                if record.number in wanted:
                    names[record.number] = "" if record.columns[2] == "." else record.columns[2]
                if len(names) == len(wanted):
                    break
        summary.top["id"] = [names.get(number, "") for number in summary.top["record"]]


def _features(piece: pd.DataFrame) -> list[str]:
    ends = [str(name) for name in piece.columns if str(name).endswith("|delta")]
    outputs = [name.removesuffix("|delta") for name in ends]
    features = [name for name in outputs if name not in (_PROMOTER, _LLR)]
    if not features and outputs:  # a model without a chromatin head
        return outputs[:1]
    if not features:
        raise TableError(
            "the variant table has no column <feature>|delta; give the table of genobird variants"
        )
    return features


def _strongest(scored: pd.DataFrame, features: Sequence[str], count: int) -> pd.DataFrame:
    """Keep the first rows in the order of a summary, with the features that differ most."""
    deltas = scored[[f"{name}|delta" for name in features]].to_numpy(np.float64)
    sizes = np.nan_to_num(np.abs(deltas), nan=-1.0)
    lifted = [name for name in LIFTED if name in scored]
    made = scored[[*VARIANT_KEYS, *lifted]].copy()
    made["id"] = scored.get("id", "")
    for name in (_PROMOTER, _LLR):
        made[name] = scored.get(f"{name}|delta", np.nan)
    made[_EVALUE] = scored.get(_EVALUE, np.nan)
    made["size"] = sizes.max(axis=1)
    made["row"] = np.arange(len(scored))
    made = _first(pd.DataFrame(), made, count)
    effects = []
    for row in made.pop("row"):
        found = scored.iloc[row]
        strongest = np.argsort(-sizes[row], kind="stable")[:STRONGEST]
        effects.append([_effect(found, features[place]) for place in strongest])
    made["effects"] = pd.Series(effects, index=made.index, dtype=object)
    made["feature"] = [found[0].name for found in effects]
    made["delta"] = [found[0].delta for found in effects]
    return made


def _effect(row: pd.Series, name: str) -> Effect:
    parts = (row.get(f"{name}|{part}", np.nan) for part in ("ref", "alt", "delta", "quantile"))
    return Effect(name, *(float(part) for part in parts))


def _first(best: pd.DataFrame, more: pd.DataFrame, count: int) -> pd.DataFrame:
    """Keep the rows with the smallest E-values, then with the largest effects."""
    rows = more if best.empty else pd.concat([best, more])
    order = [_EVALUE, "size"]
    return rows.sort_values(order, ascending=[True, False], kind="stable").head(count)


def _largest(best: pd.DataFrame, more: pd.DataFrame, column: str, count: int) -> pd.DataFrame:
    """Keep the rows with the largest values; of equal ones those that came first."""
    rows = more if best.empty else pd.concat([best, more])
    return rows.sort_values(column, ascending=False, kind="stable").head(count)


def _require(piece: pd.DataFrame, keys: Sequence[str], kind: str) -> None:
    missing = [key for key in keys if key not in piece]
    if missing:
        command = "score" if kind == "region" else "variants"
        raise TableError(
            f"the {kind} table has no column {missing[0]}; give the table that genobird {command} "
            f"wrote, whose columns begin with {' '.join(keys)}"
        )
