from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from genobird.checkpoint import WEIGHTS, Checkpoint
from genobird.errors import InputError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.heads import Head, HeadConfig, probabilities
from genobird.inference import Inference
from genobird.local import LocalConfig
from genobird.peaks import Feature, Track
from genobird.scoring.scorer import Scorer
from genobird.targets import Targets
from genobird.tasks import peaks
from genobird.tasks.bins import ChosenBins
from genobird.tasks.features import BinFeatures, FeatureBatches, encode_bins
from genobird.tasks.peaks import (
    PeaksSettings,
    finetune_peaks,
    predict,
    replace_head,
    training_batches,
)
from genobird.tasks.run_folder import Run
from tests.conftest import random_dna, write_fasta
from tests.models import tiny_checkpoint

LENGTH = 120_000
HELD_OUT = ("chr1:80,001-120,000",)
SETTINGS = {
    "minutes": None, "steps": 60, "learning_rate": 1e-2, "held_out": HELD_OUT, "context_bp": 200,
    "min_positives": 20, "resamples": 10, "device": "cpu", "threads": 1, "precision": "float32",
    "group_bp": 10_000,
}  # fmt: skip


def track(name, starts):
    peaks = np.array([(start, start + 200) for start in starts], dtype=np.int64)
    return Track(Feature(-1, name, "custom"), {"chr1": peaks})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A genome in which every sixth bin repeats a word, and its path."""
    rng = np.random.default_rng(11)
    starts = np.sort(rng.choice(LENGTH // 200, LENGTH // 1200, replace=False)) * 200
    bases = list(random_dna(LENGTH, seed=12))
    for start in starts:
        for at in range(start + 20, start + 180, 10):
            bases[at : at + 8] = "GATTACCA"
    path = write_fasta(tmp_path_factory.mktemp("world") / "g.fa", {"chr1": "".join(bases)})
    return path, track("words", starts.tolist())


@pytest.fixture
def model(tiny_tokenizer, tmp_path):
    made = tiny_checkpoint(tiny_tokenizer)
    made.table = Head(HeadConfig(), made.encoder.config.width)
    made.targets = Targets(names=("mine",), means=(0.0,), scales=(1.0,))
    line = {"slope": 2.0, "offset": 0.0, "split": "validation"}
    made.provenance = {
        "pretraining": {"tokens_seen": 7}, "chromatin": {"command": "before"},
        "combined": {"split": "validation"}, "notes": ["the head that was there"],
        "calibration": {"chromatin": line, "promoter": line},
    }  # fmt: skip
    made.save(tmp_path / "start")
    return tmp_path / "start"


def train(world, model, output, tracks=None, regions=None, resume=False, **changes):
    path, words = world
    settings = PeaksSettings.model_validate({**SETTINGS, **changes})
    with Genome(path) as genome:
        return finetune_peaks(
            tracks or [words],
            genome,
            model,
            Run(output, resume=resume, progress=False, provenance={"command": "x"}),
            settings,
            regions=regions,
        )


def test_a_track_is_learnt_and_measured_where_it_was_held_out(world, model, tmp_path):
    report = train(world, model, tmp_path / "run")
    (row,) = report["tracks"]
    assert row["name"] == "words"
    assert row["auroc"]["point"] > 0.9
    assert row["gc"]["auroc_difference"]["low"] > 0
    # the background is thinned, the probabilities are not
    assert 0.5 * row["rate"] < row["mean_probability"] < 2 * row["rate"]
    assert report["held_out"]["places"] == ["chr1:80,001-120,000"]
    assert report["held_out"]["bins_with_peaks"] == report["held_out"]["of_bins_with_peaks"] > 10
    assert json.loads((tmp_path / "run" / "held_out.json").read_text())["tracks"] == [row]

    before, after = Checkpoint.load(model), Checkpoint.load(tmp_path / "run" / "model")
    for part in ("encoder", "mlm", "promoter", "table"):
        old, new = (c.modules()[part].state_dict() for c in (before, after))
        assert all(torch.equal(old[key], new[key]) for key in old), part
    assert after.features.to_dict("list") == {"index": [-1], "name": ["words"], "class": ["custom"]}
    assert after.targets == before.targets
    assert after.provenance["pretraining"] == {"tokens_seen": 7}
    assert after.provenance["chromatin"]["command"] == "x"
    assert after.provenance["chromatin"]["earlier"] == {"command": "before"}
    assert list(after.provenance["calibration"]) == ["promoter"]
    assert not {"combined", "notes"} & set(after.provenance)
    assert str(tmp_path) not in json.dumps(after.provenance)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "held_out.json", "logs", "model",
    ]  # fmt: skip


def test_the_scorer_says_what_was_measured(world, model, tmp_path):
    train(world, model, tmp_path / "run")
    trained = Checkpoint.load(tmp_path / "run" / "model")
    with_word = int(world[1].peaks["chr1"][3, 0]) // 200
    pair = np.array([with_word, with_word + 2])
    bins = ChosenBins(np.array(["chr1", "chr1"]), pair, np.eye(2, dtype=bool), 1, 1)
    with Genome(world[0]) as genome:
        states = encode_bins(
            Inference(trained), trained.chromatin, genome, bins, [np.array([0]), np.array([1])],
            tmp_path / "states", context_bp=8_000, both_strands=True, seconds=None, seed=0,
        )  # fmt: skip
    measured = probabilities(predict(trained.chromatin, states, 2), 8.0)[:, 0]
    regions = [Interval("chr1", 200 * n, 200 * n + 200) for n in pair]
    scored = Scorer(trained, device="cpu").score_regions(regions, world[0])["words"]
    np.testing.assert_allclose(scored, measured, atol=5e-4)
    assert measured[0] - measured[1] > 1e-2


def test_the_same_seed_gives_the_same_bytes_also_after_a_crash(world, model, tmp_path, monkeypatch):
    def weights(run):
        return (tmp_path / run / "model" / WEIGHTS).read_bytes()

    train(world, model, tmp_path / "whole", steps=6)
    train(world, model, tmp_path / "other", steps=6, seed=1)
    make = FeatureBatches.__call__

    def crash(self, step):
        if step == 4:
            raise RuntimeError("power cut")
        return make(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(FeatureBatches, "__call__", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train(world, model, tmp_path / "parts", steps=6)
    with pytest.raises(UsageError, match="parts holds what an interrupted run has done; pass"):
        train(world, model, tmp_path / "parts", steps=6)
    with pytest.raises(UsageError, match=r"settings\.steps 7, before 6\); give what it was"):
        train(world, model, tmp_path / "parts", steps=7, resume=True)
    monkeypatch.setattr(Inference, "predict", None)  # all states are on disk
    train(world, model, tmp_path / "parts", steps=6, resume=True)
    assert weights("parts") == weights("whole") != weights("other")
    first = (tmp_path / "parts" / "held_out.json").read_text()
    report = train(world, model, tmp_path / "parts", steps=6, resume=True)  # it is finished
    assert report == json.loads(first)


def test_a_finished_run_is_not_given_out_as_another_one(world, model, tmp_path):
    output = tmp_path / "run"
    train(world, model, output, steps=2)
    before = (output / "held_out.json").read_text()
    other = track("others", range(0, LENGTH, 1200))
    for changes, message in (
        ({"steps": 3, "seed": 1}, r"settings\.steps 3, before 2; settings\.seed 1, before 0"),
        ({"tracks": [other]}, r"tracks others \(\w{8}\), before words \(\w{8}\)"),
        (
            {"tracks": [world[1], other]},
            r"tracks words \(\w{8}\),others \(\w{8}\), before words \(\w{8}\)\)",
        ),
        (
            {"regions": [Interval("chr1", 0, 119_000)]},
            r"used chr1:1-119,000, before chr1:1-120,000",
        ),
        ({"precision": "bf16"}, r"settings\.precision bf16, before float32"),
    ):
        with pytest.raises(UsageError, match=message):
            train(world, model, output, resume=True, **{"steps": 2, **changes})
    changes = {"steps": 2, "threads": 2, "precision": "auto"}
    assert train(world, model, output, resume=True, **changes) == json.loads(before)


def test_a_model_that_was_not_made_of_peaks_is_not_reported(world, model, tmp_path):
    Checkpoint.load(model).save(tmp_path / "run" / "model")
    with pytest.raises(UsageError, match="run holds a model that was not made of peaks; choose"):
        train(world, model, tmp_path / "run", resume=True)


def test_a_resumed_run_keeps_the_precision_that_it_began_with(world, model, tmp_path, monkeypatch):
    changes = {"steps": 2, "precision": "auto"}
    monkeypatch.setattr("genobird.inference.fastest", lambda device: "bf16")
    train(world, model, tmp_path / "whole", **changes)

    def stopped(*given, both_strands, **more):
        if both_strands:  # those for training are encoded
            raise RuntimeError("power cut")
        return encode_bins(*given, both_strands=both_strands, **more)

    with monkeypatch.context() as patched:
        patched.setattr(peaks, "encode_bins", stopped)
        with pytest.raises(RuntimeError, match="power cut"):
            train(world, model, tmp_path / "parts", **changes)
    monkeypatch.setattr("genobird.inference.fastest", lambda device: "float32")
    with pytest.raises(UsageError, match=r"settings\.precision float32, before bf16"):
        train(world, model, tmp_path / "parts", resume=True, **changes | {"precision": "float32"})
    train(world, model, tmp_path / "parts", resume=True, **changes)
    whole, parts = (Checkpoint.load(tmp_path / run / "model") for run in ("whole", "parts"))
    assert whole.hash == parts.hash
    assert whole.provenance == parts.provenance
    assert whole.provenance["chromatin"]["config"]["precision"] == "bf16"


def test_held_out_bins_are_measured_in_float32_whatever_the_training_computes_in(
    world, model, tmp_path, monkeypatch
):
    is_exact = {}

    def compared(inference, *given, both_strands, **more):
        *what, folder = given
        found = encode_bins(inference, *given, both_strands=both_strands, **more)
        exact = Inference(inference.checkpoint, "cpu", precision="float32")
        other = folder.with_name("exact")
        again = encode_bins(exact, *what, other, both_strands=both_strands, **more)
        is_exact["held out" if both_strands else "train"] = torch.equal(found.pooled, again.pooled)
        shutil.rmtree(other)
        return found

    monkeypatch.setattr(peaks, "encode_bins", compared)
    train(world, model, tmp_path / "run", steps=2, precision="bf16")
    assert is_exact == {"train": False, "held out": True}


def test_a_track_is_not_called_as_a_column_of_every_table(world, model, tmp_path):
    # `promoter.bed` became a feature whose column was the promoter's, and nothing could be scored.
    with pytest.raises(InputError, match="a feature is called promoter, as a column of tables"):
        train(
            world,
            model,
            tmp_path / "run",
            [replace(world[1], feature=Feature(-1, "promoter", "custom"))],
        )
    assert not (tmp_path / "run").exists()


def test_too_few_peaks_are_refused_with_their_number(world, model, tmp_path):
    few = track("few", range(0, 10_000, 1000))
    with pytest.raises(
        InputError, match=r"few: 10 peaks of 200 bp \(median\) and 10 positive bins .* at least 20"
    ):
        train(world, model, tmp_path / "run", tracks=[world[1], few])
    narrow = Track(Feature(-1, "narrow", "custom"), {
        "chr1": np.array([(at, at + 100) for at in range(0, LENGTH, 400)], dtype=np.int64)
    })  # fmt: skip
    with pytest.raises(InputError, match=r"narrow: 300 peaks of 100 bp .* 0 positive .*; widen"):
        train(world, model, tmp_path / "run", tracks=[narrow])
    with pytest.raises(InputError, match=r"words: .* and 0 positive bins .* held out; name other"):
        train(world, model, tmp_path / "run", held_out=("chr1:1-100",))
    with pytest.raises(InputError, match="no bin without a peak"):
        train(world, model, tmp_path / "run", tracks=[track("all", range(0, LENGTH, 200))])
    assert not (tmp_path / "run").exists()


def test_regions_bound_training_and_held_out_places(world, model, tmp_path, caplog):
    report = train(
        world, model, tmp_path / "run", regions=[Interval("1", 20_000, 100_000)], steps=2
    )
    used = report["trained_on"], report["held_out"]
    assert [u["of_bins_with_peaks"] + u["of_background_bins"] for u in used] == [300, 100]
    elsewhere = Track(Feature(-1, "x", "custom"), {})
    with pytest.raises(InputError, match="no peak lies on chr1, the contigs of the regions"):
        train(world, model, tmp_path / "x", [elsewhere], [Interval("chr1", 0, 9)])


def test_a_new_head_keeps_hidden_layers_and_begins_with_the_rates(tiny_tokenizer):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    old = {k: v.clone() for k, v in checkpoint.chromatin.state_dict().items()}
    labels = np.zeros((40, 2), dtype=bool)
    labels[:20, 0] = labels[:5, 1] = True
    bins = ChosenBins(np.array(["c"] * 40), np.arange(40), labels, 20, 1980)
    tracks = [track("a", [0]), track("b", [0])]
    replace_head(checkpoint, tracks, bins, hidden=4)
    head = checkpoint.chromatin
    assert head.config.outputs == 2
    new = head.state_dict()
    same = [k for k in old if old[k].shape == new[k].shape and torch.equal(old[k], new[k])]
    assert len(same) == len(old) - 2  # all but weight and bias of the last layer
    bias = next(v for k, v in new.items() if k not in same and v.shape == (2,))
    assert bias.tolist() == pytest.approx([math.log(8 * r / (1 - r)) for r in (0.01, 0.0025)])
    checkpoint.chromatin = None
    replace_head(checkpoint, tracks, bins, hidden=4)
    assert checkpoint.chromatin.config.hidden == 4


def test_a_new_head_of_as_many_tracks_keeps_no_weights_of_the_old_outputs(tiny_tokenizer):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    shape = checkpoint.chromatin.config
    local = LocalConfig(span_bp=80, filters=4, filter_bp=5, width=4, cells=2, kept=2, hidden=4)
    head = checkpoint.chromatin.widened(shape.model_copy(update={"local": local}))
    checkpoint.chromatin, old = head, {k: v.clone() for k, v in head.state_dict().items()}
    names = [str(n) for n in range(shape.outputs)]
    count = len(names)
    bins = ChosenBins(np.array(["c"] * count), np.arange(count), np.eye(count, dtype=bool), 2, 200)
    replace_head(checkpoint, [track(name, [0]) for name in names], bins, hidden=4)
    new = checkpoint.chromatin.state_dict()
    kept = {k for k in old if old[k].shape == new[k].shape and torch.equal(old[k], new[k])}
    assert kept == {key for key in old if not key.startswith(head.last)}


def test_a_peak_of_another_track_counts_as_rarely_as_it_occurs():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], dtype=bool)
    chosen = ChosenBins(np.array(["c"] * 4), np.arange(4), labels, 2, 200)
    features = BinFeatures(torch.arange(4), torch.zeros(4, 3))
    batches = training_batches(features, chosen, PeaksSettings(batch=9))
    weights = batches.weights.numpy()
    assert weights == pytest.approx(np.array([[1, 0.01], [1, 1], [1, 1], [1, 1]]))
    assert len(batches(0).labels) == 4  # a batch is no larger than what there is
    seen = [batches(step).labels.sum().item() for step in range(3)]
    assert seen == [3.0, 3.0, 3.0]
