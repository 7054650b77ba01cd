from __future__ import annotations

from contextvars import Context
from pathlib import Path

import pandas as pd
import pytest

from genobird.cli import main
from genobird.files import locked
from tests.scoring.stubs import records, short_genome, stub_screen, write_vcf

MODEL = ("--device", "cpu", "--threads", "1", "--quiet")


@pytest.fixture
def here(tmp_path, tiny_checkpoint, monkeypatch) -> Path:
    """A folder with a model, a genome, and what the commands read; it is the current one."""
    stub_screen(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(tiny_checkpoint)
    short_genome(tmp_path)
    write_vcf(tmp_path / "in.vcf", records(9))
    Path("in.bed").write_text("c0\t10\t11\n")
    columns = {"chrom": ["c0"], "start": [1], "end": [9], "name": ["."], "strand": ["+"]}
    table = pd.DataFrame({**columns, "status": ["OK"], "promoter": [0.5]})
    table.to_csv("regions.tsv", sep="\t", index=False)
    return tmp_path


SCORE = ("score", "in.bed", "-f", "short.fa", "-m", "model", *MODEL)
VARIANTS = ("variants", "in.vcf", "-f", "short.fa", "-m", "model", *MODEL)
SCAN = ("mutagenesis", "c0:50-50", "-f", "short.fa", "-m", "model", "--features", "promoter")
COMMANDS = [
    ((*SCORE, "-o", "a.tsv"), "a.tsv"),
    ((*SCORE, "-o", "a.tsv", "--bigwig", "tracks"), "tracks"),
    ((*VARIANTS, "-o", "a.vcf"), "a.vcf"),
    ((*VARIANTS, "-o", "a.vcf.gz", "--table", "a.parquet"), "a.parquet"),
    ((*VARIANTS, "-o", "a.bcf", "--report", "a.html", "--report-logos", "0"), "a.html"),
    ((*VARIANTS, "-o", "a.bcf", "--report", "a.html", "--report-logos", "0"), "a.parquet"),
    (("variants", "merge", "1.vcf.gz", "2.vcf.gz", "-q", "-o", "a.vcf.gz"), "a.vcf.gz"),
    (("variants", "merge", "1.parquet", "2.parquet", "-q", "-o", "a.tsv"), "a.tsv"),
    ((*SCAN, *MODEL, "-o", "a.tsv"), "a.tsv"),
    ((*SCAN, *MODEL, "-o", "a.tsv", "--logo", "a.svg"), "a.svg"),
    (("report", "--regions", "regions.tsv", "-o", "a.html"), "a.html"),
    (("compat", "kipoi-veff2", "in.vcf", "short.fa", "a.tsv", "-m", "model", *MODEL), "a.tsv"),
    (("compat", "selene", "in.vcf", "short.fa", ".", "-m", "model", *MODEL), "in_diffs.tsv"),
    (
        ("background", "build", "in.vcf", "-f", "short.fa", "-o", "a.npz", "-m", "model", "-q"),
        "a.npz",
    ),
    (("demo", "--output", "demo", "-m", "model", "--device", "cpu"), "demo"),
]


@pytest.mark.parametrize(("words", "output"), COMMANDS)
def test_a_second_run_of_an_output_is_refused_and_changes_nothing(words, output, here, capsys):
    if words[1] == "merge":
        for shard in (1, 2):
            names = ("-o", f"{shard}.vcf.gz", "--table", f"{shard}.parquet")
            assert main([*VARIANTS, *names, "--shard", f"{shard}/2"]) == 0
    # What the first run writes, and where a second would sweep.
    (here / f".{output}.k3x_09ab.tmp").mkdir()
    with locked(output):
        (here / f".{output}.k3x_09ab.tmp").mkdir()
        before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
        capsys.readouterr()
        assert Context().run(main, list(words)) == 1  # as another thread or process has it
        err = capsys.readouterr().err
        assert f"genobird: error: {output} is in use: another run writes the same output" in err
        after = {path: path.stat().st_mtime_ns for path in here.iterdir()}
        after = {path: at for path, at in after.items() if path.suffix != ".fai"}
        assert {path: before[path] for path in after} == after
    assert not (here / output).exists()
