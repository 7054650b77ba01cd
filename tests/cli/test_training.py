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


FAST = [
    word
    for setting in ("context_bp=200", "resamples=5", "device=cpu", "min_positives=10", "threads=1")
    for word in ("--set", setting)
]


def test_a_head_is_trained_on_one_s_own_peaks_and_scores(
    told, peaks, tiny_genome_path, tiny_checkpoint, tmp_path
):
    base = ("finetune", "chromatin", "--output", tmp_path / "run", "--peaks", peaks)
    genome = ("--fasta", tiny_genome_path, "--model", tiny_checkpoint)
    held_out = ("--held-out", "chr1:1-20,000", "--steps", "2")
    out = told(*base, *genome, *held_out, *FAST, "--name", "my TF")
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

    out = told(
        "score", "chr1:30,001-30,200", "--fasta", tiny_genome_path, "--output", "-",
        "--model", tmp_path / "run" / "model", "--quiet",
    )  # fmt: skip
    assert out.splitlines()[0].split("\t")[-1] == "my TF"

    err = told(*base, *genome, *held_out, *FAST, code=2)
    assert "run/model exists" in err


TABLE_FAST = [
    word
    for setting in (
        *("fit.steps=2", "fit.device=cpu", "fit.threads=1"),
        *("fit.loggers=[csv]", "window_bp=200"),
        *("regions=4", "head.hidden=4"),
    )
    for word in ("--set", setting)
]


def test_quiet_trainings_and_measurements_say_nothing(
    capsys, table, tiny_genome_path, tiny_checkpoint, tmp_path
):
    data = (table, "--fasta", tiny_genome_path)
    trained = ("finetune", "table", *data, "--target", "activity", "--model", tiny_checkpoint)
    made = tmp_path / "run"
    measured = ("evaluate", made / "model", "--table", *data, "--set", "resamples=5")
    for words, output in ((trained + tuple(TABLE_FAST), made), (measured, tmp_path / "figures")):
        assert main([str(word) for word in (*words, "--output", output, "--quiet")]) == 0
        assert capsys.readouterr() == ("", "")
        assert main([str(word) for word in (*words, "--output", output, "--force")]) == 0
        assert f"written to {output}" in capsys.readouterr().err


@pytest.fixture
def table(tmp_path):
    """Regions of chr1 with values and classes, as CSV."""
    lines = ["chrom,start,end,activity,other,state,split\n"]
    for number, at in enumerate(range(1000, 13_000, 1000)):
        split = ("train", "validation", "test")[number % 3]
        lines.append(f"chr1,{at},{at + 100},{number * 7 % 5},{number},s{number // 3 % 2},{split}\n")
    path = tmp_path / "mine.csv"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize(
    ("target", "columns", "precision"),
    [
        ("activity,other", ["table|activity", "table|other"], "float32"),
        ("state", ["table|state=s0", "table|state=s1"], "bf16"),  # measured in float32 all the same
    ],
)
def test_a_head_is_trained_on_one_s_own_table_measured_and_scores(
    told, table, target, columns, precision, tiny_genome_path, tiny_checkpoint, tmp_path
):
    base = ("finetune", "table", table, "--fasta", tiny_genome_path, "--target", target)
    run_to = ("--model", tiny_checkpoint, "-o", tmp_path / "run")
    run_to += ("--set", f"fit.precision={precision}")
    out = told(*base, *run_to, *TABLE_FAST)
    figure = "accuracy" if target == "state" else "pearson"
    assert out.startswith("validation, ")
    assert out.count(f": {figure} ") == (2 if target == "state" else 4)
    report = json.loads((tmp_path / "run" / "held_out.json").read_text())
    model = tmp_path / "run" / "model"

    genome = ("--fasta", tiny_genome_path, "--output", "-", "--model", model, "--quiet")
    out = told("score", "chr1:30,001-30,200", *genome)
    assert out.splitlines()[0].split("\t")[-2:] == columns
    with_genome = ("--fasta", tiny_genome_path, "--model", model, "--quiet")
    told("variants", "chr1:2000:A>C", *with_genome, "--output", tmp_path / "v.tsv")
    header = (tmp_path / "v.tsv").read_text().splitlines()[0].split("\t")
    assert header[-6:] == [f"{name}|{part}" for name in columns for part in ("ref", "alt", "delta")]
    told("score", table_bed(table, tmp_path), *with_genome, "--output", tmp_path / "s.tsv")
    reported = ("report", "-o", tmp_path / "r.html", "--regions", tmp_path / "s.tsv")
    told(*reported, "--variants", tmp_path / "v.tsv")
    assert "table|" not in (tmp_path / "r.html").read_text()
    assert ", ".join(columns) in told("info", model)

    measure = ("evaluate", model, "--table", table, "--output", tmp_path / "figures")
    told(*measure, "--fasta", tiny_genome_path)
    measured = json.loads((tmp_path / "figures" / "evaluation.json").read_text())
    assert measured["table"] == report["test"]
    err = told(*measure, "--force", code=2)
    assert "give it with --fasta" in err


def table_bed(table, folder):
    """The regions of a table, as BED."""
    rows = [line.split(",")[:3] for line in table.read_text().splitlines()[1:]]
    path = folder / "mine.bed"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def test_a_table_without_what_is_needed_is_refused(
    told, table, tiny_genome_path, tiny_checkpoint, tmp_path
):
    base = ("finetune", "table", table, "--fasta", tiny_genome_path, "-o", tmp_path / "run")
    assert "with --target or with --bigwig" in told(*base, code=2)
    assert "has no column height" in told(*base, "--target", "height", code=1)
    measure = ("evaluate", tiny_checkpoint, "--table", table, "--fasta", tiny_genome_path)
    err = told(*measure, "-o", tmp_path / "figures", code=2)
    assert "the model has no table head; add one with `genobird finetune table`" in err


def test_a_vocabulary_is_asked_for_what_can_be_sampled(told, tmp_path):
    train = ("tokenizer", "train", tmp_path, "-o", tmp_path / "t.model")
    for option, value, least in (("--seed", -1, 0), ("--sample-bp", 0, 1)):
        err = told(*train, option, value, code=2)
        assert f"for {option}: Input should be greater than or equal to {least}" in err


def test_tokens_of_standard_input_are_shown_or_refused_in_one_line(
    told, tiny_checkpoint, monkeypatch
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
        found = told(*encode, code=code)
        if code == 0:
            assert "".join(line.split("\t")[3] for line in found.splitlines()) == message
        else:
            assert message in found
            assert found.count("\n") == 1


def test_options_that_do_not_go_together_are_misuse(
    told, peaks, tiny_genome_path, tiny_checkpoint, tmp_path
):
    base = ("finetune", "chromatin", "--output", tmp_path / "run")
    err = told(*base, "--peaks", peaks, code=2)
    assert err == ("genobird: error: --peaks needs the genome they lie on; give it with --fasta\n")
    err = told(*base, "--peaks", peaks, "--config", peaks, code=2)
    assert "--config and --peaks are two ways to train; choose one" in err
    err = told(*base, "--minutes", "3", code=2)
    assert "--minutes belongs to --peaks" in err
    err = told(*base, "--peaks", peaks, "--fasta", tiny_genome_path, "--set", "step=3", code=2)
    assert "unknown key step; allowed here: background, batch" in err
    assert not (tmp_path / "run").exists()


def test_bad_peaks_end_in_one_line_and_leave_nothing(
    told, tiny_genome_path, tiny_checkpoint, tmp_path
):
    for text, code, message in (
        ("", 1, "holds no interval"),
        ("chr1\t59900\t60100\n", 1, "are the peaks of another assembly"),
        ("chr7\t59900\t60100\n", 1, "1 of 1 peaks lie on chr7"),
        ("chr1\t5000\t5200\n", 1, "1 peak of 200 bp (median) and"),
        ("chr1\tx\t5200\n", 1, "line 1: start 'x' is no whole number"),
    ):
        path = tmp_path / "bad.bed"
        path.write_text(text)
        err = told(
            "finetune", "chromatin", "--output", tmp_path / "run", "--peaks", path,
            "--fasta", tiny_genome_path, "--model", tiny_checkpoint, "--held-out",
            "chr1:1-20,000", code=code,
        )  # fmt: skip
        assert message in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "run" / "model").exists()


def test_a_masked_lm_head_learns_what_can_be_counted(
    told, tiny_genome_path, tiny_checkpoint, tmp_path
):
    law = ("passes=1", "start_max=500", "sentences=[4, 9]", "sentence_bp=[90, 110]")
    told(
        "corpus", tiny_genome_path, "--output", tmp_path / "corpus",
        *(word for setting in law for word in ("--set", setting)),
    )  # fmt: skip
    tokenizer = tiny_checkpoint / "tokenizer.model"
    told("shards", tmp_path / "corpus", "--tokenizer", tokenizer,
        "--output", tmp_path / "shards")  # fmt: skip
    same = (
        "shards",
        tmp_path / "corpus",
        "--tokenizer",
        tokenizer,
        "--output",
        tmp_path / "corpus",
    )
    assert "--output and the corpus are the same" in told(*same, "--force", code=2)
    settings = (
        f"checkpoint={tiny_checkpoint}", f"shards={tmp_path / 'shards'}", "least=[2]",
        "data.max_tokens=66", "fit.steps=2", "fit.device=cpu", "fit.threads=1",
    )  # fmt: skip
    asked = ("finetune", "mlm", "--output", tmp_path / "run", "--quiet")
    asked += tuple(word for setting in settings for word in ("--set", setting))
    assert told(*asked) == ""
    made = Checkpoint.load(tmp_path / "run" / "model")
    assert made.mlm.neighbours.pairs(1) > 100
    assert "exists; choose" in told(*asked, code=2)
    error = told(*asked, "--force", "--set", "least=[]", code=2)
    assert "least" in error
    assert "at least 1 item" in error


@pytest.mark.parametrize(
    "verb",
    [("pretrain",), *(("finetune", head) for head in ("mlm", "chromatin", "promoter"))],
)
def test_a_configuration_is_printed_with_every_field_and_its_text(told, verb):
    text = told(*verb, "--print-config")
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
