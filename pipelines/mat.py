"""The three files of the DeepSEA bundle, read in pieces.

    train.mat   MATLAB 7.3, which is HDF5   trainxdata [1000, 4, 2N], traindata [919, 2N]
    valid.mat   MATLAB 5                    validxdata [2N, 4, 1000], validdata [2N, 919]
    test.mat    MATLAB 5                    testxdata [2N, 4, 1000], testdata [2N, 919]

Rows [0, N) are windows of 1,000 bp, one-hot in the order A, G, C, T with nothing for N; rows
[N, 2N) are the other strands of the same windows, with the same labels. HDF5 is read from the disk
piece by piece. A MATLAB 5 array is stored column by column and packed, so it is read as a whole,
sequence and labels one after the other: 1.8 GB for the published test.mat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from genobird.errors import TableError
from genobird.names import require
from pipelines import steps

Bytes = npt.NDArray[np.uint8]

FILES = {"train": "train.mat", "validation": "valid.mat", "test": "test.mat"}
"""Part of the split -> file."""
_ORDER = np.frombuffer(b"AGCT", np.uint8)
_HDF5 = b"\x89HDF\r\n\x1a\n"


class Rows:
    """One array of a file, one row per window, whichever way it is stored.

    Args:
        stored: an array, or an HDF5 dataset, that is read by slices.
        last: rows are along the last axis, and the others in reverse order.
        name: for messages.
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
