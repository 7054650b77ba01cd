import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genobird.batch import pack
from genobird.checkpoint import WEIGHTS, Checkpoint
from genobird.errors import ConfigError, ShardError, UsageError
from genobird.tasks.data import MaskedBatch, PretrainBatches, PretrainDataSettings
from genobird.tasks.fit import FitSettings
from genobird.tasks.pretrain import (
    PretrainConfig,
    Pretraining,
    pretrain,
    validation_batches,
)
from genobird.tasks.run_folder import Run
from genobird.tokenizer import Tokenizer
from tests.conftest import random_dna
from tests.models import tiny_checkpoint
from tests.tasks.runs import FIT, Crash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny_shards, tokenizer_path):
    def config(**changes):
        values = {
            "shards": tiny_shards.path,
            "validation_shards": tiny_shards.path,
            "validation_batches": 2,
            "tokenizer": tokenizer_path,
            "preset": "tiny",
            "model": {"dropout": 0.1},
            "data": {"max_tokens": 66, "sequences": 2},
            "fit": FIT,
        }
        return PretrainConfig.model_validate({**values, **changes})

    return config


@pytest.fixture
def task(tiny_tokenizer):
    def task(**changes):
        return Pretraining(tiny_checkpoint(tiny_tokenizer, **changes), FitSettings())

    return task


def masked(tokenizer, pieces):
    """A batch that asks for every piece, given by name."""
    labels = torch.tensor([tokenizer.pieces.index(piece) for piece in pieces])
    batch = pack([np.array([2, *labels, 3], np.uint16)], 16)
    follows = torch.tensor([1])
    return MaskedBatch(batch, torch.arange(1, len(pieces) + 1), labels, follows)


@pytest.mark.parametrize("pieces", [["A", "N", "TT", "G"], ["N", "N"], ["T", "A"]])
def test_bits_per_base_are_summed_over_tokens_and_divided_by_their_bases(
    task, tiny_tokenizer, pieces
):
    assert "TT" in tiny_tokenizer.pieces
    made = task(nsp=True)
    batch = masked(tiny_tokenizer, pieces)
    metrics = made.model_step(batch)

    checkpoint = made.checkpoint
    hidden = checkpoint.encoder(batch.batch)
    logits = checkpoint.mlm(hidden[1 : 1 + len(pieces)], checkpoint.encoder.embedding.weight)
    logp = logits.detach().double().log_softmax(-1)
    nats = [-float(logp[i, label]) for i, label in enumerate(batch.labels)]
    nsp = F.cross_entropy(checkpoint.nsp(hidden[:1]).detach(), torch.tensor([1]))
    assert float(metrics["loss"].detach()) == pytest.approx(
        sum(nats) / len(nats) + float(nsp), rel=1e-5
    )

    def bits(kept):
        bases = sum(len(pieces[i]) for i in kept)
        return pytest.approx(sum(nats[i] for i in kept) / bases / math.log(2), rel=1e-5)

    assert float(metrics["bits_per_base"].detach()) == bits(range(len(pieces)))
    plain = [i for i, piece in enumerate(pieces) if "N" not in piece]
    if plain:
        assert float(metrics["bits_per_base_no_n"].detach()) == bits(plain)
    else:
        assert "bits_per_base_no_n" not in metrics
    right = [int(logits[i].argmax()) == int(label) for i, label in enumerate(batch.labels)]
    assert float(metrics["accuracy"]) == pytest.approx(sum(right) / len(right))
    assert int(metrics["weight"]) == len(pieces)


def test_a_batch_that_asks_for_nothing_has_no_loss_and_no_other_figures(task, tiny_tokenizer):
    made = task()
    batch = masked(tiny_tokenizer, ["A"])
    none = torch.empty(0, dtype=torch.int64)
    metrics = made.model_step(replace(batch, targets=none, labels=none))
    assert {name: float(value.detach()) for name, value in metrics.items()} == {
        "loss": 0.0, "weight": 0.0,
    }  # fmt: skip
    metrics["loss"].backward()


def test_without_a_next_sentence_head_there_is_no_such_loss(task, tiny_tokenizer):
    assert "nsp_accuracy" not in task().model_step(masked(tiny_tokenizer, ["A"]))
    assert "nsp_accuracy" in task(nsp=True).model_step(masked(tiny_tokenizer, ["A"]))


def test_every_weight_of_the_encoder_and_the_head_gets_a_gradient(
    task, tiny_shards, tiny_tokenizer
):
    made = task(nsp=True)
    settings = PretrainDataSettings(max_tokens=66, sequences=4)
    batches = PretrainBatches(
        tiny_shards, settings, vocab_size=tiny_tokenizer.vocab_size, block_size=16, nsp=True
    )
    made.model_step(batches(0))["loss"].backward()
    for name in ("encoder", "mlm", "nsp"):
        for key, parameter in made.parts[name].named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


def test_a_run_writes_a_model_with_what_it_was_made_from(config, tmp_path, tiny_shards):
    settings = config()
    made = pretrain(settings, Run(tmp_path / "run", progress=False, provenance={"command": "x"}))
    loaded = Checkpoint.load(tmp_path / "run" / "model")
    assert loaded.hash == made.hash
    assert set(loaded.modules()) == {"encoder", "mlm"}
    facts = loaded.provenance["pretraining"]
    assert facts["command"] == "x"
    assert facts["genome_sha256"] == tiny_shards.index.genome_sha256
    assert facts["tokens_seen"] == 4 * 2 * 66
    assert facts["config"]["fit"]["steps"] == 4
    assert facts["validation"]["validation/bits_per_base"] > 0
    assert str(tmp_path) not in json.dumps(loaded.provenance)


@pytest.mark.parametrize("every", [3, 100])
def test_the_figures_are_of_the_model_that_is_written_also_after_a_stop(
    config, tmp_path, monkeypatch, every
):
    settings = config(fit={**FIT, "validate_every": every})
    made = pretrain(settings, Run(tmp_path / "run", progress=False))
    found = made.provenance["pretraining"]["validation"]
    task = Pretraining(Checkpoint.load(tmp_path / "run" / "model"), settings.fit).eval()
    batches = validation_batches(settings, task.checkpoint.encoder.config, made.tokenizer)
    with torch.no_grad():
        steps = [task.model_step(batches(step)) for step in range(2)]
    weights = np.array([int(step["weight"]) for step in steps])
    for name in ("loss", "bits_per_base", "accuracy"):
        expected = np.average([float(step[name]) for step in steps], weights=weights)
        assert found[f"validation/{name}"] == pytest.approx(expected, abs=1e-5), name

    def stop(*_, **__):
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", stop)
        with pytest.raises(Crash):
            pretrain(settings, Run(tmp_path / "parts", progress=False))
    parts = pretrain(settings, Run(tmp_path / "parts", resume=True, progress=False))
    assert parts.provenance == made.provenance


@pytest.mark.parametrize(
    "model", [{"pattern": "google"}, {"global_tokens": "extra"}, {"position": "absolute"}], ids=str
)
def test_a_model_of_any_shape_is_pretrained_and_loaded(config, tmp_path, model):
    made = pretrain(config(model=model), Run(tmp_path / "run", progress=False))
    loaded = Checkpoint.load(tmp_path / "run" / "model")
    assert loaded.encoder.config == made.encoder.config
    for name, value in made.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], value), name


def test_the_precision_that_auto_became_is_written_down(config, tmp_path, monkeypatch):
    monkeypatch.setattr("genobird.inference.fastest", lambda device: "bf16")
    made = pretrain(config(fit={**FIT, "precision": "auto"}), Run(tmp_path / "run", progress=False))
    assert made.provenance["pretraining"]["config"]["fit"]["precision"] == "bf16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 1, "dropout": 0.1}}, r"model\.layers 1, before 2\);"),
        ({"data": {"max_tokens": 50, "sequences": 2}}, r"data\.max_tokens 50, before 66\);"),
    ],
    ids=["model", "data"],
)
def test_a_run_is_resumed_with_its_own_model_and_data(config, tmp_path, changes, message):
    pretrain(config(), Run(tmp_path / "run", progress=False))
    with pytest.raises(UsageError, match=message):
        pretrain(config(**changes), Run(tmp_path / "run", resume=True, progress=False))


def test_a_run_is_resumed_with_its_own_shards(config, tmp_path, tiny_shards, monkeypatch):
    pretrain(config(), Run(tmp_path / "run", progress=False))
    moved = shutil.copytree(tiny_shards.path, tmp_path / "moved")
    pretrain(config(shards=moved), Run(tmp_path / "run", resume=True, progress=False))
    index = json.loads((moved / "index.json").read_text())
    (moved / "index.json").write_text(json.dumps({**index, "corpus_sha256": "0" * 64}))
    with pytest.raises(UsageError, match=r"shards 0{64}, before \w{64}\);"):
        pretrain(config(shards=moved), Run(tmp_path / "run", resume=True, progress=False))


def test_several_corpora_are_trained_on_by_their_weights(config, tmp_path, tiny_shards):
    path = tiny_shards.path
    several = config(shards=[{"path": path, "weight": 3}, {"path": path, "weight": 1}])
    made = pretrain(several, Run(tmp_path / "run", progress=False))
    facts = made.provenance["pretraining"]
    assert facts["weights"] == [3, 1]
    assert facts["genome_sha256"] == [tiny_shards.index.genome_sha256] * 2
    other = config(shards=[{"path": path, "weight": 2}, {"path": path, "weight": 1}])
    with pytest.raises(UsageError, match=r"weights 2\.0,1\.0, before 3\.0,1\.0"):
        pretrain(other, Run(tmp_path / "run", resume=True, progress=False))


def test_the_seed_decides_the_model(config, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))  # what came before does not matter
        pretrain(config(fit={**FIT, "seed": seed}), Run(tmp_path / name, progress=False))
        weights.append((tmp_path / name / "model" / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_run_with_next_sentences_and_without_validation(config, tmp_path):
    settings = config(validation_shards=None, model={"nsp": True})
    made = pretrain(settings, Run(tmp_path / "run", progress=False))
    assert set(made.modules()) == {"encoder", "mlm", "nsp"}
    assert made.provenance["pretraining"]["validation"] == {}


def test_a_killed_run_that_is_resumed_writes_the_same_bytes(config, tmp_path):
    settings = config()
    pretrain(settings, Run(tmp_path / "whole", progress=False))
    script = """
import os, signal, sys
from pathlib import Path
from genobird.tasks import pretrain
make = pretrain.PretrainBatches.__call__
def die(self, step):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(self, step)
pretrain.PretrainBatches.__call__ = die
config = pretrain.PretrainConfig.model_validate_json(sys.argv[1])
pretrain.pretrain(config, pretrain.Run(Path(sys.argv[2]), progress=False))
"""
    command = [sys.executable, "-c", script, settings.model_dump_json(), str(tmp_path / "parts")]
    killed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "parts" / "last.ckpt").is_file()
    with pytest.raises(UsageError, match="pass --resume"):
        pretrain(settings, Run(tmp_path / "parts", progress=False))
    pretrain(settings, Run(tmp_path / "parts", resume=True, progress=False))
    for name in (WEIGHTS, "config.json", "provenance.json"):
        whole, parts = (tmp_path / run / "model" / name for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), name


def test_shards_of_another_tokenizer_are_refused(config, tmp_path):
    path = tmp_path / "other.model"
    Tokenizer.train([random_dna(5000, seed=9)], path, vocab_size=64)
    with pytest.raises(ShardError, match=r"made with another tokenizer than .*other\.model"):
        pretrain(config(tokenizer=path), Run(tmp_path / "run", progress=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "huge"}, "preset 'huge' is not one of base, mini, tiny$"),
        ({"model": {"widht": 3}}, "model: unknown key widht; allowed here: activation, block_size"),
        ({"model": {"width": 33}}, "model: width 33 is not a multiple of heads 2$"),
        ({"model": {"heads": 0}}, "model: heads: Input should be greater than or equal to 1$"),
        ({"model": {"vocab_size": 9}}, "model.vocab_size is the tokenizer's, 64; leave it out$"),
        (
            {"model": {"neighbours": 2}},
            "neighbours are counted, not pretrained; leave them out here",
        ),
        (
            {"model": {"position": "absolute", "max_tokens": 64}},
            "data.max_tokens is 66, the model takes 64; lower the one",
        ),
    ],
)
def test_a_shape_that_cannot_be_is_a_mistake_in_the_configuration(config, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config(**changes).encoder(64)
    assert "\n" not in str(caught.value)


def test_the_shape_comes_from_the_preset_the_tokenizer_and_the_changes(config):
    shape = config(model={"layers": 3}).encoder(77)
    assert (shape.layers, shape.vocab_size, shape.width, shape.stem) == (3, 77, 32, "tower")
