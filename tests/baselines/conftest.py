"""Data that can be learned: bins that hold a motif, windows that are rich in CpG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird.datasets import ChromatinDataset

MOTIF = "TGACTCAGGA"
CONTIG_BP = 60_100
SPLITS = {"train": [["chr1", 0, 50_000]], "test": [["chr1", 50_000, 60_100]]}


@pytest.fixture(scope="session")
def chromatin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three features: bins with a motif, bins rich in GC, and none; bins 40 and 41 hold N."""
    rng = np.random.Generator(np.random.Philox(7))
    bases = np.frombuffer(b"ACGT", np.uint8)
    count = CONTIG_BP // 200
    rich, motif = rng.random((2, count)) < 0.3
    sequence = bases[rng.integers(4, size=CONTIG_BP)]
    for i in np.flatnonzero(rich):
        sequence[200 * i : 200 * i + 200] = bases[rng.choice([1, 2, 1, 2, 0], size=200)]
    for i in np.flatnonzero(motif):
        at = 200 * i + int(rng.integers(20, 170))
        sequence[at : at + len(MOTIF)] = np.frombuffer(MOTIF.encode(), np.uint8)
    sequence[200 * 40 + 50 : 200 * 41 + 60] = ord("N")
    usable = np.ones(count, np.uint8)
    usable[40:42] = 0
    labels = np.stack([motif, rich, np.zeros(count, bool)], axis=1)
    path = tmp_path_factory.mktemp("chromatin") / "dataset"
    path.mkdir()
    np.save(path / "chr1.sequence.npy", sequence)
    np.save(path / "chr1.labels.npy", np.packbits(labels, axis=1, bitorder="little"))
    np.save(path / "chr1.usable.npy", usable)
    names = ["a|motif|None", "a|rich|None", "a|never|None"]
    features = pd.DataFrame({"index": [1, 2, 3], "name": names, "class": ["TF", "DNase", "TF"]})
    features.to_csv(path / "features.tsv", sep="\t", index=False)
    (path / "index.json").write_text(json.dumps({"bin_bp": 200, "splits": SPLITS, "bins": {}}))
    return path


@pytest.fixture
def dataset(chromatin_path: Path) -> ChromatinDataset:
    """The dataset, open."""
    return ChromatinDataset(chromatin_path)


@pytest.fixture(scope="session")
def promoter_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty windows; promoters are rich in GC around base 5,000."""
    rng = np.random.Generator(np.random.Philox(8))
    labels = np.arange(60) % 2
    sequences = []
    for label in labels:
        letters = rng.choice(list("ACGT"), size=8000)
        if label:
            letters[4800:5200] = rng.choice(list("CCGGA"), size=400)
        sequences.append("".join(letters))
    table = pd.DataFrame(
        {
            "chrom": "chr1", "start": np.arange(60) * 9000, "end": np.arange(60) * 9000 + 8000,
            "strand": "+", "name": [f"window{i}" for i in range(60)], "label": labels,
            "split": ["train"] * 40 + ["test"] * 20, "group": "chr1:0", "sequence": sequences,
        }
    )  # fmt: skip
    path = tmp_path_factory.mktemp("promoters") / "promoters.parquet"
    table.to_parquet(path)
    return path
