from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset
from genobird.errors import InputError, UsageError
from genobird.heads import Head, HeadConfig
from genobird.inference import Inference
from genobird.local import LocalConfig
from genobird.places import pack_places
from genobird.tasks.evaluate import predict_chromatin, predict_promoters
from pipelines.calibrate import Line, calibrate, fit_line, fit_offset, follow, move
from tests.conftest import random_dna
from tests.models import starts_checkpoint, tiny_checkpoint

LENGTH = 120_000


def drawn(logits, seed):
    """Labels that are as probable as the logits say."""
    rng = np.random.default_rng(seed)
    return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


@pytest.fixture
def model(tiny_tokenizer):
    made = tiny_checkpoint(tiny_tokenizer)
    with torch.no_grad():  # logits that differ between places
        made.chromatin.layers[-1].weight.mul_(40)
        made.promoter.layers[-1].weight.mul_(40)
    return made


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def chromatin(model, tmp_path):
    """A dataset whose labels are those of 0.5 z - 2, z being the model's calibrated logits."""
    path, bins = tmp_path / "chromatin", LENGTH // 200
    path.mkdir()
    features = model.features
    features.to_csv(path / "features.tsv", sep="\t", index=False)
    sequence = np.frombuffer(random_dna(LENGTH, seed=9).encode(), np.uint8)
    np.save(path / "chr1.sequence.npy", sequence)
    np.save(path / "chr1.usable.npy", np.ones(bins, np.uint8))
    split = {"train": [], "validation": [["chr1", 0, LENGTH]], "test": []}
    index = {"bin_bp": 200, "splits": split, "split": "x", "bins": {}, "sources": {}}
    (path / "index.json").write_text(json.dumps(index))

    def label(labels):
        np.save(path / "chr1.labels.npy", np.packbits(labels, axis=1, bitorder="little"))

    label(np.zeros((bins, len(features)), np.uint8))
    logits = predict_chromatin(Inference(model), ChromatinDataset(path), "validation").logits
    label(drawn(0.5 * (logits - math.log(8)) - 2, seed=1))
    return path


def test_a_line_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(-3, 2, size=(40_000, 5)).astype(np.float32)
    for slope, offset in ((1.0, 0.0), (0.6, -1.5), (2.0, 1.0)):
        line = fit_line(logits, drawn(slope * logits + offset, seed=2))
        assert line.slope == pytest.approx(slope, abs=0.03)
        assert line.offset == pytest.approx(offset, abs=0.06)


def test_calibrated_probabilities_are_right_on_average():
    logits = np.random.default_rng(1).normal(-4, 2, size=20_000)
    labels = drawn(0.7 * logits - 1, seed=3)
    line = fit_line(logits, labels)
    probabilities = 1 / (1 + np.exp(-(line.slope * logits + line.offset)))
    assert probabilities.mean() == pytest.approx(labels.mean(), rel=1e-3)


def test_labels_that_are_separated_give_a_finite_line():
    line = fit_line(np.array([-2.0, -1.0, 1.0, 2.0] * 5), np.array([0, 0, 1, 1] * 5))
    assert 0 < line.slope < 10
    assert abs(line.offset) < 1e-6


def test_labels_that_are_all_alike_are_refused():
    with pytest.raises(InputError, match="are alike"):
        fit_line(np.array([-2.0, 0.0]), np.array([0, 0]))


def test_logits_that_say_nothing_are_moved_but_not_turned(caplog):
    logits, labels = np.array([-2.0, 0.0, -1.0, 1.0] * 50), np.array([1, 1, 0, 0] * 50)
    line = fit_line(logits, labels)
    assert line.slope == 1.0
    assert (1 / (1 + np.exp(-logits - line.offset))).mean() == pytest.approx(0.5, abs=1e-6)
    assert "only their mean is moved" in caplog.text


def test_a_moved_head_says_the_line_of_what_it_said(model):
    head = model.chromatin.eval()
    pooled = torch.randn(7, head.reads)
    before = head.answer(pooled).detach() - math.log(8)
    line = Line(0.6, -1.0)
    move(head, line, 8.0)
    after = head.answer(pooled).detach() - math.log(8)
    torch.testing.assert_close(after, line.slope * before + line.offset, rtol=1e-4, atol=1e-4)


def test_an_offset_makes_probabilities_right_on_average():
    logits = np.linspace(-3, 5, 4_000)
    offset = fit_offset(logits, drawn(logits - 1.5, seed=3))
    assert offset == pytest.approx(-1.5, abs=0.15)


def test_likeliest_starts_near_a_place_are_calibrated_by_themselves(tiny_tokenizer, tmp_path):
    starts_checkpoint(tiny_tokenizer).save(tmp_path / "model")
    texts = [random_dna(8000, seed=i) for i in range(48)]
    table = pd.DataFrame({"sequence": texts, "chrom": "chr1", "split": "validation"})
    table["start"] = np.arange(len(table)) * 8_000
    table["end"], table["strand"], table["name"] = table["start"] + 8_000, "+", "x"
    table["group"], table["label"] = "chr1:0", np.arange(len(table)) % 3 == 0
    table["label"] = table["label"].astype(np.uint8)
    table.to_parquet(tmp_path / "promoters.parquet")
    calibrate(tmp_path / "model", tmp_path / "once", promoters=tmp_path / "promoters.parquet")
    calibrate(tmp_path / "once", tmp_path / "out", promoters=tmp_path / "promoters.parquet")
    made = Inference(Checkpoint.load(tmp_path / "out"))
    for logits in predict_promoters(made, table).T.astype(float):
        assert (1 / (1 + np.exp(-logits))).mean() == pytest.approx(1 / 3, abs=0.02)
    assert made.head("promoter").near_offset < 0


def test_both_heads_are_calibrated_and_the_lines_are_kept(saved, chromatin, tmp_path):
    texts = [random_dna(8000, seed=i) for i in range(48)]
    table = pd.DataFrame({"sequence": texts, "chrom": "chr1", "split": "validation"})
    table["start"] = np.arange(len(table)) * 8_000
    table["end"], table["strand"], table["name"] = table["start"] + 8_000, "+", "x"
    table["group"] = "chr1:0"
    said = predict_promoters(Inference(Checkpoint.load(saved)), table)[:, 0]
    table["label"] = drawn(2 * (said - said.mean()) / said.std(), seed=5)
    table.to_parquet(tmp_path / "promoters.parquet")
    lines = calibrate(
        saved, tmp_path / "out", chromatin=chromatin, promoters=tmp_path / "promoters.parquet"
    )
    assert lines["chromatin"].slope == pytest.approx(0.5, abs=0.15)
    assert lines["chromatin"].offset == pytest.approx(-2, abs=0.5)
    made = Checkpoint.load(tmp_path / "out")
    assert made.provenance["calibration"]["chromatin"] == {
        **lines["chromatin"]._asdict(), "split": "validation"
    }  # fmt: skip
    found = predict_chromatin(Inference(made), ChromatinDataset(chromatin), "validation")
    probabilities = 1 / (1 + 8 * np.exp(-found.logits.astype(float)))
    assert probabilities.mean() == pytest.approx(found.labels.mean(), rel=1e-3)
    again = predict_promoters(Inference(made), table)[:, 0]
    assert np.corrcoef(again, said)[0, 1] > 1 - 1e-6  # on a line, and rising
    assert (1 / (1 + np.exp(-again.astype(float)))).mean() == pytest.approx(
        table["label"].mean(), rel=0.02
    )
    lines = calibrate(
        tmp_path / "out", tmp_path / "again", promoters=tmp_path / "promoters.parquet"
    )
    assert lines["promoter"] == pytest.approx((1, 0), abs=0.05)  # it was calibrated before
    known = Checkpoint.load(tmp_path / "again").provenance["calibration"]
    first = made.provenance["calibration"]
    assert known["chromatin"] == first["chromatin"]
    assert known["promoter"]["slope"] == lines["promoter"].slope * first["promoter"]["slope"]
    assert known["promoter"]["offset"] == pytest.approx(first["promoter"]["offset"], rel=0.1)


def test_nothing_to_calibrate_on_is_refused(saved, tmp_path):
    with pytest.raises(UsageError, match="give --chromatin, --promoters or both"):
        calibrate(saved, tmp_path / "out")


def test_a_promoter_head_that_asks_a_moved_head_answers_as_before(tiny_tokenizer):
    torch.manual_seed(0)
    shape = {"cell_bp": 20, "step_bp": 40}
    local = LocalConfig(
        span_bp=40, filters=6, filter_bp=5, pool_bp=2, width=5, dilations=(2,), cells=4, kept=3
    )
    profiles = HeadConfig(
        outputs=4, hidden=8, pool="cells", before_bp=60, after_bp=40, local=local, **shape
    )
    chromatin = Head(profiles, 12).eval()
    config = HeadConfig(pool="profiles", before_bp=100, after_bp=80, profiles=profiles, **shape)
    promoter = Head(config, 12).eval()
    promoter.profiles.load_state_dict(chromatin.state_dict())
    promoter.norm.running_mean.normal_()
    promoter.norm.running_var.uniform_(0.5, 2)
    places = [np.array([200, 310])]
    asked = pack_places([random_dna(600, seed=5)], places, tiny_tokenizer, config, 16)
    hidden = torch.randn(len(asked.batch.ids), 12)
    line = Line(0.8, -0.3)
    expected = promoter(hidden, asked)
    before = pack_places([random_dna(600, seed=5)], places, tiny_tokenizer, profiles, 16)
    raw = chromatin(hidden, before)
    move(chromatin, line, 8.0)
    shift = np.log(8.0)
    torch.testing.assert_close(chromatin(hidden, before), (raw - shift) * 0.8 - 0.3 + shift)
    follow(promoter, chromatin, line, 8.0)
    torch.testing.assert_close(promoter(hidden, asked), expected, rtol=1e-4, atol=1e-5)
