from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genobird.datasets import stretches
from genobird.genome.sequence import base_codes
from genobird.motifs import Motif
from pipelines.alleles import (
    STRETCH_BP,
    Located,
    agreement,
    columns,
    correlation,
    deltas,
    detection,
    matrix_scan,
    preferred,
    read_pairs,
)
from tests.conftest import random_dna

NAMES = ["GM12878|CTCF|None", "K562|CTCF|None", "K562|DNase|None"]


def test_features_are_chosen_by_cell_and_target():
    assert columns(NAMES, target="CTCF") == [0, 1]
    assert columns(NAMES, cell="K562", target="DNase") == [2]
    assert columns(NAMES, cell="K562") == [1, 2]


def test_a_matrix_prefers_the_allele_that_fits_it():
    counts = np.zeros((4, 6))
    counts[base_codes("GATTAC"), range(6)] = 20
    left, right = random_dna(40, seed=1), random_dna(47, seed=2)
    pair = (left + "GATTAC" + right, left + "GACTAC" + right, 42)
    change = deltas(matrix_scan(Motif("m", "m", counts)), [pair])
    assert change.shape == (1, 1)
    assert change[0, 0] < 0
    assert preferred(change, ["a"])["point"] == 1
    assert preferred(-change, ["a"])["point"] == 0
    assert preferred(0 * change, ["a"])["point"] == 0.5


def test_figures_are_those_of_their_definition():
    change = np.array([[3.0], [-2.0], [0.1], [0.2]])
    alone = list("abcd")
    found = detection(change, np.array([True, True, False, False]), alone)
    assert (found["point"], found["n"]) == (1.0, 4)
    shares = np.array([1.0, -1.0, -1.0, 1.0])
    assert agreement(change, shares, alone)["point"] == 0.75
    measured = change[:, 0] ** 3
    assert correlation(change, measured, alone)["point"] == pytest.approx(1)
    assert found["low"] <= found["point"] <= found["high"]


def test_neighbours_are_drawn_together():
    change, measured = np.array([[1.0], [1.0], [1.0]]), np.array([1.0, 1.0, -1.0])
    groups = stretches(["chr1", "chr1", "chr1"], [5, 249_999, 250_000], STRETCH_BP).tolist()
    assert groups == ["chr1:0", "chr1:0", "chr1:1"]
    found = agreement(change, measured, groups)
    assert (found["low"], found["high"]) == (0, 1)
    alone = agreement(change, measured, ["chr1:0"] * 3)
    assert alone["point"] == pytest.approx(2 / 3)
    assert (alone["low"], alone["high"]) == (None, None)


def test_pairs_are_read_with_the_preferred_allele_first(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("# a note\nid\thigh\tlow\n1\tACGT\tACGA\n")
    assert read_pairs(path) == ([("ACGT", "ACGA", 2)], ["1"])
    path.write_text("id\thigh\tlow\nchr1.500000\tACGT\tACGA\n")
    assert read_pairs(path)[1] == ["chr1:2"]


def test_alleles_are_found_on_a_contig_or_in_a_site_that_holds_ref(tmp_path):
    text = random_dna(300, seed=3)
    (tmp_path / "a.fa").write_text(f">chr1\n{text}\n")
    other = random_dna(100, seed=4)
    sites = pd.DataFrame(
        [["chr2", 1000, 1100, other]], columns=["chrom", "start", "end", "sequence"]
    )
    sites.to_csv(tmp_path / "sites.tsv", sep="\t", index=False)
    located = Located([tmp_path / "a.fa"], tmp_path / "sites.tsv")
    alt = "A" if text[49] != "A" else "C"
    wanted = (text, text[:49] + alt + text[50:], 49)
    assert located.alleles("chr1", 49, text[49], alt) == wanted
    site = located.alleles("chr2", 1010, other[10], "N")
    assert site == (other, other[:10] + "N" + other[11:], 10)
    assert located.alleles("chr2", 1010, "N", "A") is None
    assert located.alleles("chr3", 1010, "A", "C") is None
    assert located.alleles("chr1", 49, text[49], f"{alt},T") is None
