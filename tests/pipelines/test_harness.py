from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from genobird.errors import InputError
from genobird.report.card import model_card
from pipelines import steps
from pipelines.harness import joined, main

SHARE = {"low": 0.5, "point": 0.75, "high": 0.9}
CHANGES = ("core", "base", "control")


def effects(model, split="test"):
    """What `pipelines.motif_effects` writes, in part."""
    means = {change: dict.fromkeys(("leads", "top5", "lower"), SHARE) for change in CHANGES}
    together = {
        "factors": 31, "sites": 412, "means": means, "known": 12, "seen": 9, "fewest": 20,
        "auroc": {"low": 0.8, "point": 0.85, "high": 0.9},
    }  # fmt: skip
    ctcf = {change: {"sites": 20, "leads": SHARE, "lower": SHARE} for change in CHANGES}
    return {"model": model, "split": split, "together": together, "ctcf": ctcf, "rows": [1]}


def alleles(model):
    pairs = {"n": 201, "point": 0.796, "low": 0.736, "high": 0.851}
    return {"model": model, "tests": {"ctcf-pairs": pairs}, "matrix scan": {"ctcf-pairs": pairs}}


EVALUATION = {"model_sha256": "ab" * 32, "split": "test"}


def test_figures_of_the_model_and_its_rivals_stand_beside_each_other():
    found = joined(EVALUATION, [effects("ab" * 6), effects("convolution")], [alleles("ab" * 6)])
    assert list(found["motifs"]["effects"]) == ["transformer", "convolution"]
    assert list(found["motifs"]["alleles"]) == ["transformer", "matrix scan"]
    assert "rows" not in found["motifs"]["effects"]["transformer"]
    assert found["motifs"]["alleles"]["transformer"]["CTCF pairs, right allele"]["point"] == 0.796


def test_figures_of_another_model_or_of_two_parts_are_refused():
    with pytest.raises(InputError, match="evaluation is of model abababababab, the motifs of cd"):
        joined(EVALUATION, [effects("cd" * 6)], [])
    with pytest.raises(InputError, match="splits test, validation cannot be compared"):
        joined(EVALUATION, [effects("ab" * 6), effects("convolution", "validation")], [])


def test_the_card_shows_them_with_their_intervals(tmp_path):
    files = {
        "evaluation": EVALUATION, "effects": effects("ab" * 6), "rival": effects("convolution"),
        "alleles": alleles("ab" * 6),
    }  # fmt: skip
    for name, facts in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(facts))
    arguments = ["--output", str(tmp_path / "made.json")]
    for option, name in [
        ("evaluation", "evaluation"), ("effects", "effects"), ("effects", "rival"),
        ("alleles", "alleles"),
    ]:  # fmt: skip
        arguments += [f"--{option}", str(tmp_path / f"{name}.json")]
    assert CliRunner().invoke(steps.command(main), arguments).exit_code == 0
    card = model_card({}, json.loads((tmp_path / "made.json").read_text()))
    section = card.split("## Motifs")[1].split("\n## ")[0]
    assert "412 strong matches of 31 factors" in section
    assert "| figure | transformer | small convolutional network |" in section
    cell = "0.750 [0.500, 0.900]"
    assert f"| CTCF or cohesin leads: best base | {cell} | {cell} |" in section
    assert "| factors with 20 sites that are among the first five at half | 9 of 12 |" in section
    assert "| CTCF pairs, right allele | 201 | 0.796 [0.736, 0.851] | 0.796" in section
    assert "## Motifs" not in model_card({}, EVALUATION)
