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


def test_rows_without_letters_keep_their_first_digits(tmp_path):
    # JASPAR's raw format; 87 became 7, and .5 became 5.
    path = tmp_path / "motifs.gz"  # the name alone packs nothing
    path.write_text(">MA1 A>G\n87 .5\n1e1 2\n\n10,3\n  4 5\n")
    (motif,) = read_motifs(path)
    assert motif.counts.tolist() == [[87, 0.5], [10, 2], [10, 3], [4, 5]]
    assert motif.name == "A>G"


def test_a_damaged_file_is_an_input_error(tmp_path):
    path = tmp_path / "motifs.gz"
    for content, message in (
        (gzip.compress(TEXT.encode())[:-20], "is damaged|is cut short"),
        (b"\x80\xff>", "holds no matrix"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_motifs(path)


@pytest.mark.parametrize(
    "text",
    [
        "", "ACGT\n", TEXT.replace("T  [ 1 5 ]\n", ""), ">x\nA [1]\n", ">", TEXT + ">\n",
        TEXT.replace("C  [ 0 9", "G  [ 0 9"), TEXT.replace("G  [ 1", "[ 1"),
        TEXT.replace("G  [ 1", "G  [ one"),
    ],
)  # fmt: skip
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
