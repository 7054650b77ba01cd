from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from genobird.inference import Floats
from genobird.scoring.mutagenesis import Scan

REGION = "chr1:30,001-30,002"


def test_a_region_becomes_a_table_and_a_logo(run, options, tmp_path):
    table, logo = tmp_path / "out.tsv", tmp_path / "out.svg"
    features = "promoter,A|DNase|None"
    code, out, err = run(
        "mutagenesis", REGION, *options, "-o", table, "--logo", logo, "--features", features
    )
    assert (code, out) == (0, "")
    assert "6 changes in" in err
    written = pd.read_csv(table, sep="\t")
    assert len(written) == 2 * 3 * 2
    assert written["output"].unique().tolist() == features.split(",")
    assert logo.read_text().lstrip().startswith("<?xml")


def test_the_wide_form_has_a_logo_too(run, options, tmp_path):
    table, logo = tmp_path / "out.parquet", tmp_path / "out.png"
    arguments = [*options, "-o", table, "--logo", logo, "--features", "DNase", "--form", "wide"]
    code, out, _ = run("mutagenesis", REGION, *arguments, "--json")
    assert code == 0
    assert list(pd.read_parquet(table).columns)[4:] == [
        f"A|DNase|None|{part}" for part in ("ref", "alt", "delta")
    ]
    assert logo.read_bytes().startswith(b"\x89PNG")
    summary = json.loads(out)
    assert summary["region"] == REGION
    assert summary["outputs"] == ["A|DNase|None"]
    assert summary["statuses"] == {"OK": 6}
    assert summary["logo"] == str(logo)


def test_a_longer_scan_says_first_how_long_it_takes(run, options, monkeypatch):
    monkeypatch.setattr("genobird.cli.scoring._SOON", 2)
    arguments = [*options, "-o", "-", "--features", "DNase"]
    code, out, err = run("mutagenesis", REGION, *arguments)
    assert code == 0
    assert "6 windows, about " in err
    assert len(out.splitlines()) == 7
    assert run("mutagenesis", REGION, *arguments, "--quiet")[2] == ""


def test_what_cannot_be_done_is_refused_and_leaves_nothing(run, options, tmp_path):
    out = ["-o", tmp_path / "out.tsv"]
    cases = [
        (("chr1", *options, *out), 2, "region 'chr1' has no positions"),
        (("chr1", *options, *out), 2, "write it 1-based as chr20:1,000-2,000\n"),
        ((REGION, *options[2:], "-f", "g.tsv", "-o", "g.tsv"), 2, "--output and --fasta are the"),
        (("chr9:1-5", *options, *out), 1, "contig 'chr9' is not in"),
        ((REGION, *options, *out, "--form", "tall"), 2, "form 'tall' is unknown"),
        ((REGION, *options, *out, "--logo", tmp_path / "a.pdf"), 2, "allowed are .svg, .png"),
        ((REGION, *options, *out, "--features", "RNA"), 2, "no feature or class 'RNA'"),
        ((REGION, *options, *out, "--max-bp", "1"), 2, "thus 6 windows, about"),
        ((REGION, *options, "-o", tmp_path / "out.txt"), 2, "unknown ending"),
    ]
    for arguments, expected, message in cases:
        code, stdout, err = run("mutagenesis", *arguments)
        assert (code, stdout) == (expected, ""), err
        assert err.startswith("genobird: error: ")
        assert err.count("\n") == 1
        assert message in err
        assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(run, options, tmp_path, monkeypatch):
    chunks = Scan.chunks

    def interrupted(scan: Scan) -> Iterator[tuple[int, Floats]]:
        yield next(chunks(scan))
        assert {path.suffix for path in tmp_path.iterdir()} == {".tmp", ".lock"}
        raise KeyboardInterrupt

    monkeypatch.setattr(Scan, "chunks", interrupted)
    logo = ["--logo", tmp_path / "out.svg"]
    code, _, err = run("mutagenesis", REGION, *options, "-o", tmp_path / "out.tsv", *logo)
    assert code == 130
    assert err.splitlines()[-1] == "genobird: error: interrupted"
    assert not list(tmp_path.iterdir())


def test_an_existing_logo_needs_force(run, options, tmp_path):
    logo = tmp_path / "out.svg"
    logo.write_text("old")
    code, _, err = run("mutagenesis", REGION, *options, "-o", tmp_path / "out.tsv", "--logo", logo)
    assert code == 2
    assert "out.svg exists; choose another name or pass --force" in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.svg"]
