from __future__ import annotations

import gzip

import numpy as np
import pytest

from genobird.errors import InputError, UsageError
from genobird.genome.sequence import base_codes, reverse_complement
from genobird.motifs import Motif, best_of_each, distinct, read_motifs

TEXT = """>MA1.1\tTFa
A  [ 9 0 0 ]
C  [ 0 9 0 ]
G  [ 0 0 9 ]
T  [ 0 0 0 ]
>MA1.2 TFa::TFb
A  [ 1 1 ]
C  [ 1 1 ]
G  [ 1 1 ]
T  [ 1 5 ]
"""


@pytest.mark.parametrize("name", ["motifs.pfm", "motifs.pfm.gz"])
def test_matrices_are_read_plain_or_gzipped(tmp_path, name):
    path = tmp_path / name
    with (gzip.open if name.endswith("gz") else open)(path, "wt") as file:
        file.write(TEXT)
    first, second = read_motifs(path)
    assert (first.identifier, first.name, first.factors) == ("MA1.1", "TFa", {"TFA"})
    assert first.counts.tolist() == [[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 0]]
    assert second.factors == {"TFA", "TFB"}
    assert best_of_each([first, second]) == {"TFA": first}
    assert distinct([second, first], {"TFB"}, 5) == [second]  # paralogs share three letters


@pytest.mark.parametrize("text", ["", "ACGT\n", TEXT.replace("T  [ 1 5 ]\n", ""), ">x\nA [1]\n"])
def test_what_is_no_matrix_is_refused(tmp_path, text):
    path = tmp_path / "motifs.pfm"
    path.write_text(text)
    with pytest.raises(InputError, match="matrix"):
        read_motifs(path)
    with pytest.raises(UsageError, match="no file of motifs"):
        read_motifs(tmp_path / "none")


def test_a_match_is_found_on_either_strand():
    counts = np.zeros((4, 5))
    counts[[0, 1, 2, 2, 3], range(5)] = 20  # ACGGT
    motif = Motif("m", "m", counts)
    text = "TTTT" + "ACGGT" + "CCCC" + reverse_complement("ACGGT") + "AN"
    plus, minus = motif.scan(base_codes(text)[None])
    assert plus.shape == (1, len(text) - 4)
    assert int(plus.argmax()) == 4
    assert int(minus.argmax()) == 13
    assert plus.max() == pytest.approx(minus.max())
    assert motif.scan(base_codes("NNNNN"))[0] == pytest.approx(motif.odds.min(0).sum())
