"""A user's own table of regions with values or classes: read, placed on a genome, divided.

TSV, CSV or Parquet with the columns `chrom start end` (0-based half-open) and perhaps `strand`,
`name` and `split`; any other may be predicted. An empty cell is unknown.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genobird.errors import InputError, OutOfBoundsError, TableError, UsageError, quoted, some
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, strand_of
from genobird.genome.streams import position_of
from genobird.names import require
from genobird.targets import Doubles, Objective, Targets
from genobird.tasks.bins import divide

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_KEYS: Final = ("chrom", "start", "end", "strand", "name", "split")
_NEEDED: Final = _KEYS[:3]
_SHOWN: Final = 12  # columns in a message
_FEW: Final = 10  # rows of a class, of which fewer are warned of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelTable:
    """N regions and what a file holds of them.

    Attributes:
        path: the file, for messages.
        cells: its columns by name, [N]; the keys in lower case.
        regions: contigs by the genome's names, [N].
    """

    path: Path
    cells: pd.DataFrame
    regions: tuple[Interval, ...]

    @classmethod
    def read(cls, path: Path, genome: Genome) -> LabelTable:
        """Read a table and find its regions on a genome.

        Raises:
            UsageError: there is no such file.
            TableError: it is no table, lacks a column or has one twice, or a row is no region.
            ContigError, AssemblyError, OutOfBoundsError: a region does not lie on the genome.
        """
        cells = _cells(path)
        plain = {name: name.lstrip("#").lower() for name in _names(cells)}
        cells = cells.rename(columns={n: key for n, key in plain.items() if key in _KEYS})
        _require(path, _names(cells), _NEEDED)
        strands = cells.get("strand", pd.Series("", cells.index))
        rows = zip(*(cells[name] for name in _NEEDED), strands, strict=True)
        regions = []
        for number, (contig, start, end, strand) in enumerate(rows, start=1):
            try:
                regions.append(_region(contig, start, end, strand, genome))
            except InputError as error:
                raise type(error)(f"{path}, row {number}: {error}") from None
        return cls(path, cells, tuple(regions))

    def column(self, name: str) -> pd.Series[Any]:
        """Return the cells of a column that are not empty, without blanks around text.

        Raises:
            TableError: there is no such column, or all of it is empty.
        """
        _require(self.path, [one for one in _names(self.cells) if one not in _KEYS], [name])
        found = self.cells[name].astype(object)
        found = found.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
        found = found[found.notna() & (found != "")]
        if found.empty:
            raise TableError(f"{self.path}: column {name} is empty; nothing is known of it")
        return found

    def numbers(self, name: str) -> Doubles:
        """Return a column of numbers, [N]; NaN where a cell is empty.

        Raises:
            TableError: there is no such column, or a cell is no finite number.
        """
        cells = self.column(name)
        numbers = pd.to_numeric(cells, errors="coerce").astype(np.float64)
        problem = (
            "is no finite number; leave the cell empty where the value is unknown, or predict "
            "classes with --objective classes"
        )
        _refuse_rows(self.path, name, cells[~np.isfinite(numbers)], problem)
        return np.asarray(numbers.reindex(self.cells.index), np.float64)

    def classes(self, name: str) -> pd.Series[str]:
        """Return the classes in a column, without empty cells, by row.

        Raises:
            TableError: there is no such column, or a class is what R and pandas write for none.
        """
        found = self.column(name).map(_text)
        problem = (
            "is no class; leave the cell empty where the class is unknown, or give it another name"
        )
        _refuse_rows(self.path, name, found[found.str.lower().isin(("na", "nan"))], problem)
        return found

    def splits(self) -> NDArray[np.str_] | None:
        """Return the split of each region, [N]; None without such a column.

        Raises:
            TableError: a cell is none of the three.
        """
        if "split" not in self.cells:
            return None
        allowed = TRAIN, VALIDATION, TEST
        found = self.cells["split"].map(_text).str.strip()
        problem = f"found; allowed are {', '.join(allowed)}"
        _refuse_rows(self.path, "split", found[~found.isin(allowed)], problem)
        return found.to_numpy(dtype=np.str_)


@dataclass(frozen=True, eq=False)
class Labels:
    """N regions and what is known of O targets.

    Attributes:
        path: their file, for messages.
        regions: contigs by the genome's names, [N].
        splits: of each region, [N].
        values: [N, O], NaN where unknown; of classes their numbers, [N, 1].
        targets: what they are.
    """

    path: Path
    regions: tuple[Interval, ...]
    splits: NDArray[np.str_]
    values: Doubles
    targets: Targets

    def __len__(self) -> int:
        return len(self.regions)

    def of_split(self, split: str) -> Labels:
        """Return the regions of a split of which anything is known.

        Raises:
            TableError: there is none.
        """
        rows = np.flatnonzero((self.splits == split) & np.isfinite(self.values).any(axis=1))
        if not len(rows):
            known = ", ".join(sorted(set(self.splits.tolist()) - {""}))
            raise TableError(
                f"{self.path} has no row of split {split} with a known value; it has {known}"
            )
        regions = tuple(self.regions[row] for row in rows)
        return replace(self, regions=regions, splits=self.splits[rows], values=self.values[rows])

    def sha256(self) -> str:
        """Hash regions, splits and values."""
        digest = hashlib.sha256(self.values.astype("<f8").tobytes())
        for region, split in zip(self.regions, self.splits.tolist(), strict=True):
            digest.update(f"{region} {region.strand} {split}\n".encode())
        return digest.hexdigest()


def divided(
    table: LabelTable, genome: Genome, validation: Sequence[str], held_out: Sequence[str], seed: int
) -> NDArray[np.str_]:
    """Return the split of each region, [N]: the table's own, or by places that are held out.

    Args:
        table: the regions.
        genome: where they lie.
        validation: contigs, regions or one share of the megabases to validate on; 0.1 by default.
        held_out: the same to test on, 0.2 by default; it takes what both name.
        seed: of the draw of megabases.

    Returns:
        A region that lies across a border is in no split: its split is empty.

    Raises:
        UsageError: places beside a column split, or a place that is none.
    """
    found = table.splits()
    if found is not None:
        if validation or held_out:
            raise UsageError(
                f"{table.path} has a column split; leave out --held-out and --validation"
            )
        return found
    contigs = dict.fromkeys(region.contig for region in table.regions)
    areas = [Interval(contig, 0, genome.length(contig)) for contig in contigs]
    made = np.full(len(table.regions), TRAIN, dtype="<U10")
    asked = (
        ("--validation", VALIDATION, validation or ("0.1",)),
        ("--held-out", TEST, held_out or ("0.2",)),
    )
    for number, (option, split, named) in enumerate(asked):
        places: dict[str, list[Interval]] = {}
        for place in divide(named, areas, genome, seed + number, option=option).held_out:
            places.setdefault(place.contig, []).append(place)
        for row, region in enumerate(table.regions):
            for place in places.get(region.contig, ()):
                if place.start < region.end and region.start < place.end:
                    is_inside = place.start <= region.start and region.end <= place.end
                    made[row] = split if is_inside else ""
    return made


def targets_of(
    table: LabelTable,
    splits: NDArray[np.str_],
    columns: Sequence[str],
    objective: Objective | None,
    signals: Mapping[str, Path],
    window_bp: int,
) -> Targets:
    """Return what is to be predicted; means and scales are not known yet.

    Args:
        table: the regions.
        splits: of each region, [N].
        columns: that are predicted; none with `signals`.
        objective: of them; None is told from their cells.
        signals: bigWig files by name, whose mean signal is predicted instead.
        window_bp: see `Targets`.

    Raises:
        UsageError: columns and signals, or neither; a name twice, a column that says where regions
            lie or how they are used, or several columns of classes.
        TableError: there is no such column, or fewer than two classes in training.
    """
    if bool(columns) == bool(signals):
        raise UsageError("give what is to be predicted, with --target or with --bigwig")
    if len(set(columns)) < len(columns):
        raise UsageError(f"--target {','.join(columns)} repeats a name; give each once")
    if keys := [name for name in columns if name.lstrip("#").lower() in _KEYS]:
        others = [name for name in _names(table.cells) if name not in _KEYS]
        raise UsageError(
            f"--target {keys[0]} found; {', '.join(_KEYS)} say what a region is and are not "
            f"predicted: other columns of {table.path} are {some(others, _SHOWN) or 'none'}"
        )
    stranded = any(region.strand != "." for region in table.regions)
    names: tuple[str, ...] = tuple(columns or signals)
    if signals:
        objective = Objective.regression
    if objective is None:
        texts = [pd.to_numeric(table.column(name), errors="coerce").isna().all() for name in names]
        objective = Objective.classes if all(texts) else Objective.regression
    if objective is Objective.regression:
        many: dict[str, Any] = {"means": (0.0,) * len(names), "scales": (1.0,) * len(names)}
        return Targets(
            names=names, signal=bool(signals), stranded=stranded, window_bp=window_bp, **many
        )
    if len(names) > 1:
        raise UsageError(
            f"--target {','.join(names)} holds classes; a head predicts those of one column"
        )
    found = table.classes(names[0])
    classes = sorted(set(found[splits[found.index] == TRAIN]))
    if len(classes) < 2:
        raise TableError(
            f"{table.path}: {names[0]} is {' or '.join(classes) or 'empty'} in all of the rows "
            "to train on; two classes or more are needed"
        )
    return Targets(
        names=tuple(classes),
        column=names[0],
        objective=objective,
        stranded=stranded,
        window_bp=window_bp,
    )


def labels_of(
    table: LabelTable,
    splits: NDArray[np.str_],
    genome: Genome,
    targets: Targets,
    signals: Mapping[str, Path],
) -> Labels:
    """Return what a table holds of targets.

    Args:
        table: the regions.
        splits: of each region, [N].
        genome: where they lie.
        targets: what is known of them.
        signals: bigWig files by name, where signals are predicted.

    Raises:
        UsageError: the files are not those of the targets.
        TableError: see `LabelTable`; or a class that is none of the targets.
        InputError: a file is of another genome, or its signal is below 0.
    """
    if set(signals) != (set(targets.names) if targets.signal else set()):
        wanted = ", ".join(targets.names) if targets.signal else "columns, and takes no --bigwig"
        raise UsageError(f"--bigwig {', '.join(signals) or 'is missing'}; predicted are {wanted}")
    columns: list[Doubles]
    if targets.is_classes:
        found = table.classes(targets.column)
        numbers = found.map({name: number for number, name in enumerate(targets.names)})
        problem = (
            f"is not among the classes that are trained, {some(targets.names, _SHOWN)}; leave the "
            "cell empty, or have rows of it to train on"
        )
        _refuse_rows(table.path, targets.column, found[numbers.isna()], problem)
        columns = [np.asarray(numbers.reindex(table.cells.index), np.float64)]
    elif targets.signal:
        columns = [_mean_signal(signals[name], table.regions, genome) for name in targets.names]
    else:
        columns = [table.numbers(name) for name in targets.names]
    return Labels(table.path, table.regions, splits, np.stack(columns, axis=1), targets)


def fitted(labels: Labels) -> Labels:
    """Return labels whose targets know the means and scales of training.

    Raises:
        TableError: a target has fewer than two different values there.
    """
    targets, values = labels.targets, labels.of_split(TRAIN).values
    if targets.is_classes:
        return labels
    for name, column in zip(targets.names, values.T, strict=True):
        if len(np.unique(column[np.isfinite(column)])) < 2:
            raise TableError(
                f"{labels.path}: {name} has fewer than two different values in the rows to train "
                "on; nothing can be learnt"
            )
    means, scales = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    if not np.isfinite(scales).all():
        raise TableError(f"{labels.path}: values are too large; give them in another unit")
    update = {"means": tuple(means.tolist()), "scales": tuple(scales.tolist())}
    return replace(labels, targets=targets.model_copy(update=update))


def warn_of_few(labels: Labels) -> None:
    """Warn of classes with few rows to train on, and of targets that a split knows nothing of."""
    values, targets = labels.values, labels.targets
    known = values == np.arange(len(targets.names)) if targets.is_classes else np.isfinite(values)
    counts = {
        f"to {verb} on": known[labels.splits == split].sum(axis=0)
        for split, verb in ((TRAIN, "train"), (VALIDATION, "validate"), (TEST, "test"))
        if (labels.splits == split).any()
    }
    least = _FEW if targets.is_classes else 1
    for number, name in enumerate(targets.names):
        rows = {use: int(found[number]) for use, found in counts.items()}
        if rows["to train on"] < least or 0 in rows.values():
            logger.warning(
                "%s: %s has few rows (%s); what has few is hardly learnt, what has none to be "
                "validated or tested on is not measured",
                labels.path,
                name,
                ", ".join(f"{count} {use}" for use, count in rows.items()),
            )


def signals_by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Name bigWig files by their names without endings.

    Raises:
        UsageError: two have one name, or a file is missing.
    """
    found: dict[str, Path] = {}
    for path in files:
        if not path.is_file():
            raise UsageError(f"there is no bigWig file {path}")
        if path.stem in found:
            raise UsageError(f"{found[path.stem]} and {path} have one name; rename one of them")
        found[path.stem] = path
    return found


def _cells(path: Path) -> pd.DataFrame:
    """Read a file; in text every cell is text, an empty one empty text."""
    if not path.is_file():
        raise UsageError(f"there is no table {path}")
    try:
        if path.suffix == ".parquet":
            cells: pd.DataFrame = pq.ParquetFile(path).read().to_pandas()
        else:
            separator = "," if ".csv" in path.suffixes else "\t"
            lines = pd.read_csv(
                path, sep=separator, header=None, dtype=str, na_filter=False, encoding="utf-8-sig"
            ).fillna("")
            cells = lines.iloc[1:].set_axis(lines.iloc[0].str.strip(), axis=1)
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        is_other = isinstance(error, UnicodeDecodeError)
        reason = "its text is no UTF-8" if is_other else " ".join(str(error).split())
        raise TableError(
            f"{path} cannot be read as a table: {reason}; give TSV, CSV (.csv) or Parquet "
            "(.parquet)"
        ) from error
    repeated = cells.columns[cells.columns.duplicated()]
    if len(repeated):
        raise TableError(f"{path} has several columns {quoted(repeated[0])}; keep one of them")
    if cells.empty:
        raise TableError(f"{path} has a header and no rows; give a row per region")
    return cells.reset_index(drop=True).rename(columns=str)


def _names(cells: pd.DataFrame) -> list[str]:
    return [str(name) for name in cells.columns]


def _require(path: Path, columns: Sequence[str], wanted: Iterable[str]) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        hint = "; are they separated by tabs, or by commas in .csv?" if len(columns) == 1 else ""
        raise TableError(
            f"{path} has no column {', '.join(missing)}, but {some(columns, _SHOWN)}; needed are "
            f"chrom, start (0-based), end and what is to be predicted{hint}"
        )


def _refuse_rows(path: Path, column: str, cells: pd.Series[Any], problem: str) -> None:
    """Refuse a table for the first of some cells, if there are any."""
    if len(cells):
        raise TableError(
            f"{path}, row {cells.index[0] + 1}: {column} {quoted(cells.iloc[0])} {problem}"
        )


def _region(contig: object, start: object, end: object, strand: object, genome: Genome) -> Interval:
    first, last = position_of(start), position_of(end)
    if first is None or last is None:
        title, found = ("start", start) if first is None else ("end", end)
        raise TableError(f"{title} {quoted(found)} is no whole number from 0 on")
    name = genome.resolve(_text(contig))
    region = Interval(name, first, last, strand_of(_text(strand)) or ".")
    if region.ends_beyond(genome.length(name)):
        raise OutOfBoundsError(
            f"{region} ends after {name} ({genome.length(name):,} bp); is the table of another "
            f"assembly than {genome.path}?"
        )
    return region


def _text(cell: Any) -> str:
    """Return a cell as text; 20.0, of a column with gaps, is 20."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _mean_signal(path: Path, regions: Sequence[Interval], genome: Genome) -> Doubles:
    """Return log1p of the mean signal over each region, [N]; bases without a value count 0.

    On contigs that the file lacks nothing is known.
    """
    try:
        opened = require("pyBigWig", "a bigWig file").open(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} is no bigWig file, or is damaged") from error
    with opened:
        names = {genome.find(name): name for name in opened.chroms()}
        found = np.full(len(regions), np.nan)
        for row, region in enumerate(regions):
            name = names.get(region.contig)
            if name is None:
                continue
            if opened.chroms(name) != genome.length(region.contig):
                raise InputError(
                    f"{path}: {name} has {opened.chroms(name):,} bp, in {genome.path} "
                    f"{genome.length(region.contig):,}; give the signal of this assembly"
                )
            end = max(region.end, region.start + 1)
            total = opened.stats(name, region.start, end, type="sum", exact=True)[0] or 0.0
            found[row] = total / (end - region.start)
    if (found < 0).any():
        raise InputError(f"{path}: a signal below 0 has no log1p; give coverage or fold change")
    logs: Doubles = np.log1p(found)
    return logs
