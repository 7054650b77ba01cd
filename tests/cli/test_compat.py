from __future__ import annotations

import json

import pandas as pd

from genobird.scoring.scorer import load


def test_the_command_line_of_the_retired_tool_works(
    run, vcf, tiny_genome_path, tiny_checkpoint, tmp_path
):
    output = tmp_path / "out.tsv"
    scores = ["-s", "diff", "-s", "logit", "-l", 1000]
    arguments = [vcf, tiny_genome_path, output, "-m", tiny_checkpoint, *scores]
    code, out, err = run("compat", "kipoi-veff2", *arguments, "--device", "cpu")
    assert (code, out) == (0, "")
    assert "--seq-length 1000 is not used" in err
    assert "2 alleles in" in err
    table = pd.read_csv(output, sep="\t")
    assert list(table.columns[:6]) == [
        *("#CHROM", "POS", "ID", "REF", "ALT"),
        f"{tiny_checkpoint}/A_DNase_None/diff",
    ]
    assert table.iloc[:, 5:].isna().all(axis=1).tolist() == [True, False]
    code, _, err = run("compat", "kipoi-veff2", *arguments)
    assert code == 2
    assert "exists; choose another name or pass --force" in err


def test_the_bundled_model_stands_in_for_the_retired_one_and_says_so(
    run, vcf, tiny_genome_path, tiny_checkpoint, monkeypatch
):
    def bundled(model: object, *_: object, **__: object) -> object:
        assert model is None
        return load(tiny_checkpoint, device="cpu")

    monkeypatch.setattr("genobird.scoring.scorer.load", bundled)
    code, out, err = run(
        "compat", "kipoi-veff2", vcf, tiny_genome_path, "-", "-m", "DeepSEA/predict"
    )
    assert code == 0
    assert "DeepSEA/predict is no model of genobird: the bundled model" in err
    assert out.splitlines()[0].split("\t")[5] == "DeepSEA/predict/A_DNase_None/diff"


def test_selene_tables_come_into_a_folder(run, vcf, tiny_genome_path, tiny_checkpoint, tmp_path):
    folder = tmp_path / "made"
    model = ["--model", tiny_checkpoint, "--device", "cpu"]
    arguments = [vcf, tiny_genome_path, folder, *model, "--save-data", "abs_diffs"]
    code, out, _ = run("compat", "selene", *arguments, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["output"] == str(folder / "in_abs_diffs.tsv")
    assert summary["statuses"] == {"OK": 1, "SYMBOLIC": 1}
    assert [path.name for path in folder.iterdir()] == ["in_abs_diffs.tsv"]


def test_what_cannot_be_done_is_refused(run, vcf, tiny_genome_path, tiny_checkpoint, tmp_path):
    model = ["-m", tiny_checkpoint]
    start = ["kipoi-veff2", vcf, tiny_genome_path]
    (tmp_path / "file").write_text("")
    cases = [
        ([*start, tmp_path / "out.tsv", *model, "-s", "magic"], "score 'magic' is unknown"),
        ([*start, tmp_path / "out.parquet", *model], "allowed are .tsv, .tsv.gz and -"),
        ([*start, tmp_path / "out.tsv", "-m", "Basset"], "no model directory"),
        ([*start, tmp_path / "out.tsv"], "--model"),
        ([*start, vcf, *model, "--force"], "the table and the VCF are the same file"),
        (["selene", vcf, tiny_genome_path, tmp_path / "file", *model], "needs a folder there"),
        (["selene", vcf, tiny_genome_path, tmp_path, *model, "-s", "x"], "score 'x' is unknown"),
    ]
    for arguments, message in cases:
        code, out, err = run("compat", *arguments)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1
        assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in.vcf"]


def test_compat_alone_shows_its_verbs(run):
    code, out, err = run("compat")
    assert code == 2
    assert "kipoi-veff2" in out + err
    assert "selene" in out + err
