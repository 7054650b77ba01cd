from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from genobird.genome.fasta import Genome
from genobird.genome.streams import BGZF_END
from genobird.inference import Passes
from tests.cli.conftest import HEADER

# The small model has no background, which is said otherwise.
ALONE = ["--background", "none"]
COLUMNS = ["chrom", "start", "end", "name", "strand", "status", "flags", "promoter"]


@pytest.fixture
def bed(tmp_path: Path) -> Path:
    path = tmp_path / "in.bed"
    path.write_text("chr1\t20000\t20200\ta\t0\t-\nchr2\t500\t700\tb\n")
    return path


@pytest.fixture
def options(tiny_genome_path: Path, tiny_checkpoint: Path) -> list[str]:
    with Genome(tiny_genome_path) as genome:
        assert genome.contigs  # who asks first is told that an index is made
    return ["--fasta", str(tiny_genome_path), "--model", str(tiny_checkpoint), "--device", "cpu"]


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("in.")}


def assert_one_line(err: str, *parts: str) -> None:
    assert err.startswith("genobird: error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize("name", ["out.tsv", "out.tsv.gz", "out.parquet"])
def test_score_writes_the_table_that_its_name_asks_for(run, bed, options, tmp_path, name):
    output = tmp_path / name
    code, out, err = run("score", bed, *options, "--output", output, "--features", "TF")
    assert (code, out) == (0, "")
    assert "2 regions in" in err
    assert "(OK 2)" in err
    read = pd.read_parquet if name.endswith("parquet") else lambda p: pd.read_csv(p, sep="\t")
    table = read(output)
    assert list(table.columns) == [
        *COLUMNS,
        *("A|CTCF|None#130", "A|CTCF|None#338", "B|CTCF|None"),
    ]
    assert table["name"].tolist() == ["a", "b"]


def test_score_to_standard_output_keeps_everything_else_off_it(run, bed, options):
    code, out, err = run("score", bed, *options, "-o", "-", "--json")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split("\t")[: len(COLUMNS)] == COLUMNS
    assert len(lines) == 3
    summary = json.loads(err)
    assert summary["regions"] == 2
    assert summary["statuses"] == {"OK": 2}


def test_score_says_in_json_what_it_did(run, bed, options, tmp_path):
    output = tmp_path / "out.tsv"
    code, out, err = run("score", bed, *options, "-o", output, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).items() >= {"output": str(output), "device": "cpu"}.items()


def test_score_takes_one_region_and_bed_on_standard_input(run, options, monkeypatch):
    _, region, _ = run("score", "chr1:20,001-20,200:-", *options, "-o", "-", "-q")
    stdin = io.TextIOWrapper(io.BytesIO(b"chr1\t20000\t20200\t\t0\t-\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    _, piped, err = run("score", "-", *options, "-o", "-", "--quiet")
    assert region == piped
    assert len(region.splitlines()) == 2
    assert err == ""


def test_score_takes_sequences_without_a_genome(run, tiny_checkpoint, tmp_path):
    fasta = tmp_path / "in.fa"
    fasta.write_text(">one two\nacgtacgtta\n>n\nNNNNNA\n")
    arguments = ["--model", tiny_checkpoint, "--device", "cpu", "-o", tmp_path / "out.tsv"]
    code, _, err = run("score", fasta, *arguments)
    assert code == 0
    assert "(OK 1, AMBIGUOUS 1)" in err
    table = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert table["chrom"].tolist() == ["one", "n"]
    assert table["end"].tolist() == [10, 6]
    fasta.write_text(">one\nACGT\n>none\n>two\nACGT\n")
    code, _, err = run("score", fasta, *arguments, "--force")
    assert (code, err) == (
        1,
        "genobird: error: sequence none is empty; at least one base is needed\n",
    )


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (
            f"chr1\t59000\t{'9' * 30}",
            "OUT_OF_BOUNDS",
            "in.bed, line 3: chr1:59,001-1,000,000,000,000,000,000 ends after chr1 (60,000 bp); "
            "is the BED from another assembly? (--keep-going scores the other regions)",
        ),
        ("chr7\t5\t10", "NO_CONTIG", "contig 'chr7' is not in"),
    ],
)
def test_score_stops_at_a_region_of_another_assembly_unless_told_to_go_on(
    run, bed, options, tmp_path, line, status, message
):
    with bed.open("a") as file:
        file.write(f"{line}\n")
    output = tmp_path / "out.tsv"
    code, _, err = run("score", bed, *options, "-o", output)
    assert code == 1
    assert_one_line(err, message)
    assert made(tmp_path) == set()
    code, _, err = run("score", bed, *options, "-o", output, "--keep-going")
    assert code == 0
    assert f"(OK 2, {status} 1)" in err
    assert pd.read_csv(output, sep="\t")["status"].tolist() == ["OK", "OK", status]


def test_an_existing_output_needs_force(run, bed, vcf, options, tmp_path):
    for verb, source, name in (("score", bed, "out.tsv"), ("variants", vcf, "out.vcf")):
        output = tmp_path / name
        output.write_text("old")
        code, _, err = run(verb, source, *options, "-o", output)
        assert code == 2
        assert_one_line(err, "out", "exists", "--force")
        assert output.read_text() == "old"
        code, _, _ = run(verb, source, *options, "-o", output, "--force")
        assert code == 0
        assert output.read_text() != "old"


def test_a_table_that_exists_stops_variants_too(run, vcf, options, tmp_path):
    (tmp_path / "out.tsv").write_text("old")
    arguments = ["-o", tmp_path / "out.vcf", "--table", tmp_path / "out.tsv"]
    code, _, err = run("variants", vcf, *options, *arguments)
    assert code == 2
    assert_one_line(err, "out.tsv exists")
    assert made(tmp_path) == {"out.tsv"}


def test_score_refuses_what_it_cannot_do(run, bed, options, tmp_path, tiny_checkpoint):
    empty = tmp_path / "in.empty.bed"
    empty.write_text("")
    protein = tmp_path / "in.protein.fa"
    protein.write_text(">p\nMKTAYIAK\n")
    text = tmp_path / "in.text.fa"
    text.write_text("dear reader\n")
    cut = tmp_path / "in.cut.bed.gz"
    cut.write_bytes(BGZF_END[:20])
    model = ["--model", tiny_checkpoint, "--device", "cpu"]
    out = ["-o", tmp_path / "out.tsv"]
    cases = [
        ((tmp_path / "missing.bed", *options, *out), 2, "missing.bed does not exist"),
        ((tmp_path / "missing.fa", *model, *out), 2, "missing.fa does not exist"),
        ((empty, *options, *out), 1, "holds no interval"),
        ((cut, *options, *out), 1, "cut short"),
        ((protein, *model, *out), 1, "is no DNA"),
        ((text, *model, *out), 1, "is no FASTA"),
        ((text, *options, *out), 2, "--fasta is for regions of a genome, not for FASTA regions"),
        ((text, *model, *out, "--keep-going"), 2, "--keep-going is for regions of a genome, not"),
        (("chr1", *options, *out), 2, "region 'chr1' has no positions"),
        ((bed, *model, *out), 2, "--fasta is missing"),
        ((bed, *options, "-o", tmp_path / "out.xlsx"), 2, "unknown ending"),
        ((bed, *options, "-o", tmp_path / "no" / "out.tsv"), 2, "make the folder"),
        ((bed, *options, "-o", tmp_path / f"{'a' * 250}.tsv"), 1, "cannot be written"),
        ((bed, *options, *out, "--features", "RNA"), 2, "no feature or class 'RNA'"),
        ((bed, *options, *out, "--batch-size", "many"), 2, "auto or a number is allowed"),
        ((bed, *options, *out, "--batch-size", "9" * 23), 2, "is allowed, 65,536 at most"),
        ((bed, *options, *out, "--processes", "1025"), 2, "than or equal to 1024; see --help"),
        ((bed, *options, *out, "--processes", "9" * 20), 2, "than or equal to 1024; see --help"),
        ((bed, *options, *out, "--device", "tpu"), 2, "device 'tpu' is unknown"),
        ((bed, *options, *out, "--model", tmp_path / "none"), 2, "no model directory"),
    ]
    for arguments, expected, message in cases:
        code, stdout, err = run("score", *arguments)
        assert (code, stdout) == (expected, ""), err
        assert_one_line(err, message)
        assert made(tmp_path) == set()


def test_variants_writes_vcf_index_and_table(run, vcf, options, tmp_path):
    output, table = tmp_path / "out.vcf.gz", tmp_path / "out.parquet"
    arguments = [*options, *ALONE, "--output", output, "--table", table, "--json"]
    code, out, err = run("variants", vcf, *arguments)
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["records"] == 1
    assert summary["alleles"] == 2
    assert summary["statuses"] == {"OK": 1, "SYMBOLIC": 1}
    assert made(tmp_path) == {"out.vcf.gz", "out.vcf.gz.tbi", "out.parquet"}
    assert len(pd.read_parquet(table)) == 2


def test_variants_reads_and_writes_streams(run, vcf, options, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(vcf.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, err = run("variants", "-", *options, "--output", "-")
    assert code == 0
    assert out.splitlines()[-1].startswith("chr1\t20001\t")
    assert "GB_STATUS=SYMBOLIC,OK" in out
    assert "2 alleles in" in err


def test_variants_refuses_what_it_cannot_do(run, vcf, options, tmp_path):
    elsewhere = tmp_path / "in.elsewhere.vcf"
    elsewhere.write_text(f"{HEADER}chr7\t5\t.\tA\tC\t.\t.\t.\n")
    bare = tmp_path / "in.bare.vcf"
    bare.write_text("chr1\t5\t.\tA\tC\t.\t.\t.\n")
    wrong = tmp_path / "in.wrong.vcf"
    wrong.write_text(f"{HEADER}chr1\t20002\t.\tAAAAA\tC\t.\t.\t.\n")
    out = ["-o", tmp_path / "out.vcf.gz"]
    options = [*options, *ALONE]
    cases = [
        ((tmp_path / "missing.vcf", *options, *out), 2, "missing.vcf does not exist"),
        ((elsewhere, *options, *out), 1, "none of 1 allele lies on a contig of"),
        ((bare, *options, *out), 1, "has no VCF header"),
        ((wrong, *options, *out, "--ref-mismatch", "error"), 1, "REF AAAAA at chr1:20002 is"),
        ((vcf, *options, *out, "--ref-mismatch", "no"), 2, "allowed: flag, skip, swap, error"),
        ((vcf, *options, "-o", tmp_path / "out.tsv"), 2, "unknown ending"),
        ((vcf, *options, "-o", "-", "--table", "-"), 2, "both outputs are standard output"),
    ]
    for arguments, expected, message in cases:
        code, stdout, err = run("variants", *arguments)
        assert code == expected, err
        assert stdout == ""
        assert_one_line(err, message)
        assert made(tmp_path) == set()


@pytest.mark.parametrize("verb", ["score", "variants"])
def test_an_interrupt_leaves_nothing(run, bed, vcf, options, tmp_path, monkeypatch, verb):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Passes, "run", interrupt)
    source, name = (bed, "out.tsv") if verb == "score" else (vcf, "out.vcf.gz")
    more = [] if verb == "score" else ALONE
    code, _, err = run(verb, source, *options, *more, "-o", tmp_path / name)
    assert code == 130
    assert_one_line(err, "interrupted")
    assert made(tmp_path) == set()


def test_score_replaces_none_of_its_inputs(run, options, tmp_path):
    fasta, region = tmp_path / "g.tsv", "chr1:20,001-20,200"
    fasta.write_text(">chr1\nACGT\n")
    bed = tmp_path / "in.tsv"
    bed.write_text("chr1\t20000\t20200\n")
    both = tmp_path / "out.tsv"
    cases = [
        ((region, *options[2:], "-f", fasta, "-o", fasta), "--output and --fasta are the same"),
        ((bed, *options, "-o", bed), "--output and the input are the same file"),
        ((bed, *options, "-o", both, "--bigwig", both), "--bigwig and --output are the same file"),
    ]
    for arguments, message in cases:
        code, _, err = run("score", *arguments, "--force")
        assert code == 2
        assert_one_line(err, message)
    assert fasta.read_text() == ">chr1\nACGT\n"
    assert bed.read_text() == "chr1\t20000\t20200\n"
    assert not both.exists()


def test_score_says_that_whole_contigs_come_in_a_bed(run, options, tmp_path):
    code, _, err = run("score", "chr1", *options, "-o", tmp_path / "out.tsv")
    assert code == 2
    assert_one_line(err, "region 'chr1' has no positions", "whole contigs", "give a BED file")


def test_a_prefix_of_names_gets_names_that_begin_so(run, bed, options, tmp_path):
    arguments = [*options, "-o", tmp_path / "out.tsv", "--features", "A|"]
    code, _, err = run("score", bed, *arguments)
    assert code == 2
    assert_one_line(err, "did you mean A|DNase|None, A|CTCF|None#130, A|CTCF|None#338?")
