import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from genobird.baselines.config import BaselineConfig, GappedSettings, GappedShape, PublishedTraining
from genobird.baselines.fitted import Bins
from genobird.baselines.network import ConvolutionConfig, NetworkSettings, predict_codes
from genobird.baselines.network_models import NetworkModel
from genobird.baselines.train import (
    MODELS,
    chosen,
    load_baselines,
    predict_baselines,
    train_baselines,
)
from genobird.baselines.windows import BinBatches, bin_codes
from genobird.datasets import Predictions
from genobird.enriched import EnrichedSettings
from genobird.errors import CheckpointError, UsageError
from genobird.genome.interval import Interval

SHAPE = ConvolutionConfig(first=16, second=16, hidden=16, dropout=0.0, input_bp=400)
SMALL = PublishedTraining(
    width=0.05, windows=2, bins=4, fit=NetworkSettings(steps=2, warmup_steps=1)
)
BINS, WINDOWS = (
    [name for name, model in MODELS.items() if model.reads(kind)]
    for kind in ("chromatin", "promoters")
)
CONFIG = BaselineConfig(
    models=tuple(dict.fromkeys(BINS + WINDOWS)),
    deepsea=SMALL, danq=SMALL, cnnprom=SMALL, deepromoter=SMALL,
    gapped_chromatin=GappedSettings(
        shape=GappedShape(length=3, letters=2), input_bp=200, penalty=1e-3
    ),
    gapped_promoters=GappedSettings(shape=GappedShape(length=5, letters=4), penalty=0.1),
    chromatin_shape=SHAPE,
    promoter_shape=SHAPE.model_copy(update={"input_bp": 1000}),
    chromatin_fit=NetworkSettings(steps=60, learning_rate=1e-2, warmup_steps=5),
    promoter_fit=NetworkSettings(steps=15, learning_rate=1e-2, warmup_steps=5),
    windows=8, bins=4, promoter_windows=16, composition_bins=200,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(chromatin_path, promoter_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("baselines") / "trained"
    train_baselines(path, chromatin=chromatin_path, promoters=promoter_path, config=CONFIG)
    return path


def separation(predictions, feature):
    """How far the logits of positives lie above those of negatives."""
    positive = predictions.labels[:, feature] == 1
    logits = predictions.logits[:, feature]
    return logits[positive].mean() - logits[~positive].mean()


def test_predictions_are_for_every_usable_bin_of_the_split_once(trained, dataset):
    for name in BINS:
        found = Predictions.load(trained / f"{name}.chromatin.npz")
        bins = dataset.usable_bins(Interval("chr1", 50_000, 60_100))
        np.testing.assert_array_equal(found.bins, bins)
        assert (found.contigs == "chr1").all()
        np.testing.assert_array_equal(found.labels, dataset.labels("chr1", bins))
        assert found.logits.shape == (len(bins), 3)
        assert found.logits.dtype == np.float32


@pytest.mark.parametrize("name", ["composition", "convolution", "gapped_kmers"])
def test_what_can_be_learned_of_bins_is_learned(trained, name):
    assert separation(Predictions.load(trained / f"{name}.chromatin.npz"), 1) > 1.5


@pytest.mark.parametrize("name", ["composition", "convolution", "gapped_kmers", "kmers"])
def test_what_can_be_learned_of_promoters_is_learned(trained, name):
    # The convolution, by seed: 1.48, 1.71, 0.76, 1.49.
    assert separation(Predictions.load(trained / f"{name}.promoters.npz"), 0) > 0.3


def test_a_directory_that_was_loaded_predicts_the_same(trained, chromatin_path, promoter_path):
    files = sorted(trained.glob("*.npz"))
    assert len(files) == len(BINS) + len(WINDOWS)
    before = [file.read_bytes() for file in files]
    predict_baselines(trained, chromatin=chromatin_path, promoters=promoter_path)
    assert [file.read_bytes() for file in files] == before


def test_bins_predicted_together_are_those_predicted_alone(trained, dataset):
    network = load_baselines(trained, "chromatin")["convolution"].network
    bins = dataset.usable_bins(Interval("chr1", 6_000, 10_000))
    assert 40 not in bins
    asked = Bins(dataset, np.full(len(bins), "chr1"), bins)
    together = NetworkModel(network, {}).predict_bins(asked)
    for i in (0, 7, len(bins) - 1):
        codes = bin_codes(dataset, "chr1", bins[i : i + 1], 400)[None]
        alone = predict_codes(network, codes, both_strands=True)[0]
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-5)


@pytest.mark.parametrize("name", BINS)
def test_a_bin_is_predicted_from_a_sequence_around_it_too(trained, dataset, name):
    model = load_baselines(trained, "chromatin")[name]
    bins = np.array([100, 150])
    expected = model.predict_bins(Bins(dataset, np.full(2, "chr1"), bins))
    texts = [dataset.sequence("chr1", b * 200 - 1400, b * 200 + 1700) for b in bins]
    found = model.predict_places(texts, [1500, 1500])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_networks_learn_from_enriched_places_and_auxiliary_labels(chromatin_path, tmp_path):
    fit = NetworkSettings(steps=3, warmup_steps=1, save_every=2)
    config = CONFIG.model_copy(
        update={
            "models": ("convolution", "danq"), "chromatin_fit": fit,
            "danq": SMALL.model_copy(update={"fit": fit}),
            "enriched": EnrichedSettings(places=4), "auxiliary_path": chromatin_path,
        }
    )  # fmt: skip
    train_baselines(tmp_path / "whole", chromatin=chromatin_path, config=config)
    facts = json.loads((tmp_path / "whole" / "baselines.json").read_text())
    assert len(facts["auxiliary"]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(facts)
    for name in config.models:
        assert facts["chromatin"][name]["shape"]["outputs"] == 3
        predictions = Predictions.load(tmp_path / "whole" / f"{name}.chromatin.npz")
        assert predictions.logits.shape[1] == 3
    features = pd.read_csv(tmp_path / "whole" / "features.tsv", sep="\t")
    assert features["name"].tolist() == ["a|motif|None", "a|rich|None", "a|never|None"]


def test_a_network_that_was_stopped_goes_on_within_its_training(
    chromatin_path, tmp_path, monkeypatch
):
    fit = NetworkSettings(steps=5, warmup_steps=1, save_every=2)
    config = CONFIG.model_copy(update={"models": ("convolution",), "chromatin_fit": fit})
    train_baselines(tmp_path / "whole", chromatin=chromatin_path, config=config)
    make, made = BinBatches.__call__, []

    def stopped(self, step):
        made.append(step)
        if made == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return make(self, step)

    monkeypatch.setattr(BinBatches, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_baselines(tmp_path / "parts", chromatin=chromatin_path, config=config)
    with pytest.raises(UsageError, match=r"parts\.partial holds what an interrupted run has"):
        train_baselines(tmp_path / "parts", chromatin=chromatin_path, config=config)
    train_baselines(tmp_path / "parts", chromatin=chromatin_path, config=config, resume=True)
    assert made == [0, 1, 2, 3, 2, 3, 4]
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "parts"}
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert {file.name for file in (tmp_path / "parts").iterdir()} == names
    for name in ("convolution.safetensors", "convolution.chromatin.npz"):
        whole, parts = ((tmp_path / run / name).read_bytes() for run in ("whole", "parts"))
        assert whole == parts


def test_the_facts_say_sizes_and_data(trained):
    facts = json.loads((trained / "baselines.json").read_text())
    assert facts["chromatin"]["composition"] == {
        **facts["chromatin"]["composition"], "rows": 200, "parameters": 27,
    }  # fmt: skip
    assert facts["promoters"]["convolution"]["steps"] == 15
    assert facts["promoters"]["convolution"]["epochs"] == 5
    assert len(facts["chromatin"]["sha256"]) == 64


def test_a_choice_that_does_not_fit_the_data_is_refused():
    assert chosen(["danq", "kmers"], ["chromatin", "promoters"]) == {
        "chromatin": ["danq"], "promoters": ["kmers"],
    }  # fmt: skip
    for names, kinds, message in [
        (["danqq"], ["chromatin"], "baseline 'danqq' is not one of composition, kmers, "),
        (["danq"], ["promoters"], "none of danq reads promoters data; add one of composition"),
        (["danq", "kmers"], ["chromatin"], "kmers reads promoters data, and there are none"),
    ]:
        with pytest.raises(UsageError, match=message):
            chosen(names, kinds)


def test_an_existing_directory_is_kept_and_a_failed_run_leaves_none(
    trained, promoter_path, tmp_path
):
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        train_baselines(trained, promoters=promoter_path)
    with pytest.raises(UsageError, match="nothing to train on"):
        train_baselines(tmp_path / "none")
    with pytest.raises(UsageError, match="no promoter table"):
        train_baselines(tmp_path / "new", promoters=tmp_path / "missing.parquet")
    assert not list(tmp_path.iterdir())


def test_force_replaces_baselines_and_nothing_else(promoter_path, tmp_path):
    config = CONFIG.model_copy(update={"models": ("composition",)})
    output, other = tmp_path / "b", tmp_path / "danger"
    for folder in (output, other):
        folder.mkdir()
    for _ in range(2):
        train_baselines(output, promoters=promoter_path, config=config, force=True)
    (output / "chapter.txt").touch()
    with pytest.raises(UsageError, match=r"b holds chapter\.txt, which genobird does not write"):
        train_baselines(output, promoters=promoter_path, config=config, force=True)
    (output / "chapter.txt").rename(other / "chapter.txt")
    with pytest.raises(
        UsageError, match="danger exists and is no folder of baselines: it holds chapter"
    ):
        train_baselines(other, promoters=promoter_path, config=config, force=True)
    assert (other / "chapter.txt").exists()
    with pytest.raises(UsageError, match="exists and is no folder of baselines: it is a file"):
        train_baselines(other / "chapter.txt", promoters=promoter_path, config=config, force=True)


def test_a_run_that_was_stopped_goes_on_behind_the_last_model(promoter_path, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"models": ("composition", "kmers", "gapped_kmers")})
    whole, output = tmp_path / "whole", tmp_path / "stopped"
    train_baselines(whole, promoters=promoter_path, config=config)
    trained = []

    def train(name, model):
        def training(table, config):
            if name == "gapped_kmers" and len(trained) < 3:
                raise KeyboardInterrupt
            trained.append(name)
            return model.promoters(table, config)

        return replace(model, promoters=training)

    spied = {name: train(name, MODELS[name]) for name in config.models}
    for name, model in spied.items():
        monkeypatch.setitem(MODELS, name, model)
    with pytest.raises(KeyboardInterrupt):
        train_baselines(output, promoters=promoter_path, config=config)
    assert not output.exists()
    trained += ["-"]
    with pytest.raises(UsageError, match=r"stopped\.partial holds what .*; pass --resume to"):
        train_baselines(output, promoters=promoter_path, config=config)
    other = config.model_copy(update={"seed": 7})
    for force in (False, True):
        with pytest.raises(UsageError, match=r"is of another run \(seed 7, before 0\); give what"):
            train_baselines(output, promoters=promoter_path, config=other, resume=True, force=force)
    threads = config.model_copy(update={"threads": torch.get_num_threads()})
    train_baselines(output, promoters=promoter_path, config=threads, resume=True)
    assert trained == ["composition", "kmers", "-", "gapped_kmers"]
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "stopped"}
    for file in (*whole.glob("*.safetensors"), *whole.glob("*.npz")):
        assert (output / file.name).read_bytes() == file.read_bytes()


def test_what_was_not_trained_cannot_be_loaded(promoter_path, tmp_path):
    with pytest.raises(UsageError, match="holds no baselines"):
        load_baselines(tmp_path, "chromatin")
    config = CONFIG.model_copy(update={"models": ("kmers",)})
    train_baselines(tmp_path / "some", promoters=promoter_path, config=config)
    with pytest.raises(CheckpointError, match="no usable chromatin baselines"):
        load_baselines(tmp_path / "some", "chromatin")
