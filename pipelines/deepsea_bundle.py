"""The DeepSEA bundle -> chromatin dataset: where on the genome each of its rows lies, and labels.

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

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from genobird.errors import InputError, TableError, UsageError
from genobird.files import Kind, refuse_existing
from genobird.peaks import BIN_BP
from pipelines import chromatin, grch37, manifest, mat, steps
from pipelines.exact_match import Bytes, WindowIndex, complement
from pipelines.manifest import Splits
from pipelines.pairs import CHUNK, Hits, Part, Places, array_of, place

logger = logging.getLogger(__name__)

CONTEXT_BP = 8_000
FEATURES = "features.tsv"
KIND = Kind("chromatin dataset", FEATURES)
KEPT = "kept"
WHOLE = "kept, with 8,000 known bases on both sides"
LEFT_OUT = (
    *("strands differ", "not in the genome", "several places", "off the grid"),
    *("outside its part", "unknown bases", "given before"),
)


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
    """Compare windows with the genome and store the labels of their bins.

    Args:
        part: pairs with their places.
        dataset: where the labels go.
        splits: a bin must lie in this part of it.

    Returns:
        Positives of each feature, [F].

    Raises:
        TableError: the labels are not as the bundle's.
    """
    packed = _read_labels(part, dataset.features)
    positives = np.zeros(dataset.features, dtype=np.int64)
    with mat.open_array(part.file, array_of(part.file, "xdata")) as rows:
        for at in range(0, len(part), CHUNK):
            pairs = np.arange(at, min(at + CHUNK, len(part)))
            windows = mat.letters(rows.read(at, at + len(pairs)), rows.name)
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
    with mat.open_array(part.file, array_of(part.file, "data")) as rows:
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

    Args:
        bundle: folder with train.mat, valid.mat and test.mat, or some of them.
        contigs: the genome, by the names that the split uses.
        splits: what is trained on, validated and tested.
        output: the directory to write.
        features: F rows `index name class`, in the order of the labels.
        sources: names and hashes of the inputs, for `index.json`.
        force: replace `output` if it exists.

    Returns:
        What was kept and left out, by part of the split.

    Raises:
        UsageError: no file is there, or `output` exists.
        OutOfBoundsError: an interval of the split ends after its contig.
        TableError: a file is not as the bundle's.
        InputError: nothing was found in the genome.
    """
    files = {name: bundle / file for name, file in mat.FILES.items() if (bundle / file).is_file()}
    if not files:
        raise UsageError(f"{bundle} has none of {', '.join(mat.FILES.values())}; unpack the bundle")
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
    with steps.new_directory(output, force, KIND) as folder:
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
        facts: dict[str, Any] = {
            "version": steps.FORMAT_VERSION,
            "bin_bp": BIN_BP,
            "features": len(features),
            "left_out": [],
            "split": splits.name,
            "splits": {
                part.name: [
                    [i.contig, i.start, i.end]
                    for i in splits.parts[part.name]
                    if i.contig in lengths
                ]
                for part in parts
            },
            "contigs": lengths,
            "bins": {part.name: part.counts[KEPT] for part in parts},
            "positives": positives,
            "bundle": {part.file.name: dict(sorted(part.counts.items())) for part in parts},
            "sources": dict(sorted((sources or {}).items())),
        }
        (folder / "index.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
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


def read_features(path: Path) -> pd.DataFrame:
    """Read the table of official features as `index name class`, names unique."""
    features = chromatin.read_features(path)
    rows = [(f.index, f.name, f.kind) for f in features]
    return pd.DataFrame(rows, columns=["index", "name", "class"])


app = typer.Typer(add_completion=False)


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="Folder with train.mat, valid.mat, test.mat.")],
    fasta: Annotated[list[Path], typer.Option(help="Genome; repeat for several files.")],
    output: Annotated[Path, typer.Option(help="Directory to write.")],
    features: Annotated[Path, typer.Option(help="Official features.")] = chromatin.FEATURES,
    splits: Annotated[str, typer.Option(help="Name of the split.")] = "paper",
    splits_file: Annotated[Path | None, typer.Option(help="Splits of your own.")] = None,
    force: steps.Force = False,
) -> None:
    """Find the rows of the DeepSEA bundle in the genome and write them as a chromatin dataset."""
    refuse_existing(output, force, KIND)
    split = manifest.load_splits(splits, splits_file)
    table = read_features(features)
    inputs = [features, *fasta, *(bundle / f for f in mat.FILES.values() if (bundle / f).is_file())]
    sources = {path.name: steps.sha256(path) for path in inputs}
    with grch37.locate(fasta, split.contigs) as contigs:
        build(bundle, contigs, split, output, table, sources, force)


if __name__ == "__main__":
    steps.run(app)
