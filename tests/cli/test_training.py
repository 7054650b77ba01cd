from __future__ import annotations

import io
import json
import sys

import pytest
import yaml

from genobird.checkpoint import Checkpoint
from genobird.cli import main


@pytest.fixture
def peaks(tmp_path):
    """A peak in every fourth bin of chr1, as narrowPeak."""
    path = tmp_path / "mine.narrowPeak"
    rows = (
        f"chr1\t{at}\t{at + 200}\tp{at}\t0\t.\t5\t-1\t-1\t100\n" for at in range(0, 60_000, 800)
    )
    path.write_text("".join(rows))
    return path


def run(capsys, *arguments, code=0):
    found = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out if code == 0 else captured.err


FAST = [
    word
    for setting in ("context_bp=200", "resamples=5", "device=cpu", "min_positives=10", "threads=1")
    for word in ("--set", setting)
]


def test_a_head_is_trained_on_one_s_own_peaks_and_scores(
    capsys, peaks, tiny_genome_path, tiny_checkpoint, tmp_path
):
    base = ("finetune", "chromatin", "--output", tmp_path / "run", "--peaks", peaks)
    genome = ("--fasta", tiny_genome_path, "--model", tiny_checkpoint)
    held_out = ("--held-out", "chr1:1-20,000", "--steps", "2")
    out = run(capsys, *base, *genome, *held_out, *FAST, "--name", "my TF", "--quiet")
    lines = out.splitlines()
    assert lines[0] == "my TF: 25 held-out bins with a peak"
    assert lines[1].startswith("  AUROC 0.")
    assert ", of GC content 0." in lines[2]
    assert len(lines) == 3
    assert Checkpoint.load(tmp_path / "run" / "model").features["name"].tolist() == ["my TF"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["minutes"], config["steps"], config["held_out"]) == (None, 2, ["chr1:1-20,000"])
    assert config["peaks"] == [str(peaks)]
    report = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert report["held_out"]["places"] == ["chr1:1-20,000"]

    out = run(
        capsys, "score", "chr1:30,001-30,200", "--fasta", tiny_genome_path, "--output", "-",
        "--model", tmp_path / "run" / "model", "--quiet",
    )  # fmt: skip
    assert out.splitlines()[0].split("\t")[-1] == "my TF"

    err = run(capsys, *base, *genome, *held_out, *FAST, code=2)
    assert "run/model exists" in err


def test_a_vocabulary_is_asked_for_what_can_be_sampled(capsys, tmp_path):
    train = ("tokenizer", "train", tmp_path, "-o", tmp_path / "t.model")
    for option, value, least in (("--seed", -1, 0), ("--sample-bp", 0, 1)):
        err = run(capsys, *train, option, value, code=2)
        assert f"for {option}: Input should be greater than or equal to {least}" in err


def test_tokens_of_standard_input_are_shown_or_refused_in_one_line(
    capsys, tiny_checkpoint, monkeypatch
):
    encode = ("tokenizer", "encode", tiny_checkpoint / "tokenizer.model", "-")
    for content, code, message in (
        (b"\xef\xbb\xbfGATTACA\r\n", 0, "GATTACA"),
        (b"GAT\xff\n", 1, "the sequence"),
        (b"\xff\xfeG\0", 1, "standard input is text in UTF-16"),
        (None, 2, "standard input is closed; give a file instead of -"),
    ):
        stdin = content if content is None else io.TextIOWrapper(io.BytesIO(content), "utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        found = run(capsys, *encode, code=code)
        if code == 0:
            assert "".join(line.split("\t")[3] for line in found.splitlines()) == message
        else:
            assert message in found
            assert found.count("\n") == 1


def test_options_that_do_not_go_together_are_misuse(
    capsys, peaks, tiny_genome_path, tiny_checkpoint, tmp_path
):
    base = ("finetune", "chromatin", "--output", tmp_path / "run")
    err = run(capsys, *base, "--peaks", peaks, code=2)
    assert err == ("genobird: error: --peaks needs the genome they lie on; give it with --fasta\n")
    err = run(capsys, *base, "--peaks", peaks, "--config", peaks, code=2)
    assert "--config and --peaks are two ways to train; choose one" in err
    err = run(capsys, *base, "--minutes", "3", code=2)
    assert "--minutes belongs to --peaks" in err
    err = run(
        capsys, *base, "--peaks", peaks, "--fasta", tiny_genome_path, "--set", "step=3", code=2
    )
    assert "unknown key step; allowed here: background, batch" in err
    assert not (tmp_path / "run").exists()


def test_bad_peaks_end_in_one_line_and_leave_nothing(
    capsys, tiny_genome_path, tiny_checkpoint, tmp_path
):
    for text, code, message in (
        ("", 1, "holds no interval"),
        ("chr1\t59900\t60100\n", 1, "are the peaks of another assembly"),
        ("chr7\t59900\t60100\n", 1, "1 of 1 peaks lie on chr7"),
        ("chr1\t5000\t5200\n", 1, "1 peaks of 200 bp (median) make"),
        ("chr1\tx\t5200\n", 1, "line 1: start 'x' is no whole number"),
    ):
        path = tmp_path / "bad.bed"
        path.write_text(text)
        err = run(
            capsys, "finetune", "chromatin", "--output", tmp_path / "run", "--peaks", path,
            "--fasta", tiny_genome_path, "--model", tiny_checkpoint, "--held-out",
            "chr1:1-20,000", code=code,
        )  # fmt: skip
        assert message in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "run" / "model").exists()


def test_a_masked_lm_head_learns_what_can_be_counted(
    capsys, tiny_genome_path, tiny_checkpoint, tmp_path
):
    law = ("passes=1", "start_max=500", "sentences=[4, 9]", "sentence_bp=[90, 110]")
    run(
        capsys, "corpus", tiny_genome_path, "--output", tmp_path / "corpus",
        *(word for setting in law for word in ("--set", setting)),
    )  # fmt: skip
    tokenizer = tiny_checkpoint / "tokenizer.model"
    run(capsys, "shards", tmp_path / "corpus", "--tokenizer", tokenizer,
        "--output", tmp_path / "shards")  # fmt: skip
    same = (
        "shards",
        tmp_path / "corpus",
        "--tokenizer",
        tokenizer,
        "--output",
        tmp_path / "corpus",
    )
    assert "--output and the corpus are the same" in run(capsys, *same, "--force", code=2)
    settings = (
        f"checkpoint={tiny_checkpoint}", f"shards={tmp_path / 'shards'}", "least=[2]",
        "data.max_tokens=66", "fit.steps=2", "fit.device=cpu", "fit.threads=1",
    )  # fmt: skip
    asked = ("finetune", "mlm", "--output", tmp_path / "run", "--quiet")
    asked += tuple(word for setting in settings for word in ("--set", setting))
    assert run(capsys, *asked) == ""
    made = Checkpoint.load(tmp_path / "run" / "model")
    assert made.mlm.neighbours.pairs(1) > 100
    assert "exists; choose" in run(capsys, *asked, code=2)
    error = run(capsys, *asked, "--force", "--set", "least=[]", code=2)
    assert "least" in error
    assert "at least 1 item" in error


@pytest.mark.parametrize(
    "verb", [("pretrain",), *(("finetune", head) for head in ("mlm", "chromatin", "promoter"))]
)
def test_a_configuration_is_printed_with_every_field_and_its_text(capsys, verb):
    text = run(capsys, *verb, "--print-config")
    lines = text.splitlines()
    assert "  # Optimiser steps." in lines
    assert "  steps: 1000" in lines
    config = yaml.safe_load(text)
    assert config["fit"]["loggers"] == ["csv", "tensorboard"]
    assert None in config.values()
    for number, line in enumerate(lines):
        if line.endswith(":") or line.lstrip().startswith(("#", "-")):
            continue
        above = lines[number - 1].lstrip()
        assert above.startswith("#"), line
