from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from scipy.io import savemat

from genobird.errors import TableError, UsageError
from pipelines import deepsea_bundle
from tests.pipelines.bundles import one_hot

WINDOWS = ["ACGTN", "GGATC", "TTTTN"]


@pytest.fixture
def files(tmp_path):
    """The same windows as MATLAB 5, and as what stands for HDF5."""
    x = one_hot(WINDOWS)
    savemat(tmp_path / "test.mat", {"testxdata": x, "testdata": np.eye(3, 2, dtype=np.uint8)})
    (tmp_path / "train.mat").write_bytes(
        b"MATLAB 7.3 MAT-file, Platform".ljust(512) + deepsea_bundle._HDF5
    )
    return tmp_path


class Shelf(dict):
    """What h5py.File is used as."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def fake_h5py(monkeypatch):
    """An h5py that gives the arrays as train.mat stores them."""
    stored = {
        "trainxdata": np.ascontiguousarray(one_hot(WINDOWS).transpose(2, 1, 0)),
        "traindata": np.eye(2, 3, dtype=np.uint8),
    }
    module = types.SimpleNamespace(File=lambda path, mode: Shelf(stored))
    monkeypatch.setitem(sys.modules, "h5py", module)


def test_letters_are_a_g_c_t_and_nothing_is_n():
    x = np.zeros((1, 4, 5), dtype=np.uint8)
    x[0, [0, 1, 2, 3], [0, 1, 2, 3]] = 1
    assert deepsea_bundle.letters(x, "x").tobytes() == b"AGCTN"
    assert deepsea_bundle.letters(one_hot(WINDOWS), "x").tobytes().decode() == "".join(WINDOWS)


def test_what_is_not_one_hot_is_refused():
    x = np.zeros((2, 4, 3), dtype=np.uint8)
    with pytest.raises(TableError, match=r"x is \[2, 3, 4\]; windows are \[rows, 4, bases\]"):
        deepsea_bundle.letters(x.transpose(0, 2, 1), "x")
    x[1, :2, 0] = 1
    with pytest.raises(TableError, match="x is not one-hot"):
        deepsea_bundle.letters(x, "x")
    with pytest.raises(TableError, match="x is not one-hot"):
        deepsea_bundle.letters(np.full((1, 4, 3), 2, dtype=np.uint8), "x")


def test_both_formats_give_the_same_rows(files, fake_h5py):
    for file, key in (("test.mat", "testxdata"), ("train.mat", "trainxdata")):
        with deepsea_bundle.open_array(files / file, key) as rows:
            assert (rows.shape, len(rows)) == ((3, 4, 5), 3)
            assert deepsea_bundle.letters(rows.read(1, 3), "x").tobytes().decode() == "GGATCTTTTN"
    for file, key in (("test.mat", "testdata"), ("train.mat", "traindata")):
        with deepsea_bundle.open_array(files / file, key) as rows:
            assert rows.shape == (3, 2)
            assert rows.read(0, 3).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_hdf5_is_read_by_the_real_library(files):
    h5py = pytest.importorskip("h5py")
    path = files / "real.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["trainxdata"] = one_hot(WINDOWS).transpose(2, 1, 0)
        file["traindata"] = np.eye(2, 3, dtype=np.uint8)
    with deepsea_bundle.open_array(path, "trainxdata") as rows:
        assert deepsea_bundle.letters(rows.read(0, 2), "x").tobytes().decode() == "ACGTNGGATC"
    with deepsea_bundle.open_array(path, "traindata") as rows:
        assert rows.read(1, 3).tolist() == [[0, 1], [0, 0]]


def test_only_the_piece_that_is_asked_for_is_read():
    asked = []

    class Stored:
        shape = (1000, 4, 4_400_000)

        def __getitem__(self, key):
            asked.append(key)
            return np.zeros((1000, 4, 2), dtype=np.uint8)

    rows = deepsea_bundle.Rows(Stored(), True, "x")
    assert rows.shape == (4_400_000, 4, 1000)
    assert rows.read(7, 9).shape == (2, 4, 1000)
    assert asked == [(..., slice(7, 9))]


def test_files_that_cannot_be_read_are_named(files, fake_h5py, monkeypatch):
    with (
        pytest.raises(TableError, match=r"test\.mat has no array 'xdata'; it has testxdata"),
        deepsea_bundle.open_array(files / "test.mat", "xdata"),
    ):
        pass
    with (
        pytest.raises(TableError, match=r"train\.mat has no array 'xdata'; it has trainxdata"),
        deepsea_bundle.open_array(files / "train.mat", "xdata"),
    ):
        pass
    (files / "bad.mat").write_bytes(b"no such format" * 100)
    with (
        pytest.raises(TableError, match=r"bad\.mat cannot be read as a MATLAB file"),
        deepsea_bundle.open_array(files / "bad.mat", "x"),
    ):
        pass
    with (
        pytest.raises(UsageError, match="no file"),
        deepsea_bundle.open_array(files / "no.mat", "x"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "h5py", None)
    with (
        pytest.raises(UsageError, match="is HDF5 and needs h5py, which is not installed; pip"),
        deepsea_bundle.open_array(files / "train.mat", "trainxdata"),
    ):
        pass
