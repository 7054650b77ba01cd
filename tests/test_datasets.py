import json

import numpy as np
import pandas as pd
import pytest

from genobird.datasets import ChromatinDataset, Predictions, read_promoters
from genobird.errors import InputError, UsageError


@pytest.fixture
def predictions():
    labels = np.array([[0, 1], [1, 1], [0, 0]], dtype=np.uint8)
    contigs = np.array(["chr1", "chr20", "chr20"])
    return Predictions(contigs, np.array([0, 1249, 1250]), labels, labels.astype(np.float32))


def test_groups_are_stretches_of_the_genome(predictions):
    assert predictions.groups(250_000).tolist() == ["chr1:0", "chr20:0", "chr20:1"]


def test_predictions_come_back_as_they_were_saved(predictions, tmp_path):
    predictions.save(tmp_path / "a.npz")
    found = Predictions.load(tmp_path / "a.npz")
    assert found.same_places(predictions)
    np.testing.assert_array_equal(found.logits, predictions.logits)
    assert found.bin_bp == 200
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_other_labels_or_another_order_are_other_places(predictions):
    p = predictions
    assert not p.same_places(Predictions(p.contigs, p.bins, 1 - p.labels, p.logits))
    assert not p.same_places(Predictions(p.contigs, p.bins[::-1], p.labels, p.logits))
    assert not p.same_places(Predictions(p.contigs[:2], p.bins[:2], p.labels[:2], p.logits[:2]))


def promoters(*sequences):
    """A promoter and a negative; its place says nothing of its sequence."""
    columns = {"chrom": ["chr1", "chr2"], "start": [5, 600_000], "label": [1, 0]}
    return pd.DataFrame(columns | {"sequence": sequences})


def test_other_sequences_at_the_same_places_are_told_apart(tmp_path):
    # Shuffled and substituted negatives share contig, start and label with one another.
    logits = np.zeros(2, np.float32)
    mine, other = (
        Predictions.of_promoters(promoters("ACGT", made), logits) for made in ("TTTT", "TTTA")
    )
    assert not mine.same_places(other)
    other.save(tmp_path / "other.npz")
    assert not mine.same_places(Predictions.load(tmp_path / "other.npz"))
    assert other.same_places(Predictions.load(tmp_path / "other.npz"))


def test_files_that_know_no_sequences_are_compared_by_place_alone(tmp_path):
    mine = Predictions.of_promoters(promoters("ACGT", "TTTT"), np.zeros(2, np.float32))
    mine.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        older = {name: file[name] for name in file.files if name != "sequences_sha256"}
    np.savez(tmp_path / "old.npz", **older)
    found = Predictions.load(tmp_path / "old.npz")
    assert found.sequences_sha256 == ""
    assert found.same_places(mine)
    assert mine.same_places(found)


def test_promoter_windows_are_placed_by_their_first_base():
    found = Predictions.of_promoters(promoters("ACGT", "TTTT"), np.zeros(2, np.float32))
    assert found.groups(250_000).tolist() == ["chr1:0", "chr2:2"]
    assert found.labels.tolist() == [[1], [0]]
    assert found.logits.shape == (2, 1)


def test_files_without_predictions_are_refused(tmp_path):
    with pytest.raises(UsageError, match="there are no predictions"):
        Predictions.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(InputError, match="holds no predictions; predict again"):
        Predictions.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", bins=np.arange(3))
    (tmp_path / "empty.npz").touch()  # as a power cut leaves it
    np.save(tmp_path / "lone.npy", np.arange(3))
    for name in ("other.npz", "empty.npz", "lone.npy"):
        with pytest.raises(InputError, match="holds no predictions"):
            Predictions.load(tmp_path / name)


def test_an_empty_file_of_a_dataset_is_refused(tmp_path):
    write_dataset(tmp_path)
    (tmp_path / "chr1.sequence.npy").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read; build the dataset again"):
        ChromatinDataset(tmp_path).length("chr1")


def write_dataset(folder, **changes):
    index = {"bin_bp": 200, "features": 2, "splits": {"train": [["chr1", 0, 1000]]}}
    (folder / "index.json").write_text(json.dumps(index | changes))
    (folder / "features.tsv").write_text("index\tname\tclass\n0\ta\tTF\n1\tb\tTF\n")
    np.save(folder / "chr1.sequence.npy", np.full(1000, ord("A"), np.uint8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "lacks bin_bp and splits"),
        ("[]", "lacks bin_bp and splits"),
        ('{"bin_bp": 200}', "lacks splits"),
        ("{", "cannot be read"),
        ("3", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_damaged_index_of_a_dataset_is_named(tmp_path, text, message):
    write_dataset(tmp_path)
    (tmp_path / "index.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"index\.json {message}.*; build the dataset again"):
        ChromatinDataset(tmp_path)


def test_a_table_of_features_that_was_cut_is_refused(tmp_path):
    write_dataset(tmp_path)
    assert len(ChromatinDataset(tmp_path).features) == 2
    write_dataset(tmp_path, features=3)
    with pytest.raises(InputError, match=r"features\.tsv has 2 features, .*index\.json 3; build"):
        ChromatinDataset(tmp_path)
    (tmp_path / "features.tsv").write_text("")
    with pytest.raises(InputError, match=r"features\.tsv cannot be read \(.*; build the dataset"):
        ChromatinDataset(tmp_path)


def test_a_dataset_whose_split_leaves_a_contig_is_refused(tmp_path):
    # Older versions wrote such datasets; their bins ended in an IndexError.
    write_dataset(tmp_path, splits={"train": [["chr1", 0, 1000]], "test": [["chr1", 800, 1001]]})
    with pytest.raises(
        InputError, match=r"chr1:801-1,001 of its splits ends after chr1 \(1,000 bp"
    ):
        ChromatinDataset(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 500, None])
def test_what_is_no_whole_table_of_promoters_is_refused(tmp_path, keep):
    path = tmp_path / "p.parquet"
    pd.DataFrame({"sequence": ["ACGT" * 500] * 9, "start": range(9)}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:keep] if keep is not None else b"chrom\tstart\n" * 99)
    message = r"p\.parquet is no Parquet table, or is cut short \(.*python -m pipelines\.promoters"
    with pytest.raises(InputError, match=message) as caught:
        read_promoters(path, "train")
    assert "\n" not in str(caught.value)
