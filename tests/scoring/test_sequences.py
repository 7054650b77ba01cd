from __future__ import annotations

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
from Bio.Seq import MutableSeq, Seq
from Bio.SeqRecord import SeqRecord

from genobird.errors import SequenceError, UsageError
from genobird.scoring.sequences import named_sequences

DNA = "ACGT" * 5
Record = namedtuple("Record", ["name", "sequence"])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (DNA, "0"),
        (DNA.encode(), "0"),
        (Seq(DNA), "0"),
        (MutableSeq(DNA), "0"),
        (SeqRecord(Seq(DNA), id="r"), "r"),
        ({"a": DNA}, "a"),
        ({5: Seq(DNA)}, "5"),
        ([DNA], "0"),
        ((Seq(DNA),), "0"),
        ([SeqRecord(Seq(DNA), id="r")], "r"),
        ([Record("pysam", DNA)], "pysam"),
        (np.array([DNA]), "0"),
        (np.array([DNA.encode()]), "0"),
        (pd.Series([DNA]), "0"),
        (pd.Series({"x": DNA}, dtype="string"), "x"),
        ((text for text in [DNA]), "0"),
    ],
)
def test_sequences_in_any_usual_form_are_read(given, name):
    assert list(named_sequences(given)) == [(name, DNA)]


@pytest.mark.parametrize(
    "given", [None, 5, [None], {"a": None}, [[DNA]], pd.DataFrame({"s": [DNA]})]
)
def test_what_is_no_sequence_is_one_clear_error(given):
    with pytest.raises(UsageError, match=r"is given as sequence.*; give strings, Seq or SeqRecord"):
        list(named_sequences(given))


def test_a_sequence_without_letters_is_refused():
    with pytest.raises(SequenceError, match="has a length, but no letters"):
        list(named_sequences([Seq(None, length=10)]))


def test_a_dict_is_scored_under_its_names(scorer):
    found = scorer.score_sequences({"a": DNA * 20, "b": Seq(DNA * 10)})
    assert found["chrom"].tolist() == ["a", "b"]
    assert found["end"].tolist() == [400, 200]
    expected = scorer.score_sequences([DNA * 20, DNA * 10])
    pd.testing.assert_frame_equal(found.drop(columns="chrom"), expected.drop(columns="chrom"))
    np.testing.assert_array_equal(scorer.embed({"a": DNA}), scorer.embed(Seq(DNA)))
    with pytest.raises(SequenceError, match="sequence b is empty"):
        scorer.embed({"a": DNA, "b": ""})


def test_wrong_arguments_are_one_clear_error(scorer, genome):
    with pytest.raises(UsageError, match="5 is given as features; give names or classes"):
        scorer.score_sequences(DNA, features=5)
    with pytest.raises(UsageError, match="no feature or class '5'"):
        scorer.score_sequences(DNA, features=[5])
    for fasta in (None, 5, {"chr1": DNA}, "a\0b"):
        with pytest.raises(UsageError, match=r"give its path|check the path"):
            scorer.score_regions("chr1:1-5", fasta)
    with pytest.raises(UsageError, match="5 is given where a file is needed"):
        scorer.score_regions("chr1:1-5", genome, liftover=5)
