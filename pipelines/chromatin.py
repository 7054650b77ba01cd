"""Peaks -> chromatin dataset: the genome as bytes and, for each 200-bp bin, which features it has.

Bins and their labels are those of `genobird.peaks`. A bin is usable when it lies wholly in one
interval of a split and holds no N. Files of a dataset:

    features.tsv           index (in the 919; -1 for a track of one's own), name (unique), class
    index.json             bins, splits, positives per feature and split, hashes of all inputs
    qc.tsv                 the same counts as a table, also of the features that were left out
    <contig>.sequence.npy  uint8 ASCII [L], upper-case, N where the sequence is not known
    <contig>.labels.npy    uint8 packed bits [L // 200, ceil(F / 8)], bitorder little
    <contig>.usable.npy    uint8 0/1 [L // 200]
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from genobird.errors import ContigError, TableError, UsageError
from genobird.files import Kind, refuse_existing
from genobird.peaks import (
    BIN_BP,
    CUSTOM_CLASS,
    Feature,
    Peaks,
    Track,
    bins_inside,
    feature_table,
    labels,
    merge,
    place_tracks,
    read_peaks,
)
from pipelines import grch37, manifest, steps
from pipelines.grch37 import Contig
from pipelines.manifest import Splits

logger = logging.getLogger(__name__)

FEATURES = manifest.FOLDER / "chromatin_features.tsv"
QUALITY = "qc.tsv"
_FILES = ("index.json", "features.tsv", QUALITY, "*.sequence.npy", "*.usable.npy", "*.labels.npy")
KIND = Kind("chromatin dataset", "index.json", _FILES, '"bin_bp"')


def read_features(path: Path) -> list[Feature]:
    """Read the table of official features (`index column class source_file`), in order.

    Raises:
        UsageError: there is no such file.
        TableError: a column is missing or a name is not unique.
    """
    table = _read_table(path, ["index", "column", "class", "source_file"])
    if table["column"].duplicated().any() or table["index"].duplicated().any():
        raise TableError(f"{path}: values of `column` and `index` must be unique")
    rows = zip(table["index"], table["column"], table["class"], table["source_file"], strict=True)
    return [Feature(int(index), name, kind, source) for index, name, kind, source in rows]


def read_peak_table(peaks: Path, tracks: Path, features: Sequence[Feature]) -> list[Track]:
    """Read one table of peaks (`chrom start end track_id`) and the table that explains its tracks.

    Tracks whose `deepsea_index` is negative are no official features and are left out. Several
    tracks of one feature are joined.

    Raises:
        UsageError: a file is missing.
        TableError: columns are missing, an interval is empty, or an index is unknown.
    """
    by_index = {feature.index: feature for feature in features}
    known = _read_table(tracks, ["track_id", "deepsea_index"]).astype("int64")
    known = known[known["deepsea_index"] >= 0]
    unknown = sorted(set(known["deepsea_index"]) - by_index.keys())
    if unknown:
        raise TableError(f"{tracks}: deepsea_index {unknown[0]} is not in the table of features")
    index_of = dict(zip(known["track_id"], known["deepsea_index"], strict=True))
    found = _peaks_by(_read_peak_rows(peaks), index_of)
    return [Track(by_index[index], found[index]) for index in sorted(found)]


def read_other_tracks(peaks: Path, tracks: Path) -> list[Track]:
    """Read what `read_peak_table` leaves out: tracks that are no official features, by `track_id`.

    Each is a feature of one's own, named by its `source_file`.

    Raises:
        UsageError: a file is missing, or all tracks are official.
        TableError: columns are missing, an interval is empty, or two tracks have one name.
    """
    known = _read_table(tracks, ["track_id", "deepsea_index", "source_file"])
    known = known[known["deepsea_index"].astype("int64") < 0]
    if known.empty:
        raise UsageError(f"{tracks} has no other tracks: every deepsea_index is of a feature")
    names = known["source_file"].str.removesuffix(".gz").str.rsplit(".", n=1).str[0]
    twice = names[names.duplicated()]
    if len(twice):
        raise TableError(f"{tracks}: two other tracks have the name {twice.iloc[0]}")
    identity = {int(track): int(track) for track in known["track_id"]}
    found = _peaks_by(_read_peak_rows(peaks), identity)
    features = {
        track: Feature(-1, name, CUSTOM_CLASS) for track, name in zip(identity, names, strict=True)
    }
    return [Track(features[track], found[track]) for track in sorted(found)]


def _read_peak_rows(peaks: Path) -> pd.DataFrame:
    table = _read_table(peaks, ["chrom", "start", "end", "track_id"])
    table = table.astype({"start": "int64", "end": "int64", "track_id": "int64"})
    bad = table[(table["start"] < 0) | (table["end"] <= table["start"])]
    if len(bad):
        row = bad.iloc[0]
        raise TableError(f"{peaks}: peak {row['chrom']} {row['start']} {row['end']} has no length")
    return table


def _peaks_by(table: pd.DataFrame, key_of: Mapping[int, int]) -> dict[int, Peaks]:
    """Gather the peaks of each key; tracks without a key are left out."""
    keys = table["track_id"].map(key_of)
    found: dict[int, Peaks] = {}
    for key in set(key_of.values()):
        rows = table[keys == key]
        places = rows[["start", "end"]].to_numpy(np.int64)
        contigs = rows["chrom"].to_numpy(str)
        found[key] = {str(c): places[contigs == c] for c in sorted(set(contigs))}
    return found


def read_peak_files(paths: Sequence[Path], features: Sequence[Feature]) -> list[Track]:
    """Read BED or narrowPeak files, one per feature, or directories of them.

    A file named as an official feature's source becomes that feature; any other becomes a feature
    of one's own, named by the file, after the official ones.

    Raises:
        UsageError: a path does not exist or two files have one name.
        BedError: a line cannot be read.
    """
    official = {feature.source_file: feature for feature in features if feature.source_file}
    tracks: dict[tuple[bool, int, str], Track] = {}
    for path in _expand(paths):
        stem = path.name.removesuffix(".gz")
        own = Feature(-1, stem.rsplit(".", 1)[0], CUSTOM_CLASS, stem)
        feature = official.get(stem, own)
        key = (feature.index < 0, feature.index, feature.name)
        if key in tracks:
            raise UsageError(f"two peak files make the feature {feature.name}; rename one of them")
        tracks[key] = Track(feature, read_peaks(path))
    return [tracks[key] for key in sorted(tracks)]


def _expand(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [file for file in sorted(path.iterdir()) if _is_peak_file(file)]
            if not found:
                raise UsageError(f"{path} holds no .bed or .*Peak file, plain or .gz")
            files += found
        else:
            files.append(steps.require(path))
    return files


def _is_peak_file(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return path.is_file() and name.endswith((".bed", "Peak", ".peaks"))


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    return steps.read_table(path, columns, keep_default_na=False)[columns]


class _Located:
    """The contigs of a split in one or several FASTA files, as something to place peaks on."""

    def __init__(self, contigs: Mapping[str, Contig]) -> None:
        self.contigs = contigs
        self.genomes = {contig.genome.path: contig.genome for contig in contigs.values()}
        self.names = {(c.genome.path, c.name): asked for asked, c in contigs.items()}
        self.path = f"the split's contigs of {', '.join(map(str, self.genomes))}"

    def resolve(self, name: str) -> str:
        for path, genome in self.genomes.items():
            with suppress(ContigError):
                found = genome.resolve(name)
                if (path, found) in self.names:
                    return self.names[path, found]
        raise ContigError(f"contig {name!r} is not in {self.path}")

    def length(self, name: str) -> int:
        return self.contigs[name].length


@dataclass(frozen=True)
class Counts:
    """How many usable bins each part of the split has, and how many are positive."""

    bins: dict[str, int]
    positives: dict[str, npt.NDArray[np.int64]]
    """Part -> [F]."""


def _split_usable(
    sequence: npt.NDArray[np.uint8], contig: str, splits: Splits
) -> dict[str, npt.NDArray[np.bool_]]:
    bins = len(sequence) // BIN_BP
    known = (sequence[: bins * BIN_BP].reshape(bins, BIN_BP) != ord("N")).all(axis=1)
    return {
        part: bins_inside(intervals, contig, bins) & known
        for part, intervals in splits.parts.items()
    }


def build(
    tracks: Sequence[Track],
    contigs: Mapping[str, Contig],
    splits: Splits,
    output: Path,
    min_positives: int = 50,
    sources: Mapping[str, str] | None = None,
    force: bool = False,
) -> Counts:
    """Write a chromatin dataset; the columns are in the order of the tracks.

    Contigs are by the name that peaks and splits use. A feature with fewer than `min_positives`
    positive training bins is left out. `sources` are names and hashes of the inputs.

    Returns:
        Usable bins, and positives of the features that were kept, by part.

    Raises:
        UsageError: `output` exists, or no feature has enough positives.
        OutOfBoundsError: an interval of the split or a peak ends after its contig.
        ContigError: every peak is on another contig.
    """
    lengths = {name: contig.length for name, contig in contigs.items()}
    splits.refuse_outside(lengths)
    tracks = place_tracks(tracks, _Located(contigs))
    parts = tuple(splits.parts)
    bins = dict.fromkeys(parts, 0)
    positives = {part: np.zeros(len(tracks), dtype=np.int64) for part in parts}
    with steps.new_directory(output, force, KIND) as folder:
        for name, contig in contigs.items():
            sequence = np.frombuffer(contig.sequence().encode("ascii"), dtype=np.uint8)
            masks = _split_usable(sequence, name, splits)
            table = labels(tracks, name, len(sequence) // BIN_BP)
            for part, mask in masks.items():
                bins[part] += int(mask.sum())
                positives[part] += table[mask].sum(axis=0)
            np.save(folder / f"{name}.sequence.npy", sequence)
            usable = np.logical_or.reduce(list(masks.values()))
            np.save(folder / f"{name}.usable.npy", usable.astype(np.uint8))
            logger.info("%s: %d of %d bins usable", name, usable.sum(), len(usable))
        kept = np.flatnonzero(positives["train"] >= min_positives)
        if not len(kept):
            raise UsageError(
                f"none of {len(tracks)} features has {min_positives} positive training bins "
                f"on {', '.join(contigs)}; are peaks and genome of one assembly? "
                "If so, lower --min-positives"
            )
        chosen = [tracks[column] for column in kept]
        for name, length in lengths.items():
            table = labels(chosen, name, length // BIN_BP)
            np.save(folder / f"{name}.labels.npy", np.packbits(table, axis=1, bitorder="little"))
        counts = Counts(bins, {part: positives[part][kept] for part in parts})
        _write_tables(folder, tracks, kept, positives, bins)
        write_index(
            folder,
            splits,
            lengths,
            len(kept),
            bins=bins,
            positives={part: found.tolist() for part, found in counts.positives.items()},
            left_out=[t.feature.name for i, t in enumerate(tracks) if i not in set(kept)],
            min_positives=min_positives,
            sources=sources,
        )
    return counts


def write_index(
    folder: Path,
    splits: Splits,
    lengths: Mapping[str, int],
    features: int,
    *,
    bins: Mapping[str, int],
    positives: Mapping[str, list[int]],
    sources: Mapping[str, str] | None,
    **others: object,
) -> None:
    """Write the `index.json` of a dataset of F features.

    `lengths` are the bases of its contigs, `bins` the usable ones of those parts of the split that
    the dataset has, `positives` those of each feature in each part, [F], and `sources` names and
    hashes of the inputs; `others` stand in it too.
    """
    index = {
        "version": steps.FORMAT_VERSION,
        "bin_bp": BIN_BP,
        "features": features,
        **others,
        "split": splits.name,
        "splits": {
            part: [[i.contig, i.start, i.end] for i in splits.parts[part] if i.contig in lengths]
            for part in bins
        },
        "contigs": dict(lengths),
        "bins": dict(bins),
        "positives": dict(positives),
        "sources": dict(sorted((sources or {}).items())),
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _write_tables(
    folder: Path,
    tracks: Sequence[Track],
    kept: npt.NDArray[np.int64],
    positives: Mapping[str, npt.NDArray[np.int64]],
    bins: Mapping[str, int],
) -> None:
    table = feature_table(track.feature for track in tracks)
    table.iloc[kept].to_csv(folder / "features.tsv", sep="\t", index=False)
    table["kept"] = np.isin(np.arange(len(tracks)), kept).astype(int)
    merged = [[merge(peaks) for peaks in track.peaks.values()] for track in tracks]
    table["peaks"] = [sum(len(peaks) for peaks in track.peaks.values()) for track in tracks]
    table["merged_peaks"] = [sum(len(peaks) for peaks in union) for union in merged]
    table["covered_bp"] = [sum(int((u[:, 1] - u[:, 0]).sum()) for u in union) for union in merged]
    for part, counts in positives.items():
        table[f"{part}_positives"] = counts
        table[f"{part}_rate"] = counts / max(bins[part], 1)
    table.to_csv(folder / QUALITY, sep="\t", index=False, float_format="%.6g")


def main(
    fasta: steps.Fastas,
    output: steps.OutputFolder,
    peaks: Annotated[Path | None, typer.Option(help="Table chrom, start, end, track_id.")] = None,
    tracks: Annotated[Path | None, typer.Option(help="Table track_id, deepsea_index.")] = None,
    others: Annotated[
        bool,
        typer.Option("--others", help="With --tracks: those that are no official features alone."),
    ] = False,
    bed: Annotated[list[Path] | None, typer.Option(help="Peak file, or a folder of them.")] = None,
    features: Annotated[Path, typer.Option(help="Table of official features.")] = FEATURES,
    splits: steps.SplitName = "available",
    splits_file: steps.SplitsFile = None,
    min_positives: Annotated[int, typer.Option(min=1, help="Fewest positive training bins.")] = 50,
    force: steps.Force = False,
) -> None:
    """Cut a genome into 200-bp bins and label each with the peaks that cover over half of it."""
    if (peaks is None) == (not bed) or (peaks is None) != (tracks is None):
        raise UsageError("give either --peaks with --tracks, or --bed")
    if others and tracks is None:
        raise UsageError("--others chooses among --tracks; give them with --peaks")
    refuse_existing(output, force, KIND)
    official = read_features(features)
    if peaks is not None and tracks is not None:
        found = (
            read_other_tracks(peaks, tracks) if others else read_peak_table(peaks, tracks, official)
        )
        inputs = [peaks, tracks]
    else:
        found = read_peak_files(bed or [], official)
        inputs = _expand(bed or [])
    split = manifest.load_splits(splits, splits_file)
    inputs = [*inputs, features, *fasta]
    sources = {path.name: steps.sha256(path) for path in inputs}
    with grch37.locate(fasta, split.contigs) as contigs:
        counts = build(found, contigs, split, output, min_positives, sources, force)
    for part, bins in counts.bins.items():
        rate = counts.positives[part].sum() / max(bins * len(counts.positives[part]), 1)
        logger.info("%s: %d usable bins, mean positive rate %.4f", part, bins, rate)
    logger.info("%d of %d features kept", len(counts.positives["train"]), len(found))


if __name__ == "__main__":
    steps.run(main)
