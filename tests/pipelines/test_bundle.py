from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genobird.checkpoint import Checkpoint
from genobird.errors import BackgroundError, CheckpointError, InputError, OutputError, UsageError
from genobird.scoring.background import Background
from pipelines.bundle import bundle, scrub
from tests.models import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FILES = {"model.safetensors", "config.json", "tokenizer.model", "features.tsv", "provenance.json"}


@pytest.fixture
def model(tmp_path, tiny_tokenizer):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    checkpoint.provenance = {
        "pretraining": {
            "command": "genobird pretrain --config /elsewhere/p.yaml --set shards=/data/train",
            "config": {"fit": {"steps": 4}, "path": "/data/train"},
        }
    }
    checkpoint.save(tmp_path / "model")
    return tmp_path / "model"


def weights(path):
    checkpoint = Checkpoint.load(path)
    return {
        f"{name}.{key}": value
        for name, module in checkpoint.modules().items()
        for key, value in module.state_dict().items()
    }


def test_a_bundle_is_the_model_rounded_to_float16_with_its_card(model, tmp_path):
    (tmp_path / "card.md").write_text("# A model\n")
    bundle(model, tmp_path / "out", tmp_path / "card.md")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*FILES, "README.md"}
    assert (tmp_path / "out" / "README.md").read_text() == "# A model\n"
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o644}
    before, after = weights(model), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    parameters = {
        f"{name}.{key}"
        for name, module in Checkpoint.load(model).modules().items()
        for key, _ in module.named_parameters()
    }
    for name, value in before.items():
        rounded = value.half().float() if name in parameters else value  # not statistics
        torch.testing.assert_close(after[name], rounded, rtol=0, atol=0)
    size = (model / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 0.6 * size


def test_bundling_a_bundle_changes_no_byte_of_the_weights(model, tmp_path):
    first = bundle(model, tmp_path / "first")
    second = bundle(tmp_path / "first", tmp_path / "second")
    assert first.hash == second.hash
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_provenance_keeps_commands_and_loses_paths_of_the_machine(model, tmp_path):
    bundle(model, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["pretraining"] == {
        "command": "genobird pretrain --config p.yaml --set shards=train",
        "config": {"fit": {"steps": 4}, "path": "train"},
    }


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("genobird corpus '/a b/x y.fa' -o out/corpus", "genobird corpus 'x y.fa' -o out/corpus"),
        ("--set a=/x/y,/z/w", "--set a=y,w"),
        ("results/a --set b=../c", "results/a --set b=../c"),
        ("https://host/file", "https://host/file"),
        ("5 bits / base, don't", "5 bits / base, don't"),
        ("it's in /a/b", "it's in b"),
    ],
)
def test_absolute_paths_are_cut_to_their_names(text, scrubbed):
    assert scrub([{"k": text}, 3, None]) == [{"k": scrubbed}, 3, None]


def test_figures_of_the_rounded_model_lie_beside_it(model, tmp_path):
    rounded = bundle(model, tmp_path / "rounded")
    digest = rounded.provenance["sha256"]["model.safetensors"]
    (tmp_path / "e.json").write_text(json.dumps({"model_sha256": digest, "command": "x -o /a/b"}))
    bundle(tmp_path / "rounded", tmp_path / "out", evaluation=tmp_path / "e.json")
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures == {"model_sha256": digest, "command": "x -o b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"model_sha256": "0"}', "measures another model"), ("{", r"e\.json is no JSON")],
)
def test_figures_of_another_model_are_refused(model, tmp_path, text, message):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(InputError, match=message):
        bundle(model, tmp_path / "out", evaluation=tmp_path / "e.json")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "e.json"}


def test_a_background_of_the_rounded_model_lies_beside_it(model, tmp_path):
    rounded = bundle(model, tmp_path / "rounded")
    facts = {"model": rounded.hash, "command": "genobird background build /data/common.vcf"}
    deltas = np.ones((3, 2), np.float32)
    Background.of(deltas, ["a", "b"], [0], **facts).save(tmp_path / "b.npz")
    made = bundle(tmp_path / "rounded", tmp_path / "out", background=tmp_path / "b.npz")
    read = Background.load(tmp_path / "out" / "background.npz")
    assert read.model == made.hash
    assert read.facts["command"] == "genobird background build common.vcf"
    assert (tmp_path / "out" / "background.npz").stat().st_mode & 0o777 == 0o644
    Background.of(deltas, ["a", "b"], [0], model="0").save(tmp_path / "c.npz")
    with pytest.raises(BackgroundError, match="is of another model than"):
        bundle(model, tmp_path / "other", background=tmp_path / "c.npz")
    assert not (tmp_path / "other").exists()


def test_too_large_a_bundle_is_refused_and_nothing_is_left(model, tmp_path):
    with pytest.raises(OutputError, match=r"MB, at most 0\.01 MB may ship"):
        bundle(model, tmp_path / "out", max_mb=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_weights_that_float16_cannot_hold_are_refused(model, tmp_path):
    checkpoint = Checkpoint.load(model)
    with torch.no_grad():
        checkpoint.encoder.embedding.weight[3, 0] = 1e6
    checkpoint.save(model, force=True)
    with pytest.raises(CheckpointError, match=r"encoder\.embedding\.weight has values beyond"):
        bundle(model, tmp_path / "out")


def test_misuse_is_told_before_anything_is_written(model, tmp_path):
    with pytest.raises(UsageError, match=r"no file .*none\.md"):
        bundle(model, tmp_path / "out", tmp_path / "none.md")
    with pytest.raises(UsageError, match="exists"):
        bundle(model, model)
    with pytest.raises(UsageError, match="no model directory"):
        bundle(tmp_path / "nothing", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_the_step_runs_as_a_command(model, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.bundle", "--model", "model", "--output", "out"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("out: 0.")
    assert Checkpoint.load(tmp_path / "out").hash in result.stderr
