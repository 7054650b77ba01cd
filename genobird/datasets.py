"""Labelled data on disk: chromatin profiles of 200-bp bins, promoter windows, and predictions.

Chromatin profiles are a directory (`pipelines/chromatin.py` writes one):

```
index.json             bin width, splits, counts, hashes
features.tsv           index name class, in the order of the label columns
<contig>.sequence.npy  uint8 [L], ASCII
<contig>.labels.npy    uint8 [L // bin_bp, ceil(F / 8)], bits, little-endian within a byte
<contig>.usable.npy    uint8 [L // bin_bp], 1 where the bin holds no N
```

Promoter windows are one Parquet table (`pipelines/promoters.py`), one row per window, its sequence
oriented along the strand. Predictions are one `.npz` file: what models of different kinds are
compared by.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from genobird.errors import InputError, TableError, UsageError
from genobird.files import Draft
from genobird.genome.interval import Interval
from genobird.genome.sequence import NO_BASE, base_codes

PROMOTER_COLUMNS = (
    "chrom",
    "start",
    "end",
    "strand",
    "name",
    "label",
    "split",
    "group",
    "sequence",
)
UPSTREAM_BP = 5_000
"""Bases before the transcription start in a window (paper, appendix F.2); 3,000 follow."""


class ChromatinDataset:
    """Sequence and labels of 200-bp bins, memory-mapped.

    Attributes:
        features: F rows `index name class`.
        bin_bp: width of a bin.
        path: the directory.

    Raises:
        UsageError: a directory without `index.json`.
        InputError: an index or a table that is damaged, or a split that leaves a contig.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "index.json").is_file():
            raise UsageError(f"{path} is no chromatin dataset: it has no index.json")
        self.path = path
        self.index = _read_index(path / "index.json")
        self.bin_bp: int = self.index["bin_bp"]
        self.features = _read_features(path / "features.tsv", self.index.get("features"))
        self._array = lru_cache(maxsize=None)(self._open)
        for interval in (i for split in self.index["splits"] for i in self.intervals(split)):
            if interval.end > self.length(interval.contig):
                raise InputError(
                    f"{path}: {interval} of its splits ends after {interval.contig} "
                    f"({self.length(interval.contig):,} bp); build the dataset again with splits "
                    "that end within the contigs"
                )

    def __reduce__(self) -> tuple[type[ChromatinDataset], tuple[Path]]:
        return ChromatinDataset, (self.path,)  # a process that makes batches opens its own

    def _open(self, contig: str, what: str) -> NDArray[np.uint8]:
        file = self.path / f"{contig}.{what}.npy"
        try:
            array: NDArray[np.uint8] = np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file} cannot be read; build the dataset again") from error
        return array

    def intervals(self, split: str) -> list[Interval]:
        """Return the intervals of a split."""
        splits = self.index["splits"]
        if split not in splits:
            raise UsageError(f"split {split!r} is not one of {', '.join(splits)}")
        return [Interval(contig, start, end) for contig, start, end in splits[split]]

    def sequence(self, contig: str, start: int, end: int) -> str:
        """Return bases [start, end) of a contig."""
        return self._array(contig, "sequence")[start:end].tobytes().decode("ascii")

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the codes of bases [start, end); beyond the contig's ends there are N."""
        length = self.length(contig)
        inside = base_codes(self.sequence(contig, max(0, start), min(end, length)))
        return np.pad(inside, (max(0, -start), max(0, end - length)), constant_values=NO_BASE)

    def length(self, contig: str) -> int:
        """Return the bases of a contig."""
        return len(self._array(contig, "sequence"))

    def usable(self, contig: str, bins: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which bins hold no N, [n]."""
        return self._array(contig, "usable")[bins].astype(bool)

    def usable_bins(self, interval: Interval) -> NDArray[np.int64]:
        """Return the bins wholly inside an interval that hold no N, ascending, [n]."""
        bins = np.arange(-(-interval.start // self.bin_bp), interval.end // self.bin_bp)
        return bins[self.usable(interval.contig, bins)]

    def labels(self, contig: str, bins: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the labels of bins, 0 or 1, [n, F]."""
        packed = self._array(contig, "labels")[bins]
        return np.unpackbits(packed, axis=1, count=len(self.features), bitorder="little")


def _read_index(file: Path) -> dict[str, Any]:
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in ("bin_bp", "splits") if key not in index]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); build the dataset again") from error
    if missing:
        raise InputError(f"{file} lacks {' and '.join(missing)}; build the dataset again")
    return dict(index)


def _read_features(file: Path, count: int | None) -> pd.DataFrame:
    """Read the table of F features; `count` is F, or None where it is not known."""
    try:
        table = pd.read_csv(file, sep="\t")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); build the dataset again") from error
    if count not in (None, len(table)):
        raise InputError(
            f"{file} has {len(table)} features, the dataset's index.json {count}; build the "
            "dataset again"
        )
    return table


@dataclass(frozen=True, eq=False)
class Sites:
    """Placed sequences with labels, apart from the contigs they lie on.

    Attributes:
        path: the file (`pipelines/sites.py` writes one).
        features: names of the F labels.
        codes: uint8 [N, L], bases centred on the site's midpoint (`local.base_codes`).
        labels: uint8 [N, F], 0 or 1, of the 200 bp around the midpoint.
        known: bool [N, F], which labels are known.
    """

    path: Path
    features: list[str]
    codes: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.codes)

    def around(self, site: int, shift: int, span_bp: int) -> NDArray[np.uint8]:
        """Return the bases around a place `shift` bases off a site's midpoint, [span_bp]."""
        room = max(0, span_bp // 2 + abs(shift) - self.codes.shape[1] // 2)
        codes = np.pad(self.codes[site], room, constant_values=NO_BASE)
        first = len(codes) // 2 + shift - span_bp // 2
        return codes[first : first + span_bp]

    @classmethod
    def load(cls, path: Path) -> Sites:
        """Read a `.npz` file.

        Raises:
            UsageError: a missing file.
            InputError: a file that holds no sites.
        """
        if not path.is_file():
            raise UsageError(f"there are no sites {path}")
        names = ("features", "codes", "labels", "known")
        found = read_arrays(path, names, "holds no sites; write it anew")
        features = [str(name) for name in found["features"]]
        labels, known = (
            np.unpackbits(found[key], axis=1, count=len(features), bitorder="little")
            for key in ("labels", "known")
        )
        return cls(path, features, found["codes"], labels, known.astype(bool))


def read_promoters(path: Path, split: str) -> pd.DataFrame:
    """Read the windows of a split.

    Raises:
        UsageError: a missing file, or a split without windows.
        InputError: no Parquet table, or a damaged one.
        TableError: a column is missing.
    """
    if not path.is_file():
        raise UsageError(f"there is no promoter table {path}")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"{path} is no Parquet table, or is cut short ({reason}); give one that "
            "`python -m pipelines.promoters` wrote"
        ) from error
    missing = [name for name in PROMOTER_COLUMNS if name not in table.columns]
    if missing:
        raise TableError(f"{path} lacks the columns {', '.join(missing)}")
    rows = table[table["split"] == split].reset_index(drop=True)
    if rows.empty:
        known = ", ".join(sorted(set(table["split"])))
        raise UsageError(f"{path} has no window of split {split!r}; it has {known}")
    return rows


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write a `.npz` file of arrays, by name."""
    with Draft(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path, names: Sequence[str], problem: str) -> dict[str, Any]:
    """Read all arrays of a `.npz` file, by name.

    Args:
        path: the file.
        names: arrays that it must hold.
        problem: what an error says of a file that is empty, damaged or of something else, and what
            to do.

    Raises:
        InputError: `path` and `problem`.
    """
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in {*file.files, *names}}
    # A lone array where an archive should be is a TypeError, an empty file an EOFError.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} {problem}") from error
    return found


def stretches(contigs: ArrayLike, starts: ArrayLike, width: int) -> NDArray[np.str_]:
    """Return the stretch of the genome that each place lies in, such as `chr20:216`, [N]."""
    numbers = np.asarray(starts, np.int64) // width
    return np.char.add(np.char.add(np.asarray(contigs, np.str_), ":"), numbers.astype(np.str_))


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of a model for the places of a split, and their labels.

    Attributes:
        contigs: names, str [N].
        bins: int64 [N]; bin i of a contig starts at base `i * bin_bp` (0-based).
        labels: uint8 [N, F], 0 or 1.
        logits: float32 [N, F].
        bin_bp: 200 for chromatin; 1 for promoters, whose "bin" is the start of the window.
        sequences_sha256: of the windows' bases, hexadecimal: negatives that are made of promoters
            have these' places. Empty for chromatin and in older files.
    """

    contigs: NDArray[np.str_]
    bins: NDArray[np.int64]
    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    bin_bp: int = 200
    sequences_sha256: str = ""

    @classmethod
    def of_promoters(cls, table: pd.DataFrame, logits: NDArray[np.float32]) -> Predictions:
        """Pair the rows of a promoter table, N of them, with their logits [N]."""
        return cls(
            table["chrom"].to_numpy(dtype=np.str_),
            table["start"].to_numpy(dtype=np.int64),
            table["label"].to_numpy(dtype=np.uint8)[:, None],
            logits[:, None],
            bin_bp=1,
            sequences_sha256=_sequences_sha256(table["sequence"]),
        )

    def groups(self, group_bp: int) -> NDArray[np.str_]:
        """Return the stretch of the genome that each place lies in, such as `chr20:216`, [N]."""
        return stretches(self.contigs, self.bins * self.bin_bp, group_bp)

    def same_places(self, other: Predictions) -> bool:
        """Say whether both are for the same places, in the same order, with the same labels.

        Their sequences are compared too where both know them.
        """
        digests = {self.sequences_sha256, other.sequences_sha256} - {""}
        return (
            len(digests) <= 1
            and np.array_equal(self.contigs, other.contigs)
            and np.array_equal(self.bins, other.bins)
            and np.array_equal(self.labels, other.labels)
        )

    def save(self, path: Path) -> None:
        """Write a `.npz` file."""
        write_arrays(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read a `.npz` file.

        Raises:
            UsageError: a missing file.
            InputError: a file that holds no predictions.
        """
        if not path.is_file():
            raise UsageError(f"there are no predictions {path}")
        arrays = ("contigs", "bins", "labels", "logits")
        found = read_arrays(path, (*arrays, "bin_bp"), "holds no predictions; predict again")
        digest = str(found.get("sequences_sha256", ""))
        contigs, bins, labels, logits = (found[name] for name in arrays)
        return cls(contigs, bins, labels, logits, int(found["bin_bp"]), digest)


def _sequences_sha256(sequences: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(f"{sequence}\n".encode())
    return digest.hexdigest()
