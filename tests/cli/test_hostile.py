"""Inputs that are wrong in ways of their own, through the commands."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from genobird import files
from genobird.cli import main
from genobird.cli.options import as_named
from genobird.scoring import effects as module
from tests.scoring.stub import effects_of_position

LARGE = ["9223372036854775809", "1" * 25, "7" * 5_000]
HEADER = "##fileformat=VCFv4.2\n{}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def run(tiny_genome_path, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """Run a command without its model's passes; returns exit code and standard error."""
    monkeypatch.setattr(module, "effects", effects_of_position)

    def run(verb: str, *arguments: str) -> tuple[int, str]:
        options = ["-f", str(tiny_genome_path), "-m", str(tiny_checkpoint), "--device", "cpu", "-q"]
        code = main([verb, *map(str, arguments), *options])
        return code, capsys.readouterr().err

    return run


def first_bases(contigs: dict[str, str]) -> tuple[str, str]:
    ref = contigs["chr1"][999]
    return ref, "AC"[ref == "A"]


@pytest.mark.parametrize("large", LARGE)
@pytest.mark.parametrize("kind", ["vcf", "vcf.gz", "tsv", "csv"])
def test_a_position_beyond_64_bits_costs_its_record_alone(large, kind, run, tiny_contigs, tmp_path):
    ref, alt = first_bases(tiny_contigs)
    vcf = kind.startswith("vcf")
    source, output = tmp_path / f"in.{kind[:3]}", tmp_path / f"out.{kind if vcf else 'tsv'}"
    rows = [("chr1", pos, ref, alt) for pos in ("1000", large, "1000")]
    if vcf:
        lines = [f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for c, p, r, a in rows]
        source.write_text(HEADER.format("##contig=<ID=chr1,length=60000>\n") + "".join(lines))
        table = ["--table", tmp_path / "table.tsv"]
    else:
        mark = "\t" if kind == "tsv" else ","
        source.write_text(
            "".join(mark.join(row) + "\n" for row in [("chrom", "pos", "ref", "alt"), *rows])
        )
        table = []
    code, _ = run("variants", source, "-o", output, *table)
    assert code == 0
    found = pd.read_csv(tmp_path / "table.tsv" if vcf else output, sep="\t")
    assert found["status"].tolist() == ["OK", "OUT_OF_BOUNDS", "OK"]
    assert found["llr|delta"].notna().tolist() == [True, False, True]
    if kind == "vcf":
        written = output.read_text().splitlines()[-3:]
        assert [line.split("\t")[1] for line in written] == ["1000", large, "1000"]


def test_variants_and_regions_of_the_command_line_may_lie_beyond(run, tiny_contigs, tmp_path):
    ref, alt = first_bases(tiny_contigs)
    given = [f"chr1:1000:{ref}>{alt}", *(f"chr1:{large}:A>C" for large in LARGE), "chr9:5:A>C"]
    assert run("variants", *given, "-o", tmp_path / "a.tsv")[0] == 0
    statuses = pd.read_csv(tmp_path / "a.tsv", sep="\t")["status"].tolist()
    assert statuses == ["OK", *["OUT_OF_BOUNDS"] * 3, "NO_CONTIG"]
    (tmp_path / "in.bed").write_text("".join(f"chr1\t1\t{large}\n" for large in LARGE))
    code, _ = run("score", tmp_path / "in.bed", "-o", tmp_path / "b.tsv", "--keep-going")
    assert code == 0
    assert pd.read_csv(tmp_path / "b.tsv", sep="\t")["status"].tolist() == ["OUT_OF_BOUNDS"] * 3
    code, error = run("score", f"chr1:1-{LARGE[0]}", "-o", tmp_path / "c.tsv")
    assert (code, error.count("\n")) == (1, 1)
    assert "ends after chr1 (60,000 bp); is the region from another assembly?" in error


def test_a_length_that_is_no_number_is_unknown(run, tmp_path):
    source = tmp_path / "in.vcf"
    source.write_text(
        HEADER.format("##contig=<ID=chr1,length=²>\n") + "chr1\t1\t.\tN\tG\t.\t.\t.\n"
    )
    assert run("variants", source, "-o", tmp_path / "out.vcf")[0] == 0
    assert "##contig=<ID=chr1,length=²>" in (tmp_path / "out.vcf").read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "text", "code", "message"),
    [
        ("in.chain", "chain 1 chr1 9 + 0 9 chr1 9 + 9{} 1{} 1\n9\n\n".format("9" * 19, "0" * 20), 1,
         "line 1: .* does not belong in a chain file"),
        ("in.csv", 'chrom,pos,ref,alt\nchr1,5,A\rB,"C"\n', 1, "line 2: the row cannot"),
        ("in.csv", f'chrom,pos,ref,alt\nchr1,5,"{"A" * 140_000}",C\n', 1, "131,072 characters"),
        ("in.tsv", "chrom\tpos\tref\talt\nchr1\t5\tA\t-\n", 1, "give the base before, as VCF does"),
        ("in.maf", "Hugo_Symbol\tChromosome\n", 1, "it is a MAF"),
        ("in.csv", "chrom;pos;ref;alt\n", 1, "separated by semicolons"),
        ("rs123", "", 2, "genobird has no list of dbSNP"),
        ("chr1:5:A:-:b37", "", 2, "give the base before, as VCF does"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(name, text, code, message, run, tmp_path, capsys):
    if name == "in.chain":
        (tmp_path / name).write_text(text)
        arguments = ["chr1:5:A>C", "--liftover", tmp_path / name]
    elif text:
        (tmp_path / name).write_text(text, newline="")
        arguments = [tmp_path / name]
    else:
        arguments = [name]
    found, error = run("variants", *arguments, "-o", tmp_path / "out.tsv")
    assert (found, error.count("\n")) == (code, 1)
    assert re.search(message, error)


def test_a_carriage_return_in_a_cell_costs_its_record_alone(run, tiny_contigs, tmp_path):
    ref, alt = first_bases(tiny_contigs)
    text = f"chrom,pos,ref,alt\nchr1,1000,A\rB,C\nchr1,1000,{ref},{alt}\n"
    (tmp_path / "in.csv").write_text(text, newline="")
    assert run("variants", tmp_path / "in.csv", "-o", tmp_path / "out.tsv")[0] == 0
    found = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert found["ref"].tolist() == ["A\ufffdB", ref]
    assert found["status"].tolist() == ["AMBIGUOUS_BASE", "OK"]


@pytest.mark.parametrize(
    ("strand", "fits"), [("*", True), (".", True), ("4.4", False), ("", False), ("NA", False)]
)
def test_column_6_of_a_bed_is_a_strand_or_named(strand, fits, run, tmp_path, monkeypatch):
    (tmp_path / "in.bed").write_text(f"chrT\t32000\t32200\tn\t0\t{strand}\n")
    code, error = run("score", tmp_path / "in.bed", "-o", tmp_path / "out.tsv", "--keep-going")
    if fits:
        assert code == 0
        assert pd.read_csv(tmp_path / "out.tsv", sep="\t")["strand"].tolist() == ["."]
    else:
        assert (code, error.count("\n")) == (1, 1)
        assert "column 6 of BED is the strand" in error
        assert "cut -f1-4" in error


WRONG = {
    "score": ["score", "in.bed", "-f", "x.fa"],
    "variants": ["variants", "in.vcf", "-f", "x.fa"],
    "variants merge": ["variants", "merge", "a.vcf.gz"],
    "mutagenesis": ["mutagenesis", "chr1:1-5", "-f", "x.fa"],
    "background": ["background", "build", "in.vcf", "-f", "x.fa"],
}


@pytest.mark.parametrize("output", ["out.txt", "none/out.tsv", "there.tsv"])
def test_a_wrong_output_is_refused_before_torch_is_loaded(output, tmp_path):
    (tmp_path / "there.tsv").write_text("kept")
    (tmp_path / "in.vcf").write_text(HEADER.format(""))
    code = (
        "import json, sys\nfrom genobird.cli import main\n"
        "codes = [main([*words, '-o', sys.argv[2]]) for words in json.loads(sys.argv[1])]\n"
        "print(json.dumps([codes, 'torch' in sys.modules]))"
    )
    words = [json.dumps(list(WRONG.values())), output]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[2] * len(WRONG), False]
    assert len(done.stderr.splitlines()) == len(WRONG)
    assert all("output" in line for line in done.stderr.splitlines())
    assert (tmp_path / "there.tsv").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "output", "allowed"),
    [
        (["variants", "in.vcf"], "out.VCF", ".vcf, .vcf.gz, .vcf.bgz, .bcf and -, in lower case"),
        (["variants", "chr1:5:A>C"], "out.TSV", ".tsv, .tsv.gz, .parquet and -, in lower case"),
        (["variants", "merge", "a.vcf.gz"], "out.tsv", ".vcf, .vcf.gz, .vcf.bgz, .bcf and -"),
        (["variants", "merge", "a.parquet"], "out.vcf", ".tsv, .tsv.gz, .parquet and -"),
        (["card", "m", "--evaluation", "e.json"], "m/config.json", ".md"),
        (["tokenizer", "train", "corpus"], "corpus/sentences.parquet", ".model"),
    ],
)
def test_the_refusal_of_an_ending_lists_what_is_allowed_there(
    words, output, allowed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.vcf").write_text(HEADER.format(""))
    genome = ["-f", "x.fa"] if words[0] == "variants" and "merge" not in words else []
    assert main([*words, *genome, "-o", output, "--force"]) == 2
    message = f"genobird: error: output {output} has an unknown ending; allowed are {allowed}\n"
    assert capsys.readouterr().err == message


LONG = "x" * 150
NO_PLACES = {
    "a path through a file": ("file/out", "file is a file, and output .* needs a folder there"),
    "a long name": (LONG * 2, "File name too long; choose a shorter name"),
    "no place for files": ("closed/out", "closed takes no files; choose another folder"),
}
WRITERS = [
    (["variants", "in.vcf", "-f", "x.fa"], ".vcf"),
    (["score", "in.bed", "-f", "x.fa"], ".tsv"),
    (["build-db", "in.bed", "-f", "x.fa"], ".vcf.gz"),
    (["demo"], ""),
    (["pretrain", "--set", "shards=s", "--set", "validation_shards=v", "--set", "tokenizer=t"], ""),
    (["finetune", "table", "t.tsv", "-f", "x.fa", "--target", "x"], ""),
    (["baselines", "--promoters", "p.parquet"], ""),
    (["evaluate", "m", "--promoters", "p.parquet"], ""),
    (["card", "m", "--evaluation", "e.json"], ".md"),
    (["tokenizer", "train", "corpus"], ".model"),
    (["corpus", "x.fa"], ""),
    (["import-hf", "m"], ""),
    (["export-hf", "-m", "m"], ""),
    (["report", "--regions", "r.tsv"], ".html"),
    (["report", "multiqc", "r.tsv"], "_mqc.tsv"),
    (["variants", "merge", "a.vcf.gz"], ".vcf"),
    (["background", "build", "in.vcf", "-f", "x.fa"], ".npz"),
    (["mutagenesis", "chr1:1-5", "-f", "x.fa"], ".tsv"),
]


@pytest.mark.parametrize("case", NO_PLACES)
@pytest.mark.parametrize(("words", "ending"), WRITERS, ids=lambda words: str(words[0:2]))
def test_where_no_file_can_be_made_is_told_before_anything_is_read(
    words, ending, case, tmp_path, monkeypatch, capsys
):
    def closed(dir: Path) -> None:  # root may write everywhere, but not where /proc is
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{dir}/x")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.vcf").write_text(HEADER.format(""))
    (tmp_path / "file").write_text("kept")
    (tmp_path / "closed").mkdir()
    output, message = NO_PLACES[case]
    if output.startswith("closed"):
        monkeypatch.setattr(files.tempfile, "TemporaryFile", closed)
    assert main([*words, "-o", f"{output}{ending}"]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "file", "in.vcf"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_the_file_of_standard_output_is_standard_output(name, run, capsys):
    assert as_named(name) == "-"
    assert as_named("out.tsv") == "out.tsv"
    assert run("variants", "chr1:5:A>.", "-o", name)[0] == 0


def test_a_table_goes_to_dev_stdout(run, tiny_genome_path, tiny_checkpoint, capsys):
    options = ["-f", str(tiny_genome_path), "-m", str(tiny_checkpoint), "-q"]
    assert main(["variants", "chr1:5:A>.", *options, "-o", "/dev/stdout"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("chr1\t5\tA\t.\t\t0\t0\tMISSING_ALT")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(shell):
    code = "import sys; from genobird.cli import main; sys.argv[0] = 'genobird'; main(sys.argv[1:])"
    asked = {"COMP_WORDS": "genobird va", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "genobird va"}
    asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    for kind, expected in (("source", "_GENOBIRD_COMPLETE"), ("complete", "variants")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **asked, "_GENOBIRD_COMPLETE": f"{kind}_{shell}"},
            capture_output=True,
            text=True,
        )
        assert expected in done.stdout
