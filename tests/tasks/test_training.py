import pytest
import torch
import yaml

import genobird
from genobird.checkpoint import Checkpoint
from genobird.errors import ConfigError, UsageError
from genobird.tasks.finetune import PromoterConfig
from tests.models import tiny_checkpoint

FIT = {"steps": 2, "warmup_steps": 1, "device": "cpu", "threads": 1, "precision": "float32"}


@pytest.fixture
def model(tiny_tokenizer, tmp_path):
    tiny_checkpoint(tiny_tokenizer).save(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def asked(model, promoter_path):
    """What a promoter head is trained on and how, as keyword arguments."""
    return {"checkpoint": model, "data_path": promoter_path, "data": {"sequences": 2}, "fit": FIT}


def weights(checkpoint):
    return {
        name: value for m in checkpoint.modules().values() for name, value in m.named_parameters()
    }


def test_a_model_is_pretrained_and_its_version_kept(tiny_shards, tokenizer_path, tmp_path):
    made = genobird.pretrain(
        str(tmp_path / "run"), shards=tiny_shards.path, tokenizer=tokenizer_path, preset="tiny",
        data={"max_tokens": 66, "sequences": 2}, fit=FIT, progress=False,
    )  # fmt: skip
    written = Checkpoint.load(tmp_path / "run" / "model")
    assert written.hash == made.hash
    assert made.provenance["pretraining"]["genobird"] == genobird.__version__
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["fit"]["steps"] == 2


def test_values_and_settings_ask_for_the_same_training(asked, tmp_path):
    config = PromoterConfig(**asked)
    runs = [
        genobird.finetune("promoter", tmp_path / "values", progress=False, **asked),
        genobird.finetune("promoter", tmp_path / "settings", config, progress=False),
    ]
    first, second = map(weights, runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        genobird.finetune("promoter", tmp_path / "values", config, progress=False)
    other = genobird.finetune(
        "promoter", tmp_path / "values", config, force=True, progress=False, freeze_encoder=True
    )
    assert other.provenance["promoter"]["config"]["freeze_encoder"] is True


def test_a_model_is_evaluated(model, promoter_path, tmp_path):
    found = genobird.evaluate(
        str(model), str(tmp_path / "out"), promoters=promoter_path, split="validation",
        resamples=2, device="cpu",
    )  # fmt: skip
    assert found["promoters"]["windows"] == 4
    assert found["settings"]["resamples"] == 2
    assert not {"promoters", "split"} & set(found["settings"])


def test_what_is_wrong_is_told_with_what_is_allowed(asked, tmp_path):
    out = tmp_path / "out"
    for what, values, message in (
        ("promoter", {**asked, "steps": 3}, "unknown key steps; allowed here: checkpoint, data"),
        ("promoter", {**asked, "fit": {"stps": 3}}, "unknown key fit.stps; allowed here: accum"),
        ("promoter", {"data_path": "x"}, "checkpoint: Field required; give it as checkpoint="),
        ("peaks", {"peaks": ["x.bed"]}, "fasta: Field required; give it as fasta="),
        ("enhancer", {}, "'enhancer' is no head to fine-tune; allowed are chromatin, mlm, peaks"),
    ):
        with pytest.raises(UsageError, match=message):
            genobird.finetune(what, out, **values)
    with pytest.raises(ConfigError, match="shards: Field required; give it as shards="):
        genobird.pretrain(out, tokenizer="t.model")
    with pytest.raises(UsageError, match="unknown key promoter; allowed here: baselines, bigwig"):
        genobird.evaluate("model", out, promoter="p.parquet")
    assert not out.exists()
