from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from genobird.checkpoint import Checkpoint
from tests.conftest import random_dna

FAST = ("promoter_fit.steps=2", "promoter_shape.first=4", "promoter_shape.hidden=4")


@pytest.fixture(scope="module")
def promoters(tmp_path_factory):
    rows = [
        (
            "chr1", 8000 * i, 8000 * (i + 1), "+", f"p{i}", i % 2, ("train", "test")[i % 4 < 2],
            f"chr1:{i}", random_dna(8000, seed=i),
        )
        for i in range(24)
    ]  # fmt: skip
    names = ["chrom", "start", "end", "strand", "name", "label", "split", "group", "sequence"]
    table = pd.DataFrame(rows, columns=names).astype({"label": np.int64})
    path = tmp_path_factory.mktemp("data") / "promoters.parquet"
    table.to_parquet(path)
    return path


def test_a_model_is_measured_beside_baselines_and_gets_its_card(
    told, tiny_checkpoint, promoters, tmp_path
):
    sets = [word for setting in FAST for word in ("--set", setting)]
    told("baselines", "--promoters", promoters, "--output", tmp_path / "b", *sets)
    measured = ("evaluate", tiny_checkpoint, "--promoters", promoters, "--output", tmp_path)
    out = told(*measured, "--baselines", tmp_path / "b", "--set", "resamples=5")
    assert out == ""  # messages go to standard error
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["promoters"]["windows"] == 12
    assert set(figures["promoters"]["baselines"]) == {"composition", "convolution"}
    assert figures["settings"]["resamples"] == 5
    card = ("card", tiny_checkpoint, "--evaluation", tmp_path / "evaluation.json")
    told(*card, "--output", tmp_path / "card.md")
    assert Checkpoint.load(tiny_checkpoint).hash in (tmp_path / "card.md").read_text()
    same = told(*card, "--output", tmp_path / "evaluation.json", "--force", code=2)
    assert "--output and --evaluation are the same file" in same
    for again in ((*measured,), (*card, "--output", tmp_path / "card.md")):
        assert "exists; choose another name or pass --force" in told(*again, code=2)


def test_models_of_promoters_are_measured_in_a_scan_too(told, tiny_checkpoint, promoters, tmp_path):
    windows = pd.read_parquet(promoters)
    scan = tmp_path / "scan.parquet"
    windows[windows["split"] == "test"].iloc[:7].to_parquet(scan)
    sources = ("--promoters", promoters, "--scan", scan)
    told("baselines", *sources, "--output", tmp_path / "b", "--models", "composition")
    measured = ("evaluate", tiny_checkpoint, *sources, "--output", tmp_path)
    told(*measured, "--baselines", tmp_path / "b", "--set", "resamples=5")
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert (figures["promoters"]["windows"], figures["scan"]["windows"]) == (12, 7)
    assert set(figures["scan"]["baselines"]) == {"composition"}
    alone = ("baselines", "--scan", scan, "--output", tmp_path / "c")
    assert "nothing to train on" in told(*alone, code=2)
    unseen = ("evaluate", tiny_checkpoint, "--scan", scan, "--output", tmp_path, "--force")
    (tmp_path / "b" / "composition.scan.npz").unlink()
    error = told(*unseen, "--baselines", tmp_path / "b", code=2)
    assert "has no predictions *.scan.npz" in error


def test_any_of_the_baselines_can_be_trained(told, promoters, tmp_path):
    arguments = ("--promoters", promoters, "--output", tmp_path / "b", "--set", "kmers.k=2")
    told("baselines", *arguments, "--models", "kmers, composition")
    facts = json.loads((tmp_path / "b" / "baselines.json").read_text())
    assert set(facts["promoters"]) == {"sha256", "kmers", "composition"}
    assert facts["promoters"]["kmers"]["settings"]["k"] == 2


def test_misuse_is_one_line(told, tiny_checkpoint, promoters, tmp_path):
    output = ("--output", tmp_path / "out")
    for arguments, message in [
        (("evaluate", tiny_checkpoint, *output), "nothing to measure"),
        (("baselines", *output), "nothing to train on"),
        (("evaluate", tmp_path / "none", "--promoters", promoters, *output), "no model directory"),
        (("baselines", "--promoters", promoters, *output, "--set", "step=1"), "unknown key step"),
        (("baselines", "--shards", tmp_path, *output), "want --shards, --held-out and --tokenizer"),
        (
            ("baselines", "--promoters", promoters, *output, "--models", "danq"),
            "none of danq reads",
        ),
        (
            ("card", tiny_checkpoint, "--evaluation", tmp_path / "e.json", "-o", tmp_path / "c.md"),
            "there is no",
        ),
    ]:
        error = told(*arguments, code=2)
        assert error.startswith("genobird: error: ")
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "out").exists()
