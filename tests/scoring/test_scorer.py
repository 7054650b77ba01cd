from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import genobird
from genobird.checkpoint import Checkpoint, feature_columns
from genobird.errors import CheckpointError, GenobirdError, SequenceError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import probabilities
from genobird.scoring import scorer as module
from genobird.scoring.scorer import Scorer, load, select
from tests.conftest import random_dna

SEQUENCES = [random_dna(length, seed=length) for length in (300, 2_000, 90, 3_100, 1_000)]
CENTRES = [len(sequence) // 2 for sequence in SEQUENCES]
EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def without_promoter(tiny_checkpoint: Path) -> Scorer:
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.promoter = None
    checkpoint.chromatin = None
    return Scorer(checkpoint, device="cpu")


def test_a_result_does_not_depend_on_neighbours_or_batch_size(scorer, tiny_checkpoint):
    together = scorer.chromatin_logits(SEQUENCES, CENTRES)
    promoters = scorer.promoter_logits(SEQUENCES, CENTRES)
    alone = [scorer.chromatin_logits([s], [c])[0] for s, c in zip(SEQUENCES, CENTRES, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone), **EXACT)
    backwards = scorer.chromatin_logits(SEQUENCES[::-1], CENTRES[::-1])
    np.testing.assert_allclose(together, backwards[::-1], **EXACT)
    for size in (1, 2, 100):
        other = load(tiny_checkpoint, device="cpu", batch_size=size)
        np.testing.assert_allclose(together, other.chromatin_logits(SEQUENCES, CENTRES), **EXACT)
        np.testing.assert_allclose(promoters, other.promoter_logits(SEQUENCES, CENTRES), **EXACT)
    assert np.ptp(together, axis=0).min() > 1e-2  # else the claim is empty


def test_the_same_call_gives_the_same_bits(scorer):
    first = scorer.chromatin_logits(SEQUENCES, CENTRES)
    assert np.array_equal(first, scorer.chromatin_logits(SEQUENCES, CENTRES))


def test_a_chromatin_profile_is_that_of_the_other_strand(scorer):
    turned = [reverse_complement(sequence) for sequence in SEQUENCES]
    places = [len(s) - c for s, c in zip(SEQUENCES, CENTRES, strict=True)]
    np.testing.assert_allclose(
        scorer.chromatin_logits(SEQUENCES, CENTRES),
        scorer.chromatin_logits(turned, places),
        **EXACT,
    )


def test_logits_depend_on_the_place(scorer):
    sequence = SEQUENCES[1]
    near, far = scorer.promoter_logits([sequence, sequence], [500, 1_500])
    assert abs(near - far) > 1e-3


def test_features_that_repeat_have_their_index_appended(scorer):
    assert scorer.features == [
        "A|DNase|None",
        "A|CTCF|None#130",
        "A|CTCF|None#338",
        "B|CTCF|None",
        "B|H3K4me3|None",
    ]


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (None, [0, 1, 2, 3, 4]),
        ([], []),
        (["TF"], [1, 2, 3]),
        (["tf", "B|CTCF|None"], [1, 2, 3]),
        (["A|CTCF|None"], [1, 2]),
        (["B|H3K4me3|None", "A|CTCF|None#338"], [2, 4]),
        ("DNase", [0]),
        ("A|CTCF|None", [1, 2]),
    ],
)
def test_features_are_chosen_by_column_name_or_class(scorer, wanted, places):
    assert scorer.select_features(wanted) == places


def test_an_unknown_feature_is_refused_with_its_neighbours(scorer):
    with pytest.raises(
        UsageError, match=r"no feature or class 'B\|CTCF'; did you mean .*B\|CTCF\|N"
    ):
        scorer.select_features(["B|CTCF"])


def test_an_embedding_is_one_vector_a_sequence(scorer):
    both = scorer.embed([SEQUENCES[0], SEQUENCES[2].lower()])
    assert both.shape == (2, 32)
    np.testing.assert_allclose(both[1], scorer.embed([SEQUENCES[2]])[0], **EXACT)
    assert scorer.embed([]).shape == (0, 32)
    with pytest.raises(SequenceError, match="letter 'E'"):
        scorer.embed(["ACGE"])
    with pytest.raises(SequenceError, match="sequence 1 is empty"):
        scorer.embed(["ACGT", ""])


def test_one_string_is_a_list_of_one_not_of_its_letters(scorer, genome):
    # An embedding of 400 bp had 400 rows, and a table of ACGT four.
    one, centre = SEQUENCES[0], CENTRES[:1]
    np.testing.assert_array_equal(scorer.embed(one), scorer.embed([one]))
    pd.testing.assert_frame_equal(scorer.score_sequences(one), scorer.score_sequences([one]))
    for ask in (scorer.chromatin_logits, scorer.promoter_logits):
        np.testing.assert_array_equal(ask(one, centre), ask([one], centre))
    table = scorer.mutagenesis("chr1:30,001-30,001", genome, features="DNase")
    assert table["output"].unique().tolist() == ["A|DNase|None"]


@pytest.mark.parametrize(
    "places", [["x"], [1, 2], [], [None], 5, [10**30], [[]], [5.5], ["5"], [True], [float("nan")]]
)
def test_places_are_whole_numbers_for_each_sequence(scorer, places):
    for ask in (scorer.chromatin_logits, scorer.promoter_logits):
        with pytest.raises(UsageError, match=r"is given as places in 1 sequence; give one or more"):
            ask(["ACGT" * 50], places)


def test_a_name_without_its_number_is_every_column_that_has_one():
    # Of two experiments of that name the model has one, whose name in its table has the number.
    table = pd.DataFrame({"name": ["K562|CTCF|None#338", "K562|CTCFL|None"], "index": [338, 5]})
    columns = feature_columns(table)
    assert select(columns, table.assign(**{"class": "TF"}), ["K562|CTCF|None"]) == [0]


def test_the_beginning_of_many_names_is_answered_with_some_of_them():
    table = pd.DataFrame({"name": [f"K562|{n}|None" for n in "ABCDE"], "class": "TF"})
    with pytest.raises(UsageError, match=r"; 5 names begin so, such as K562\|A\|None, .*info"):
        select(table["name"].tolist(), table, ["K56"])


def test_a_cell_or_a_target_chooses_its_features():
    names = ["K562|CTCF|None", "HepG2|CTCF|None", "K562|DNase|None"]
    table = pd.DataFrame({"name": names, "class": ["TF", "TF", "DNase"]})
    assert select(names, table, "K562") == [0, 2]
    assert select(names, table, "CTCF") == [0, 1]
    assert select(names, table, ["DNase"]) == [2]


def test_no_sequences_give_no_rows(scorer):
    assert scorer.chromatin_logits([], []).shape == (0, 5)
    assert scorer.promoter_logits([], []).shape == (0,)


def test_out_of_memory_halves_the_pass_until_it_fits(tiny_checkpoint, caplog):
    small = load(tiny_checkpoint, device="cpu", batch_size=8)
    sizes = []

    def work(part: slice) -> torch.Tensor:
        size = part.stop - part.start
        sizes.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("out of memory")
        return torch.arange(part.start, part.stop)

    assert small.inference.passes.run([10] * 9, lambda part: part, work).tolist() == list(range(9))
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert "2 sequences per pass" in caplog.text


def test_one_sequence_that_does_not_fit_is_an_error(tiny_checkpoint):
    def work(part: slice) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(GenobirdError, match="one sequence of 10 bp does not fit"):
        load(tiny_checkpoint, device="cpu").inference.passes.run([10, 10], lambda part: part, work)


def test_another_runtime_error_is_not_taken_for_memory(scorer):
    def work(part: slice) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        scorer.inference.passes.run([10, 10], lambda part: part, work)


def test_a_model_without_a_head_says_so(without_promoter):
    with pytest.raises(UsageError, match="no promoter head"):
        without_promoter.promoter_logits(["ACGT"], [0])
    with pytest.raises(UsageError, match="no chromatin head"):
        without_promoter.chromatin_logits(["ACGT"], [0])
    assert without_promoter.features == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu9"}, "device 'tpu9' is unknown; allowed are auto, cpu"),
        ({"device": "cuda:99"}, "torch sees . GPU"),
        ({"device": "cpu", "threads": 0}, "threads 0 found; 1 or more"),
        ({"device": "cpu", "batch_size": 0}, "batch size 0 found; 1 or more"),
    ],
)
def test_impossible_settings_are_refused(tiny_checkpoint, settings, message):
    with pytest.raises(UsageError, match=message):
        load(tiny_checkpoint, **settings)


def test_load_takes_a_directory_and_refuses_what_is_none(tiny_checkpoint, tmp_path, monkeypatch):
    assert genobird.load(str(tiny_checkpoint), "cpu").model_hash
    with pytest.raises(UsageError, match="no model directory"):
        genobird.load(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"is no model; genobird\.load reads that of a directory"):
        genobird.Scorer(str(tiny_checkpoint))
    with pytest.raises(UsageError, match="there is no model directory missing"):
        genobird.Checkpoint.load("missing")
    with pytest.raises(CheckpointError, match=r"no provenance\.json"):
        genobird.load(tmp_path)
    monkeypatch.setattr(module, "bundled_model", lambda: tmp_path / "missing")
    with pytest.raises(UsageError, match="no bundled model; give a directory"):
        genobird.load()


def test_probabilities_take_the_weight_of_positives_back():
    logits = np.array([-2_000.0, 0.0, np.log(8.0), 2_000.0], np.float32)
    np.testing.assert_allclose(probabilities(logits), [0, 0.5, 8 / 9, 1], atol=1e-6)
    np.testing.assert_allclose(probabilities(logits, 8.0), [0, 1 / 9, 0.5, 1], atol=1e-6)


def test_scoring_loads_no_training():
    code = "import genobird.scoring.variant_vcf, sys; print('pytorch_lightning' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
