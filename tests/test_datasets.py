import numpy as np
import pandas as pd
import pytest

from genobird.datasets import Predictions
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


def test_promoter_windows_are_placed_by_their_first_base():
    table = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [5, 600_000], "label": [1, 0]})
    found = Predictions.of_promoters(table, np.zeros(2, np.float32))
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
    with pytest.raises(InputError, match="holds no predictions"):
        Predictions.load(tmp_path / "other.npz")
