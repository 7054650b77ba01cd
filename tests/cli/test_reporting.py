from __future__ import annotations

import io
import json
from html import escape

import pandas as pd
import pytest

from genobird.cli import main
from genobird.report import scored
from genobird.report.plots import short
from tests.cli.conftest import HEADER


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(scored, "SPAN", 0)


def test_a_report_comes_with_its_table_names_and_logos(run, vcf, options, tmp_path):
    page = tmp_path / "out.html"
    arguments = [*options, "-o", tmp_path / "out.vcf", "--report", page, "--features", "DNase"]
    code, out, err = run("variants", vcf, *arguments, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["report"] == str(page)
    assert summary["table"] == str(tmp_path / "out.parquet")
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 2
    text = page.read_text()
    assert "rs77 chr1:20,001" in text
    assert 'aria-label="Bases around chr1:20001 that matter for A|DNase|None"' in text
    assert "tiny.fa" in text
    assert "logo 1 of 1: 6 windows left, about " in err


def test_ids_that_came_by_a_pipe_are_shown(run, vcf, options, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(vcf.read_bytes())))
    page = tmp_path / "out.html"
    arguments = ["-o", tmp_path / "out.vcf.gz", "--report", page, "--report-logos", 0]
    code, _, err = run("variants", "-", *options, *arguments, "--features", "DNase")
    assert code == 0, err
    assert "rs77 chr1:20,001" in page.read_text()


def test_ids_come_from_the_table(run, vcf, options, tmp_path):
    table, page = tmp_path / "out.parquet", tmp_path / "out.html"
    arguments = ["-o", tmp_path / "out.vcf", "--table", table, "--features", "DNase"]
    code, _, err = run("variants", vcf, *options, *arguments)
    assert code == 0, err
    assert main(["report", "--variants", str(table), "-o", str(page)]) == 0
    assert "rs77 chr1:20,001" in page.read_text()


@pytest.mark.parametrize("name", [r"$\frac$", "a$$b", "rs" + "x" * 200_000])
def test_ids_of_any_kind_come_into_a_report(run, options, tmp_path, tiny_contigs, name):
    rows = []
    for at in range(20_000, 25_000, 1_000):
        ref = tiny_contigs["chr1"][at]
        rows.append(f"chr1\t{at + 1}\t{name}\t{ref}\t{'AC'[ref == 'A']}\t.\t.\t.\n")
    path, page = tmp_path / "in.vcf", tmp_path / "out.html"
    path.write_text(HEADER + "".join(rows))
    arguments = ["-o", tmp_path / "out.vcf", "--report", page, "--report-logos", 1]
    code, _, err = run("variants", path, *options, *arguments, "--features", "DNase")
    assert code == 0, err
    assert page.read_text().count(escape(short(name))) >= 11  # figure, table, cards


def test_a_report_without_logos_of_variants_in_words(run, options, tmp_path, tiny_contigs):
    ref = tiny_contigs["chr1"][20_000]
    variant = f"chr1:20001:{ref}>{'AC'[ref == 'A']}"
    page, table = tmp_path / "out.html", tmp_path / "out.tsv"
    arguments = ["-o", table, "--report", page, "--report-logos", 0, "--features", "DNase"]
    code, _, err = run("variants", variant, *options, *arguments)
    assert code == 0, err
    assert "chr1:20,001" in page.read_text()
    assert "Bases around" not in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"out.html", "out.tsv"}


def test_a_report_that_cannot_be_made_is_refused_before_work(run, vcf, options, tmp_path):
    page = tmp_path / "out.html"
    out = ["-o", tmp_path / "out.vcf.gz", "--report", page]
    cases = [
        ([vcf, *options, *out, "--table", "-"], "name a file for it instead of -"),
        ([vcf, *options, *out, "--shard", "1/2"], "--report is for a whole run; merge the shards"),
        ([vcf, *options, "-o", "-", "--report", tmp_path / "no" / "a.html"], "make the folder"),
        ([vcf, *options, *out, "--report-logos", 99], "--report-logos"),
    ]
    for arguments, message in cases:
        code, stdout, err = run("variants", *arguments)
        assert (code, stdout) == (2, ""), err
        assert message in err
        assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]
    page.write_text("old")
    code, _, err = run("variants", vcf, *options, *out)
    assert code == 2
    assert "out.html exists" in err
    assert page.read_text() == "old"
