from __future__ import annotations

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from genobird.datasets import ChromatinDataset
from genobird.errors import InputError, TableError, UsageError
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from pipelines import deepsea_bundle, grch37
from pipelines.deepsea_bundle import LEFT_OUT
from pipelines.manifest import Splits
from tests.conftest import random_dna, write_fasta
from tests.pipelines.bundles import one_hot, stranded, write_mat5
from tests.pipelines.test_mat import Shelf

F = 11
FEATURES = pd.DataFrame(
    {"index": range(F), "name": [f"f{i}" for i in range(F)], "class": ["TF"] * F, "x": "y"}
)
SPLITS = Splits(
    "tiny",
    train=(Interval("chr1", 0, 60_000), Interval("chr10", 0, 30_000)),
    validation=(Interval("chr7", 10_000, 20_000),),
    test=(Interval("chr8", 0, 30_000),),
)


@pytest.fixture(scope="module")
def sequences():
    """Four contigs; chr1 has a repeat of 3 kb, and N."""
    made = {
        "chr1": random_dna(60_000, seed=1), "chr10": random_dna(30_000, seed=2),
        "chr7": random_dna(30_000, seed=3), "chr8": random_dna(30_000, seed=4),
    }  # fmt: skip
    text = made["chr1"]
    text = text[:40_000] + text[10_000:13_000] + text[43_000:]  # the repeat
    made["chr1"] = text[:30_300] + "N" * 30 + text[30_330:]
    return made


@pytest.fixture
def genome(sequences, tmp_path):
    return write_fasta(tmp_path / "g.fa", sequences)


def window(sequences, contig, number):
    return sequences[contig][number * 200 - 400 : number * 200 + 600]


def labels_of(rows, seed=0):
    return (np.random.default_rng(seed).random((rows, F)) < 0.3).astype(np.uint8)


@pytest.fixture
def write_train(monkeypatch):
    """Write train.mat as HDF5 where the library is there, else let something stand for it."""
    try:
        import h5py
    except ImportError:
        h5py = None

    def write(path, x, y):
        stored = {"trainxdata": x.transpose(2, 1, 0), "traindata": y.T}
        if h5py is not None:
            with h5py.File(path, "w", userblock_size=512) as file:
                for key, value in stored.items():
                    file[key] = value
            return
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + deepsea_bundle._HDF5)
        module = types.SimpleNamespace(File=lambda *_: Shelf(stored))
        monkeypatch.setitem(sys.modules, "h5py", module)

    return write


def build(folder, genome, output, **options):
    with grch37.locate([genome], SPLITS.contigs) as contigs:
        return deepsea_bundle.build(folder, contigs, SPLITS, output, FEATURES, **options)


def check_sum(counts):
    assert counts["kept"] + sum(counts[why] for why in LEFT_OUT) == counts["pairs"]


def test_every_row_comes_back_to_its_place_with_its_labels(
    sequences, genome, tmp_path, write_train, monkeypatch
):
    monkeypatch.setattr(deepsea_bundle, "CHUNK", 3)
    folder = tmp_path / "bundle"
    folder.mkdir()
    train = [("chr1", n) for n in (2, 3, 60, 100, 297)] + [("chr10", n) for n in (40, 41, 147)]
    x, y = stranded([window(sequences, *at) for at in train], labels_of(len(train)))
    write_train(folder / "train.mat", x, y)
    valid, test = [("chr7", 50), ("chr7", 99)], [("chr8", n) for n in (2, 7, 100)]
    for name, places in (("valid", valid), ("test", test)):
        windows = [window(sequences, *at) for at in places]
        write_mat5(folder / f"{name}.mat", windows, labels_of(len(places), seed=5))
    found = build(folder, genome, tmp_path / "d", sources={"a": "b"})
    for counts in found.values():
        check_sum(counts)
    # the window at bin 60 lies in the repeat; its neighbours in the file say which copy it is
    assert found["train"]["one place"] == 7
    assert found["train"]["several places, one between the neighbours"] == 1
    assert [found[p]["kept"] for p in ("train", "validation", "test")] == [8, 2, 3]

    dataset = ChromatinDataset(tmp_path / "d")
    for part, places, known in (
        ("train", train, y), ("validation", valid, labels_of(2, 5)), ("test", test, labels_of(3, 5))
    ):  # fmt: skip
        usable = [
            (i.contig, int(n)) for i in dataset.intervals(part) for n in dataset.usable_bins(i)
        ]
        assert usable == places
        for at, row in zip(places, known, strict=False):
            assert dataset.labels(at[0], np.array([at[1]]))[0].tolist() == row.tolist()
            # the sequence around is there, as far as wanted
            first = max(0, at[1] * 200 - 8000)
            assert (
                dataset.sequence(at[0], first, at[1] * 200 + 8200)
                == (sequences[at[0]][first : at[1] * 200 + 8200])
            )
    assert dataset.features["name"].tolist() == FEATURES["name"].tolist()
    index = json.loads((tmp_path / "d" / "index.json").read_text())
    assert index["positives"]["train"] == y[:8].sum(0).tolist()
    assert index["bins"] == {"train": 8, "validation": 2, "test": 3}
    whole = "kept, with 8,000 known bases on both sides"
    assert index["bundle"]["train.mat"][whole] == 4  # bins 60 and 100 of chr1, 40 and 41 of chr10
    assert index["sources"] == {"a": "b"}


def test_whatever_is_left_out_is_counted(sequences, genome, tmp_path):
    chr8 = sequences["chr8"]
    windows = [
        window(sequences, "chr8", 10),
        window(sequences, "chr8", 10),  # again
        random_dna(1000, seed=77),  # of no genome
        chr8[1001:2001],  # off the grid
        window(sequences, "chr7", 50),  # outside its part
        window(sequences, "chr1", 55),  # in the repeat, between neighbours of another contig
        "N" * 600 + window(sequences, "chr8", 20)[600:],  # a gap is like any other
        reverse_complement(window(sequences, "chr8", 20)),  # the strands are exchanged
        window(sequences, "chr8", 30),
        window(sequences, "chr8", 40),
    ]
    x, y = stranded(windows, labels_of(len(windows)))
    x[len(windows) + 8] = one_hot([random_dna(1000, seed=78)])[0]
    y[len(windows) + 9, 3] ^= 1
    savemat(tmp_path / "test.mat", {"testxdata": x, "testdata": y})
    counts = build(tmp_path, genome, tmp_path / "d")["test"]
    check_sum(counts)
    assert {why: counts[why] for why in ("kept", *LEFT_OUT)} == {
        "kept": 2, "strands differ": 2, "not in the genome": 1, "several places": 1,
        "off the grid": 1, "outside its part": 1, "unknown bases": 1, "given before": 1,
    }  # fmt: skip
    dataset = ChromatinDataset(tmp_path / "d")
    assert dataset.usable_bins(Interval("chr8", 0, 30_000)).tolist() == [10, 20]
    assert dataset.labels("chr8", np.array([20]))[0].tolist() == y[7].tolist()


def test_windows_with_n_are_found_and_bins_with_n_left_out(sequences, genome, tmp_path):
    places = [149, 150, 151, 152, 153]  # N at 30,300 to 30,330: in bin 151
    write = [window(sequences, "chr1", n) for n in places]
    assert sum("N" in w for w in write) == 5
    write_mat5(tmp_path / "valid.mat", write, labels_of(5))
    splits = Splits("n", train=(), validation=(Interval("chr1", 0, 60_000),), test=())
    with grch37.locate([genome], splits.contigs) as contigs:
        counts = deepsea_bundle.build(tmp_path, contigs, splits, tmp_path / "d", FEATURES)
    assert counts["validation"]["unknown bases"] == 1
    assert counts["validation"]["kept"] == 4
    assert counts["validation"]["kept, with 8,000 known bases on both sides"] == 0


def test_a_repeat_stays_unplaced_where_the_neighbours_allow_both_copies(
    sequences, genome, tmp_path
):
    splits = Splits("n", train=(), validation=(), test=(Interval("chr1", 0, 60_000),))
    windows = [window(sequences, "chr1", n) for n in (5, 55, 290)]
    write_mat5(tmp_path / "test.mat", windows, labels_of(3))
    with grch37.locate([genome], splits.contigs) as contigs:
        counts = deepsea_bundle.build(tmp_path, contigs, splits, tmp_path / "d", FEATURES)
    assert (counts["test"]["several places"], counts["test"]["kept"]) == (1, 2)


def test_the_same_bundle_gives_the_same_bytes(sequences, genome, tmp_path):
    write_mat5(tmp_path / "test.mat", [window(sequences, "chr8", 9)], labels_of(1))
    for name in ("a", "b"):
        build(tmp_path, genome, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_files_that_are_no_bundle_are_refused_and_leave_nothing(sequences, genome, tmp_path):
    with pytest.raises(UsageError, match=r"has none of train\.mat, valid\.mat, test\.mat"):
        build(tmp_path, genome, tmp_path / "d")
    good = [window(sequences, "chr8", 9)]
    x, y = stranded(good, labels_of(1))
    for arrays, message in (
        ((x[:1], y[:1]), r"is \[1, 4, 1000\]; rows come in pairs of strands"),
        ((x, y[:, :5]), r"is \[2, 5\]; 2 rows of 11 features are needed"),
        ((x, y + 1), "labels are 0 or 1"),
        ((x[:, :, :900], y), None),
        ((one_hot([random_dna(1000, seed=9)] * 2), y), None),
    ):
        savemat(tmp_path / "test.mat", {"testxdata": arrays[0], "testdata": arrays[1]})
        expected = InputError if message is None else TableError
        with pytest.raises(expected, match=message or "no row of .* has its place in chr1, chr10"):
            build(tmp_path, genome, tmp_path / "d")
    write_mat5(tmp_path / "valid.mat", [good[0][:900]], labels_of(1))
    with pytest.raises(TableError, match=r"windows are of 900 bp in .*, 1000 bp in"):
        build(tmp_path, genome, tmp_path / "d")
    assert not list(tmp_path.glob("*d"))


@pytest.mark.realdata
def test_windows_of_the_real_genome_come_back(shared_data, tmp_path):
    from genobird.genome.fasta import Genome

    fasta = shared_data / "genome" / "chr20.fa.gz"
    first = 1_000_000
    with Genome(fasta) as genome:
        text = genome.fetch(Interval("chr20", first, first + 400_000))
    write_fasta(tmp_path / "g.fa", {"chr20": text})
    numbers = np.arange(10, 1990, 7)
    windows = [text[n * 200 - 400 : n * 200 + 600] for n in numbers]
    write_mat5(tmp_path / "test.mat", windows, labels_of(len(numbers)))
    splits = Splits("real", train=(), validation=(), test=(Interval("chr20", 0, 400_000),))
    with grch37.locate([tmp_path / "g.fa"], splits.contigs) as contigs:
        counts = deepsea_bundle.build(tmp_path, contigs, splits, tmp_path / "d", FEATURES)["test"]
    check_sum(counts)
    assert counts["kept"] == len(numbers)
    dataset = ChromatinDataset(tmp_path / "d")
    assert dataset.usable_bins(Interval("chr20", 0, 400_000)).tolist() == numbers.tolist()
