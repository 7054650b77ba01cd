"""Small files of exactly the DeepSEA bundle's layout."""

from __future__ import annotations

import numpy as np
from scipy.io import savemat

from genobird.genome.sequence import reverse_complement


def one_hot(windows):
    """Windows as uint8 [n, 4, L] in the order A, G, C, T; N is nothing."""
    codes = np.stack([np.frombuffer(w.encode(), np.uint8) for w in windows])
    order = np.frombuffer(b"AGCT", np.uint8)
    return (codes[:, None, :] == order[None, :, None]).astype(np.uint8)


def stranded(windows, labels):
    """Rows of a file: all windows, then all of them reversed, each with its labels."""
    both = [*windows, *(reverse_complement(w) for w in windows)]
    return one_hot(both), np.concatenate([labels, labels])


def write_mat5(path, windows, labels):
    """Write valid.mat or test.mat."""
    x, y = stranded(windows, labels)
    name = path.name.removesuffix(".mat")
    savemat(path, {f"{name}xdata": x, f"{name}data": y}, do_compression=True)
