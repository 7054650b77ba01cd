"""Placed sequences and peaks -> labelled sites, for training beside the bins of a dataset.

A site is a few hundred bases of a contig whose rest is not at hand. Its labels are those of the
200 bp around its midpoint. A feature without a single peak on a contig is unknown there: the
experiment left the contig out. The file (`genobird.datasets.Sites`) holds, for N sites:

    features    names of the F labels: the dataset's, then the auxiliary one's
    codes       uint8 [N, L], bases centred on the midpoint (A C G T are 0 to 3, 4 is unknown)
    labels      uint8 [N, ceil(F / 8)], bits, little-endian within a byte
    known       the same, 1 where the label is known
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from genobird.datasets import ChromatinDataset
from genobird.errors import InputError, TableError
from genobird.files import refuse_existing
from genobird.genome.sequence import NO_BASE, base_codes, normalise
from genobird.peaks import BIN_BP, Track, labels_at
from pipelines import manifest, steps
from pipelines.chromatin import FEATURES, read_features, read_other_tracks, read_peak_table
from pipelines.manifest import Splits

logger = logging.getLogger(__name__)

LENGTH = 720
"""Bases that are kept of a site, L: as many as a local network reads, and room to shift."""
_COLUMNS = ["chrom", "start", "end", "sequence"]


def read_sites(path: Path, splits: Splits) -> pd.DataFrame:
    """Read sites (`chrom start end sequence`, 0-based half-open) that lie in a split's train part.

    Raises:
        UsageError: there is no such file.
        TableError: a column is missing, or a sequence is not as long as its interval.
        InputError: no site lies in the train part.
    """
    table = steps.read_table(path, _COLUMNS, comment="#")
    odd = table["sequence"].str.len() != table["end"] - table["start"]
    if odd.any():
        row = table[odd].iloc[0]
        raise TableError(
            f"{path}: the site {row['chrom']} {row['start']} {row['end']} has "
            f"{len(row['sequence'])} bases"
        )
    inside = np.zeros(len(table), dtype=bool)
    for interval in splits.parts["train"]:
        inside |= (
            (table["chrom"] == interval.contig)
            & (table["start"] >= interval.start)
            & (table["end"] <= interval.end)
        ).to_numpy()
    if not inside.any():
        raise InputError(f"{path}: none of {len(table)} sites lies in the train part of the split")
    logger.info("%d of %d sites lie in the train part", inside.sum(), len(table))
    return table[inside].reset_index(drop=True)


def site_codes(table: pd.DataFrame) -> NDArray[np.uint8]:
    """Return the bases of sites around their midpoints, [N, LENGTH]."""
    codes = np.full((len(table), LENGTH), NO_BASE, dtype=np.uint8)
    rows = zip(table["start"], table["end"], table["sequence"], strict=True)
    for row, (start, end, sequence) in enumerate(rows):
        first = LENGTH // 2 - ((start + end) // 2 - start)
        bases = base_codes(normalise(sequence, f"site {row + 1}"))
        bases = bases[max(0, -first) :][: LENGTH - max(0, first)]
        codes[row, max(0, first) : max(0, first) + len(bases)] = bases
    return codes


def site_labels(
    table: pd.DataFrame, tracks: Sequence[Track]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return labels of the 200 bp around midpoints, and which are known, [N, F] each."""
    labels, known = np.zeros((2, len(table), len(tracks)), dtype=bool)
    for contig, rows in table.groupby("chrom").indices.items():
        middles = ((table["start"] + table["end"]) // 2).to_numpy()[rows]
        labels[rows] = labels_at(tracks, str(contig), middles - BIN_BP // 2)
        known[rows] = [contig in track.peaks for track in tracks]
    return labels, known


def main(
    sites: Annotated[Path, typer.Option(help="Table chrom, start, end, sequence.")],
    peaks: Annotated[
        list[Path],
        typer.Option(help="Table chrom, start, end, track_id; repeat for other contigs' tables."),
    ],
    tracks: Annotated[Path, typer.Option(help="Table track_id, deepsea_index.")],
    chromatin: Annotated[Path, typer.Option(help="Dataset whose features are wanted.")],
    output: Annotated[Path, typer.Option(help="File to write (.npz).")],
    auxiliary: Annotated[Path | None, typer.Option(help="Dataset of auxiliary features.")] = None,
    features: Annotated[Path, typer.Option(help="Table of official features.")] = FEATURES,
    splits: steps.SplitName = "sites",
    splits_file: steps.SplitsFile = None,
    force: steps.Force = False,
) -> None:
    """Label placed sequences by the peaks around their midpoints."""
    refuse_existing(output, force)
    official = read_features(features)
    found: dict[str, Track] = {}
    for path in peaks:
        read = read_peak_table(path, tracks, official)
        read += read_other_tracks(path, tracks) if auxiliary is not None else []
        for one in read:
            known = found.get(one.feature.name, Track(one.feature, {}))
            found[one.feature.name] = Track(one.feature, {**known.peaks, **one.peaks})
    wanted = [
        name
        for path in (chromatin, auxiliary)
        if path is not None
        for name in ChromatinDataset(path).features["name"]
    ]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"{tracks} has no track of the feature {missing[0]}")
    table = read_sites(sites, manifest.load_splits(splits, splits_file))
    labels, is_known = site_labels(table, [found[name] for name in wanted])
    with steps.new_file(output, force) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            features=np.array(wanted),
            codes=site_codes(table),
            labels=np.packbits(labels, axis=1, bitorder="little"),
            known=np.packbits(is_known, axis=1, bitorder="little"),
        )
    logger.info("%d sites, %d positive labels", len(table), (labels & is_known).sum())


if __name__ == "__main__":
    steps.run(main)
