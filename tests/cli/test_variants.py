from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pysam
import pytest

from genobird.runs import partial_of
from genobird.scoring.scorer import Scorer
from tests.scoring.stubs import records, short_genome, stub_screen, write_vcf

RECORDS = 30


@pytest.fixture(autouse=True)
def screen(monkeypatch):
    monkeypatch.setattr(Scorer, "chunk", property(lambda _: 4, lambda *_: None), raising=False)
    return stub_screen(monkeypatch)


@pytest.fixture
def variants(run, tmp_path, tiny_checkpoint, monkeypatch):
    """Run `variants` on a VCF in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_vcf(Path("in.vcf"), records(RECORDS))
    short_genome(tmp_path)
    common = ["--fasta", "short.fa", "--model", tiny_checkpoint, "--device", "cpu", "--quiet"]

    def command(*words: object, source: str = "in.vcf") -> tuple[int, str, str]:
        return run("variants", source, *common, *words)

    return command


def lines_of(path: str) -> list[str]:
    with pysam.BGZFile(path, "rb") as file:
        return file.read().decode().splitlines()


def interrupted(screen, monkeypatch, after: int):
    """Let `screen` be interrupted at its next call but `after`."""
    calls = 0

    def score(*arguments: object) -> pd.DataFrame:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return screen(*arguments)

    monkeypatch.setattr("genobird.scoring.scan.screen", score)


def test_shards_are_scored_and_merged(run, variants):
    assert variants("-o", "whole.vcf.gz", "--table", "whole.tsv")[0] == 0
    for part in ("1", "2", "3"):
        files = ("-o", f"{part}.vcf.gz", "--table", f"{part}.parquet")
        assert variants(*files, "--shard", f"{part}/3")[0] == 0
    shards = ["3.vcf.gz", "1.vcf.gz", "2.vcf.gz"]
    code, out, err = run("variants", "merge", *shards, "--output", "all.vcf.gz", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["shards"] == 3
    assert summary["alleles"] == sum(summary["statuses"].values()) > RECORDS
    assert summary["output"] == "all.vcf.gz"
    tables = [name.replace("vcf.gz", "parquet") for name in shards]
    code, out, err = run("variants", "merge", *tables, "-o", "all.tsv")
    assert (code, out) == (0, "")
    assert "alleles in " in err
    assert err.endswith(": all.tsv\n")
    assert Path("all.tsv").read_bytes() == Path("whole.tsv").read_bytes()
    assert Path("all.vcf.gz.tbi").exists()
    whole, merged = lines_of("whole.vcf.gz"), lines_of("all.vcf.gz")
    assert [line for line in merged if "Command=" not in line] == [
        line for line in whole if "Command=" not in line
    ]
    assert "##genobirdMergeCommand=genobird variants merge 3.vcf.gz 1.vcf.gz" in "\n".join(merged)


def test_merged_records_go_to_standard_output(run, variants):
    for part in ("1", "2"):
        assert variants("-o", f"{part}.vcf.gz", "--shard", f"{part}/2")[0] == 0
    code, out, err = run("variants", "merge", "1.vcf.gz", "2.vcf.gz", "-o", "-")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("c")]) == RECORDS
    assert "standard output" in err


def test_an_interrupted_command_is_resumed_to_the_same_file(variants, screen, monkeypatch):
    assert variants("-o", "out.vcf.gz")[0] == 0
    expected = Path("out.vcf.gz").read_bytes()
    Path("out.vcf.gz").unlink()
    with monkeypatch.context() as patch:
        interrupted(screen, patch, after=4)
        code, _, err = variants("-o", "out.vcf.gz")
    assert code == 130
    assert err.splitlines()[-1] == "genobird: error: interrupted"
    assert partial_of("out.vcf.gz").exists()
    code, _, err = variants("-o", "out.vcf.gz")
    assert code == 2
    assert err.startswith("genobird: error: out.vcf.gz.partial holds what an interrupted run has")
    assert variants("-o", "out.vcf.gz", "--resume")[0] == 0
    assert Path("out.vcf.gz").read_bytes() == expected
    assert not partial_of("out.vcf.gz").exists()


def test_the_header_holds_the_command_without_resume(variants):
    assert variants("-o", "out.vcf.gz", "--resume")[0] == 0
    (line,) = [line for line in lines_of("out.vcf.gz") if line.startswith("##genobirdCommand=")]
    assert line.startswith("##genobirdCommand=genobird variants in.vcf --fasta")
    assert line.endswith("--quiet -o out.vcf.gz")


def test_a_finished_output_is_not_replaced_by_resume(variants):
    assert variants("-o", "out.vcf.gz")[0] == 0
    code, _, err = variants("-o", "out.vcf.gz", "--resume")
    assert code == 2
    assert "out.vcf.gz exists; choose another name or pass --force" in err
    assert variants("-o", "out.vcf.gz", "--resume", "--force")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "-", "--resume"), "standard output cannot be resumed; name a file"),
        (("-o", "out.vcf.gz", "--shard", "3/2"), "shard 3/2 found; give i/n with i from 1 to n"),
        (("-o", "out.vcf.gz", "--shard", "half"), "shard half found; give i/n"),
        (("-o", "out.bcf", "--shard", "1/2"), "out.bcf cannot be a shard; write .vcf.gz"),
    ],
)
def test_what_cannot_be_resumed_or_cut_is_refused(variants, words, message):
    code, _, err = variants(*words)
    assert code == 2
    assert message in err.replace("'", "")
    assert not list(Path.cwd().glob("out*"))


def test_tables_and_standard_input_have_no_shards(variants):
    Path("in.tsv").write_text("chrom\tpos\tref\talt\nc0\t21\tA\tC\n")
    code, _, err = variants("-o", "out.tsv", "--shard", "1/2", source="in.tsv")
    assert code == 2
    assert "--shard is for VCF; cut a table of variants itself" in err


def test_merge_refuses_what_it_cannot_do(run, variants):
    assert variants("-o", "1.vcf.gz", "--shard", "1/2")[0] == 0
    for words, code, message in (
        (("1.vcf.gz", "-o", "out.vcf.gz"), 1, "1 of 2 shards found; missing: 2"),
        (("1.vcf.gz", "none.vcf.gz", "-o", "out.vcf.gz"), 2, "none.vcf.gz does not exist"),
        (("in.vcf", "-o", "out.vcf.gz"), 2, "in.vcf is no shard; give all .vcf.gz or all .parquet"),
        (("1.vcf.gz", "-o", "out.tsv"), 2, "unknown ending; allowed are .vcf, .vcf.gz"),
        (("1.vcf.gz", "-o", "1.vcf.gz"), 2, "and the shard 1.vcf.gz are the same file"),
        (("1.vcf.gz",), 2, "missing option --output"),
        ((), 2, "missing argument SHARD"),
    ):
        found, out, err = run("variants", "merge", *words)
        assert (found, out) == (code, ""), err
        assert err.startswith("genobird: error: ")
        assert message in err
        assert not list(Path.cwd().glob("out*"))


def test_both_verbs_have_their_help(run):
    code, out, _ = run("variants", "--help")
    assert code == 0
    assert "genobird variants [OPTIONS]" in out
    assert "--shard" in out
    assert "--resume" in out
    code, out, _ = run("variants", "merge", "--help")
    assert code == 0
    assert "genobird variants merge [OPTIONS]" in out
    assert "variants merge" in run("--help")[1]


def test_a_file_of_the_name_of_a_verb_can_be_scored(variants):
    write_vcf(Path("merge"), records(4))
    assert variants("-o", "out.vcf", source="./merge")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "q.vcf", "--report", "q.vcf"), "--report and --output are the same file, q.vcf"),
        (("-o", "q.vcf", "--report", "in.vcf"), "--report and the input in.vcf are the same file"),
        (("-o", "q.vcf", "--table", "q.tsv", "--report", "q.tsv"), "--report and --table are the"),
        (("-o", "in.vcf"), "--output and the input in.vcf are the same file, in.vcf; name another"),
        (("-o", "./in.vcf"), "--output and the input in.vcf are the same file"),
        (("-o", "link.vcf"), "--output and the input in.vcf are the same file"),
        (("-o", "q.vcf", "--table", "b.tsv", "--background", "b.tsv"), "--table and --background"),
        (("-o", "q.vcf", "--table", "c.tsv", "--liftover", "c.tsv"), "--table and --liftover are"),
    ],
)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_no_output_may_be_another_or_an_input(variants, words, message, force):
    # A report replaced the scored VCF, and with --force the input.
    Path("link.vcf").symlink_to("in.vcf")
    for name in ("b.tsv", "c.tsv"):
        Path(name).write_text("precious")
    before = {path.name: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()}
    code, out, err = variants(*words, *force)
    assert (code, out) == (2, ""), err
    assert message in err
    assert err.count("\n") == 1
    after = {path.name: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()}
    assert after == before


def test_a_table_is_not_replaced_by_its_own_scores(variants):
    Path("in.tsv").write_text("chrom\tpos\tref\talt\tnote\nc0\t21\tA\tC\tmine\n")
    code, _, err = variants("-o", "in.tsv", "--force", source="in.tsv")
    assert code == 2
    assert "--output and the input in.tsv are the same file" in err
    assert Path("in.tsv").read_text().endswith("mine\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scores", "diff"), "--scores are columns of the table; name one with --table or"),
        (("--report-logos", "2"), "--report-logos is of the report; name one with --report"),
        (("--report", "r6.pdf"), "r6.pdf has an unknown ending; allowed are .html, .htm"),
    ],
)
def test_an_option_without_effect_is_refused(variants, words, message):
    code, _, err = variants("-o", "out.vcf", *words)
    assert code == 2
    assert message in err
    assert not list(Path.cwd().glob("out*"))


@pytest.mark.parametrize("words", [("-o", "out.vcf"), ("-o", "out.tsv", "--shard", "1/2")])
def test_a_vcf_without_its_first_lines_is_told_so(variants, words):
    lines = Path("in.vcf").read_text().splitlines(keepends=True)
    lost = "".join(line for line in lines if not line.startswith("##"))
    Path("lost.vcf").write_text(lost)
    code, _, err = variants(*words, source="lost.vcf")
    assert code == 1
    assert "lost.vcf has a #CHROM line but no ##fileformat line before it; put" in err
    assert variants("-o", "out.tsv", source="lost.vcf")[0] == 0
