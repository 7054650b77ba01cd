from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from genobird.datasets import ChromatinDataset
from genobird.genome.sequence import base_codes
from genobird.motifs import Motif
from pipelines.motif_effects import (
    BASE,
    CONTROL,
    CORE,
    Site,
    changed,
    factor_columns,
    find_sites,
    motif_effects,
    overall,
    summary,
)
from tests.conftest import random_dna

WORD = "GATTACAGGC"


def matrix(word: str = WORD) -> Motif:
    counts = np.zeros((4, len(word)))
    counts[base_codes(word), range(len(word))] = 20
    return Motif("m", "FIRST", counts)


@pytest.fixture
def planted(tmp_path) -> ChromatinDataset:
    """40 kb with the word in every fourth bin, where the first feature is positive."""
    sequence = list(random_dna(40_000, seed=4))
    labels = np.zeros((200, 2), dtype=np.uint8)
    for number in range(2, 196, 4):
        sequence[number * 200 + 95 : number * 200 + 95 + len(WORD)] = WORD
        labels[number, 0] = 1
    np.save(tmp_path / "c.sequence.npy", np.frombuffer("".join(sequence).encode(), np.uint8))
    np.save(tmp_path / "c.labels.npy", np.packbits(labels, axis=1, bitorder="little"))
    np.save(tmp_path / "c.usable.npy", np.ones(200, np.uint8))
    names = pd.DataFrame({"index": [1, 2], "name": ["k|First|None", "k|Other|None"]})
    names.assign(**{"class": "TF"}).to_csv(tmp_path / "features.tsv", sep="\t", index=False)
    index = {"bin_bp": 200, "splits": {"test": [["c", 0, 40_000]]}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    return ChromatinDataset(tmp_path)


def knows_the_word(sequences):
    """A model whose first feature counts bases that fit the word, and whose second is constant."""
    codes = [base_codes(text)[None] for text in sequences]
    best = [max(float(s.max()) for s in matrix().scan(c)) for c in codes]
    return np.array([[value, 1.0] for value in best], dtype=np.float32)


def by_size(ref, alt):
    return np.abs(alt - ref)


def test_sites_are_the_strong_matches_under_the_factors_peaks(planted):
    sites = find_sites(planted, "test", {"FIRST": matrix()}, {"FIRST": [0]}, most=7)
    assert len(sites) == 7
    for site in sites:
        assert planted.sequence("c", site.start, site.start + len(WORD)) == WORD
        assert not site.reverse
    assert find_sites(planted, "test", {"FIRST": matrix()}, {"FIRST": [1]}) == []


def test_a_broken_core_fits_less_and_nothing_else_changes():
    text = random_dna(400, seed=1)
    text = text[:200] + WORD + text[210:]
    made = changed(text, 200, Site("FIRST", "c", 200, False, 0.0), matrix(), seed=0)
    assert sorted(made[CORE][200:210]) == sorted(WORD)
    assert made[CORE][200:210] != WORD
    assert made[CORE][:200] + made[CORE][210:] == text[:200] + text[210:]
    assert sum(a != b for a, b in zip(made[BASE], text, strict=True)) == 1
    assert made[BASE][200:210] != WORD
    assert made[CONTROL][:260] + made[CONTROL][270:] == text[:260] + text[270:]


def test_a_model_that_knows_the_word_is_told_from_one_that_does_not(planted):
    motifs, columns = {"FIRST": matrix()}, {"FIRST": [0]}
    sites = find_sites(planted, "test", motifs, columns, most=9)
    effects = motif_effects(knows_the_word, by_size, planted, sites, motifs, columns, flank_bp=150)
    assert len(effects) == 27
    facts = summary(effects)["FIRST"]
    assert facts["sites"] == 9
    assert facts[CORE]["leads"] == facts[BASE]["leads"] == facts[CORE]["lower"] == 1
    assert facts[CORE]["delta"] < facts[BASE]["delta"] < 0
    assert facts[CONTROL]["leads"] == 0
    assert facts["auroc"] == 1

    def blind(sequences):
        return np.ones((len(sequences), 6), dtype=np.float32)

    effects = motif_effects(blind, by_size, planted, sites, motifs, columns, flank_bp=150)
    facts = summary(effects)["FIRST"]
    assert facts[CORE]["leads"] == facts[CORE]["top5"] == 0
    together = overall({"FIRST": facts}, fewest=5)
    assert (together["known"], together["seen"]) == (1, 0)


def test_targets_find_their_matrix_by_their_own_or_another_name():
    names = ["k|CTCF|None", "k|c-Myc|None", "k|Rad21|None", "k|p300|None", "k|CTCF|x"]
    features = pd.DataFrame({"name": names, "class": "TF"})
    table = pd.DataFrame(
        [["c-Myc", "MYC", "own"], ["Rad21", "CTCF", "partner"]],
        columns=["target", "factor", "role"],
    )
    motifs = {"CTCF": matrix(), "MYC": matrix()}
    assert factor_columns(features, motifs, table) == ({"CTCF": [0, 4], "MYC": [1]}, {"CTCF": [2]})
