"""The DeepSEA bundle -> chromatin dataset: where on the genome each of its rows lies, and labels.

    train.mat   MATLAB 7.3, which is HDF5   trainxdata [1000, 4, 2N], traindata [919, 2N]
    valid.mat   MATLAB 5                    validxdata [2N, 4, 1000], validdata [2N, 919]
    test.mat    MATLAB 5                    testxdata [2N, 4, 1000], testdata [2N, 919]

Rows [0, N) are windows of 1,000 bp, one-hot in the order A, G, C, T with nothing for N; rows
[N, 2N) are the other strands of the same windows, with the same labels. HDF5 is read from the disk
piece by piece. A MATLAB 5 array is stored column by column and packed, so it is read as a whole,
sequence and labels one after the other: 1.8 GB for the published test.mat.

The bundle holds sequence, not places. Each pair of rows (the two strands of a window) is looked for
in the genome (`exact_match`); a window with several places gets the one between those of its
neighbours in the file, which is sorted, where that is a single one. A window that was found is
compared with the genome letter by letter. The dataset is that of `pipelines.chromatin`, so the
sequence around a bin is there as far as the contig goes; `usable` are the bins of the bundle alone.

What is left out is counted, in `index.json` under `bundle` and in the log:

    strands differ      the second row is not the other strand of the first, or has other labels
    not in the genome   no place
    several places      more than one, and the neighbours do not decide
    off the grid        its bin does not start at a multiple of 200
    outside its part    its bin lies in another part of the split, or in none
    unknown bases       N in the bin itself, or in more than half of its window
    given before        another row has this bin
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from genobird.errors import InputError, TableError, UsageError
from genobird.files import refuse_existing
from genobird.names import require
from genobird.peaks import BIN_BP, feature_table
from pipelines import chromatin, grch37, manifest, steps
from pipelines.exact_match import Bytes, Hashes, WindowIndex, complement, window_hashes
from pipelines.manifest import Splits

logger = logging.getLogger(__name__)

FILES = {"train": "train.mat", "validation": "valid.mat", "test": "test.mat"}
"""Part of the split -> file."""
CHUNK = 4_000
"""Pairs that are read at a time: 32 MB of sequence."""
CONTEXT_BP = 8_000
FEATURES = "features.tsv"
KEPT = "kept"
WHOLE = "kept, with 8,000 known bases on both sides"
LEFT_OUT = (
    *("strands differ", "not in the genome", "several places", "off the grid"),
    *("outside its part", "unknown bases", "given before"),
)
_ORDER = np.frombuffer(b"AGCT", np.uint8)
_HDF5 = b"\x89HDF\r\n\x1a\n"
Places = npt.NDArray[np.int64]


class Rows:
    """One array of a file, one row per window, whichever way it is stored.

    It is an array or an HDF5 dataset, read by slices. With `last`, rows are along the last axis,
    and the others in reverse order. Messages call it `name`.
    """

    def __init__(self, stored: Any, last: bool, name: str) -> None:
        self._stored, self._last, self.name = stored, last, name
        shape = tuple(int(n) for n in stored.shape)
        self.shape = shape[::-1] if last and len(shape) == 2 else shape
        if last and len(shape) == 3:
            self.shape = shape[2], shape[1], shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, first: int, end: int) -> Bytes:
        """Return rows [first, end)."""
        if not self._last:
            return np.asarray(self._stored[first:end], dtype=np.uint8)
        piece = np.asarray(self._stored[..., first:end], dtype=np.uint8)
        return piece.transpose(tuple(range(piece.ndim))[::-1])


@contextmanager
def open_array(path: Path, key: str) -> Iterator[Rows]:
    """Open one array of a MATLAB file.

    Raises:
        UsageError: there is no such file, or HDF5 cannot be read here.
        TableError: the file is no MATLAB file or has no such array.
    """
    if not _is_hdf5(steps.require(path)):
        yield Rows(_load(path, key), False, f"{key} in {path}")
        return
    h5py = require("h5py", f"{path} is HDF5 and")
    with h5py.File(path, "r") as file:
        if key not in file:
            raise TableError(f"{path} has no array {key!r}; it has {', '.join(file)}")
        yield Rows(file[key], True, f"{key} in {path}")


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(520)
    return start.startswith((_HDF5, b"MATLAB 7.3")) or start[512:] == _HDF5


def _load(path: Path, key: str) -> Any:
    try:
        found = [name for name, _, _ in whosmat(path)]
        if key not in found:
            raise TableError(f"{path} has no array {key!r}; it has {', '.join(found)}")
        return loadmat(path, variable_names=[key])[key]
    except (ValueError, OSError, TypeError, MatReadError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path} cannot be read as a MATLAB file: {error}") from error


def letters(one_hot: Bytes, where: str) -> Bytes:
    """Return windows [n, 4, L] in the order A, G, C, T as upper-case letters, [n, L].

    Raises:
        TableError: a position has two letters, or a value is neither 0 nor 1.
    """
    if one_hot.ndim != 3 or one_hot.shape[1] != 4:
        raise TableError(f"{where} is {list(one_hot.shape)}; windows are [rows, 4, bases]")
    if one_hot.max(initial=0) > 1 or one_hot.sum(axis=1).max(initial=0) > 1:
        raise TableError(f"{where} is not one-hot: a base is none or one of A, G, C and T")
    spelt = (one_hot * _ORDER[:, None]).sum(axis=1, dtype=np.uint8)
    spelt[spelt == 0] = ord("N")
    return np.ascontiguousarray(spelt)


@dataclass
class Part:
    """The pairs of one file, as far as they are known; -1 is no place.

    Attributes:
        name: part of the split.
        file: its file.
        length: bases of a window.
        forward: hash of each pair's first row, [N].
        reverse: hash of the other strand, [N].
        agrees: whether both rows of a pair say the same, [N].
        known: whether at least half of its bases are known, [N]: a gap is like any other.
        contig: number of the contig of each pair, [N].
        start: first base of its window, [N].
        turned: whether the first row is the reverse strand, [N].
        counts: what was left out, and why.
    """

    name: str
    file: Path
    length: int
    forward: Hashes
    reverse: Hashes
    agrees: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    contig: Places = field(init=False)
    start: Places = field(init=False)
    turned: npt.NDArray[np.bool_] = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.contig, self.start = np.full((2, len(self)), -1, dtype=np.int64)
        self.turned = np.zeros(len(self), dtype=bool)

    def __len__(self) -> int:
        return len(self.forward)

    @classmethod
    def read(cls, name: str, file: Path) -> Part:
        """Hash all pairs of a file.

        Raises:
            TableError: its arrays are not as the bundle's.
        """
        with open_array(file, array_of(file, "xdata")) as rows:
            if len(rows.shape) != 3 or len(rows) % 2 or not len(rows):
                raise TableError(
                    f"{rows.name} is {list(rows.shape)}; rows come in pairs of strands"
                )
            pairs = len(rows) // 2
            forward, reverse = np.empty((2, pairs), dtype=np.uint64)
            agrees, known = np.empty((2, pairs), dtype=bool)
            for at in range(0, pairs, CHUNK):
                part = slice(at, min(at + CHUNK, pairs))
                first = letters(rows.read(part.start, part.stop), rows.name)
                second = letters(rows.read(part.start + pairs, part.stop + pairs), rows.name)
                other = complement(first)
                agrees[part] = (other == second).all(axis=1)
                known[part] = (first == ord("N")).mean(axis=1) <= 0.5
                forward[part], reverse[part] = window_hashes(first), window_hashes(other)
        return cls(name, file, rows.shape[2], forward, reverse, agrees, known)


@dataclass(frozen=True)
class Hits:
    """Places of windows by their place in an index, sorted by it."""

    window: Places
    contig: Places
    start: Places

    def of(self, windows: Places) -> tuple[Places, Places]:
        """Return the first and the last (exclusive) hit of windows."""
        return (
            np.searchsorted(self.window, windows, side="left"),
            np.searchsorted(self.window, windows, side="right"),
        )


def place(part: Part, index: WindowIndex, hits: Hits) -> None:
    """Give pairs their places: the only one, or the one between their neighbours'."""
    ranges = []
    for hashes in (part.forward, part.reverse):
        ranges.append(hits.of(index.find(hashes)))
    palindromes = part.forward == part.reverse
    numbers = sum(end - first for first, end in ranges) // np.where(palindromes, 2, 1)
    numbers[~part.agrees | ~part.known] = 0
    for turned, (first, end) in enumerate(ranges):
        only = np.flatnonzero((numbers == 1) & (end > first) & (part.start < 0))
        part.contig[only] = hits.contig[first[only]]
        part.start[only] = hits.start[first[only]]
        part.turned[only] = bool(turned)
    placed = part.start >= 0
    several = np.flatnonzero(numbers > 1)
    _between_neighbours(part, hits, ranges, several)
    part.counts["pairs"] = len(part)
    part.counts["one place"] = int(placed.sum())
    part.counts["several places, one between the neighbours"] = int(
        (part.start[several] >= 0).sum()
    )
    part.counts["several places"] = int((part.start[several] < 0).sum())
    part.counts["not in the genome"] = int((part.agrees & part.known & (numbers == 0)).sum())
    part.counts["strands differ"] = int((~part.agrees).sum())
    part.counts["unknown bases"] = int((part.agrees & ~part.known).sum())


def _between_neighbours(
    part: Part, hits: Hits, ranges: list[tuple[Places, Places]], several: Places
) -> None:
    placed = np.flatnonzero(part.start >= 0)
    for pair in several:
        behind = np.searchsorted(placed, pair)
        if behind in (0, len(placed)):
            continue
        before, after = placed[behind - 1], placed[behind]
        contig = part.contig[before]
        if contig != part.contig[after]:
            continue
        found: list[tuple[int, bool]] = []
        for turned, (first, end) in enumerate(ranges):
            there = slice(first[pair], end[pair])
            starts = hits.start[there][hits.contig[there] == contig]
            between = starts[(part.start[before] < starts) & (starts < part.start[after])]
            found += [(int(start), bool(turned)) for start in between]
        if len(found) == 1:
            part.contig[pair] = contig
            part.start[pair], part.turned[pair] = found[0]


def array_of(file: Path, what: str) -> str:
    """Name the array of a file: `trainxdata` holds the sequence (`xdata`) of train.mat."""
    return file.name.removesuffix(".mat") + what


class Dataset:
    """The arrays of a chromatin dataset under way, on disk."""

    def __init__(self, folder: Path, lengths: Mapping[str, int], features: int) -> None:
        self.folder, self.lengths, self.features = folder, dict(lengths), features
        self.contigs = list(lengths)
        self._sequences = {c: self._open(c, "sequence", "r") for c in lengths}
        self._labels = {
            c: self._open(c, "labels", "w+", (length // BIN_BP, -(-features // 8)))
            for c, length in lengths.items()
        }
        self._usable = {
            c: self._open(c, "usable", "w+", (length // BIN_BP,)) for c, length in lengths.items()
        }

    def _open(self, contig: str, what: str, mode: str, shape: tuple[int, ...] | None = None) -> Any:
        path = self.folder / f"{contig}.{what}.npy"
        return np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]

    def sequence(self, contig: str, start: int, end: int) -> Bytes:
        """Return bases [start, end), cut at the contig's ends."""
        return np.asarray(self._sequences[contig][max(0, start) : end])

    def taken(self, contig: str, number: int) -> bool:
        """Say whether a bin has labels already."""
        return bool(self._usable[contig][number])

    def write(self, contig: str, bins: Places, packed: Bytes) -> None:
        """Store the labels of bins, bits [n, F / 8]."""
        self._labels[contig][bins] = packed
        self._usable[contig][bins] = 1


def fill(part: Part, dataset: Dataset, splits: Splits) -> npt.NDArray[np.int64]:
    """Compare windows with the genome, and store the labels of the bins that lie in their part.

    Returns:
        Positives of each feature, [F].

    Raises:
        TableError: the labels are not as the bundle's.
    """
    packed = _read_labels(part, dataset.features)
    positives = np.zeros(dataset.features, dtype=np.int64)
    with open_array(part.file, array_of(part.file, "xdata")) as rows:
        for at in range(0, len(part), CHUNK):
            pairs = np.arange(at, min(at + CHUNK, len(part)))
            windows = letters(rows.read(at, at + len(pairs)), rows.name)
            for number in np.unique(part.contig[pairs][part.start[pairs] >= 0]):
                mine = np.flatnonzero((part.contig[pairs] == number) & (part.start[pairs] >= 0))
                contig = dataset.contigs[number]
                kept, bins = _kept(part, dataset, splits, contig, pairs[mine], windows[mine])
                dataset.write(contig, bins, packed[kept])
                table = np.unpackbits(
                    packed[kept], axis=1, count=dataset.features, bitorder="little"
                )
                positives += table.sum(axis=0, dtype=np.int64)
    return positives


def _read_labels(part: Part, features: int) -> Bytes:
    """Return the labels of all pairs as bits; where its rows differ, a pair loses its place."""
    with open_array(part.file, array_of(part.file, "data")) as rows:
        if rows.shape != (2 * len(part), features):
            raise TableError(
                f"{rows.name} is {list(rows.shape)}; {2 * len(part)} rows of {features} features "
                "are needed"
            )
        packed = np.empty((len(part), -(-features // 8)), dtype=np.uint8)
        for at in range(0, len(part), CHUNK):
            end = min(at + CHUNK, len(part))
            table, mates = rows.read(at, end), rows.read(at + len(part), end + len(part))
            if table.max(initial=0) > 1:
                raise TableError(f"{rows.name} holds {table.max()}; labels are 0 or 1")
            packed[at:end] = np.packbits(table, axis=1, bitorder="little")
            odd = at + np.flatnonzero((table != mates).any(axis=1))
            part.counts["strands differ"] += int((part.start[odd] >= 0).sum())
            part.start[odd] = -1
    return packed


def _kept(
    part: Part, dataset: Dataset, splits: Splits, contig: str, pairs: Places, windows: Bytes
) -> tuple[Places, Places]:
    """Return which pairs of a contig are kept, and their bins."""
    margin = (windows.shape[1] - BIN_BP) // 2
    bins: dict[int, int] = {}
    for pair, window in zip(pairs.tolist(), windows, strict=True):
        start = int(part.start[pair])
        stored = dataset.sequence(contig, start, start + len(window))
        seen = complement(window[None])[0] if part.turned[pair] else window
        first = start + margin
        number = first // BIN_BP
        where = splits.of(contig, first, first + BIN_BP)
        if not np.array_equal(stored, seen):
            why = "not in the genome"  # equal hashes of other letters
        elif first % BIN_BP:
            why = "off the grid"
        elif where is None or where[0] != part.name:
            why = "outside its part"
        elif (stored[margin : margin + BIN_BP] == ord("N")).any():
            why = "unknown bases"
        elif number in bins or dataset.taken(contig, number):
            why = "given before"
        else:
            why = KEPT
            bins[number] = pair
            around = dataset.sequence(contig, first - CONTEXT_BP, first + BIN_BP + CONTEXT_BP)
            whole = len(around) == 2 * CONTEXT_BP + BIN_BP and not (around == ord("N")).any()
            part.counts[WHOLE] += int(whole)
        part.counts[why] += 1
    return np.array(list(bins.values()), dtype=np.int64), np.array(list(bins), dtype=np.int64)


def build(
    bundle: Path,
    contigs: Mapping[str, grch37.Contig],
    splits: Splits,
    output: Path,
    features: pd.DataFrame,
    sources: Mapping[str, str] | None = None,
    force: bool = False,
) -> dict[str, Counter[str]]:
    """Write a chromatin dataset from those files of the bundle that are there.

    Contigs are by the names that the split uses; `features` are F rows `index name class`, in the
    order of the labels, and `sources` names and hashes of the inputs.

    Returns:
        What was kept and left out, by part of the split.

    Raises:
        UsageError: no file is there, or `output` exists.
        OutOfBoundsError: an interval of the split ends after its contig.
        TableError: a file is not as the bundle's.
        InputError: nothing was found in the genome.
    """
    files = {name: bundle / file for name, file in FILES.items() if (bundle / file).is_file()}
    if not files:
        raise UsageError(f"{bundle} has none of {', '.join(FILES.values())}; unpack the bundle")
    parts = []
    for name, file in files.items():
        parts.append(Part.read(name, file))
        logger.info("%s: %d pairs of rows", file.name, len(parts[-1]))
    if len({part.length for part in parts}) > 1:
        raise TableError(f"windows are of {', '.join(f'{p.length} bp in {p.file}' for p in parts)}")
    wanted = [h[part.known] for part in parts for h in (part.forward, part.reverse)]
    index = WindowIndex(np.concatenate(wanted), parts[0].length)
    lengths = {name: contig.length for name, contig in contigs.items()}
    splits.refuse_outside(lengths)
    with steps.new_directory(output, force, chromatin.KIND) as folder:
        hits = _scan(contigs, index, folder)
        dataset = Dataset(folder, lengths, len(features))
        positives = {}
        for part in parts:
            place(part, index, hits)
            positives[part.name] = fill(part, dataset, splits).tolist()
            for what, count in part.counts.items():
                logger.info("%s, %s: %d", part.file.name, what, count)
        if not any(part.counts[KEPT] for part in parts):
            raise InputError(
                f"no row of {bundle} has its place in {', '.join(contigs)}; is it GRCh37, and are "
                "these the contigs of the files?"
            )
        columns = ["index", "name", "class"]
        features[columns].to_csv(folder / FEATURES, sep="\t", index=False)
        chromatin.write_index(
            folder,
            splits,
            lengths,
            len(features),
            bins={part.name: part.counts[KEPT] for part in parts},
            positives=positives,
            left_out=[],
            bundle={part.file.name: dict(sorted(part.counts.items())) for part in parts},
            sources=sources,
        )
    return {part.name: part.counts for part in parts}


def _scan(contigs: Mapping[str, grch37.Contig], index: WindowIndex, folder: Path) -> Hits:
    """Store the sequence of each contig and find the windows in it."""
    found: list[tuple[Places, Places, Places]] = []
    for number, (name, contig) in enumerate(contigs.items()):
        letters = np.frombuffer(contig.sequence().encode("ascii"), dtype=np.uint8)
        np.save(folder / f"{name}.sequence.npy", letters)
        before = len(found)
        for starts, windows in index.scan(letters):
            found.append((windows, np.full(len(starts), number), starts))
        hits = sum(len(each[0]) for each in found[before:])
        logger.info("%s: %d windows found", name, hits)
    if not found:
        return Hits(*np.empty((3, 0), dtype=np.int64))
    window, where, start = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.lexsort((start, where, window))
    return Hits(window[order], where[order], start[order])


def main(
    bundle: Annotated[Path, typer.Option(help="Folder with train.mat, valid.mat, test.mat.")],
    fasta: steps.Fastas,
    output: steps.OutputFolder,
    features: Annotated[Path, typer.Option(help="Official features.")] = chromatin.FEATURES,
    splits: steps.SplitName = "paper",
    splits_file: steps.SplitsFile = None,
    force: steps.Force = False,
) -> None:
    """Find the rows of the DeepSEA bundle in the genome and write them as a chromatin dataset."""
    refuse_existing(output, force, chromatin.KIND)
    split = manifest.load_splits(splits, splits_file)
    table = feature_table(chromatin.read_features(features))
    inputs = [features, *fasta, *(bundle / f for f in FILES.values() if (bundle / f).is_file())]
    sources = {path.name: steps.sha256(path) for path in inputs}
    with grch37.locate(fasta, split.contigs) as contigs:
        build(bundle, contigs, split, output, table, sources, force)


if __name__ == "__main__":
    steps.run(main)
