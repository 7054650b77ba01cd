from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import random_dna, write_fasta

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {
    "kind": "splits",
    "assembly": "tiny",
    "splits": {
        "tiny": {
            "description": "One contig, three parts.",
            "train": ["chr1:1-100,000"],
            "validation": ["chr1:100,001-150,000"],
            "test": ["chr1:150,001-200,000"],
            "reserved": [],
        }
    },
}


@pytest.fixture
def folder(tmp_path):
    write_fasta(tmp_path / "g.fa", {"chr1": random_dna(200_000, seed=31)})
    (tmp_path / "splits.yaml").write_text(yaml.safe_dump(SPLITS))
    places = (30_000, 120_000, 170_000)
    rows = [f"chr1\t{place}\t{place + 1}\tp{place}\t.\t-\n" for place in places]
    (tmp_path / "tss.bed").write_text("".join(rows))
    peaks = [f"chr1\t{start}\t{start + 150}\n" for start in range(0, 200_000, 1000)]
    (tmp_path / "mine.bed").write_text("".join(peaks))
    return tmp_path


def run(folder, step, *arguments, code=0):
    """Run a step in `folder`; return its standard output and standard error."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"pipelines.{step}", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stdout, result.stderr


SPLIT = ("--splits", "tiny", "--splits-file", "splits.yaml")


def test_promoters_are_built_and_not_built_over(folder):
    arguments = ("--bed", "tss.bed", "--fasta", "g.fa", "--output", "p.parquet", *SPLIT)
    _, log = run(folder, "promoters", *arguments)
    assert "kept: 3" in log
    assert pd.read_parquet(folder / "p.parquet")["split"].value_counts().to_dict() == {
        "train": 2, "validation": 2, "test": 2,
    }  # fmt: skip
    _, log = run(folder, "promoters", *arguments, code=2)
    assert log == "error: output p.parquet exists; choose another name or pass --force\n"
    run(folder, "promoters", *arguments, "--force", "--negatives", "shuffle")


def test_a_chromatin_dataset_is_built_from_one_s_own_peaks(folder):
    arguments = ("--fasta", "g.fa", "--output", "d", *SPLIT)
    _, log = run(folder, "chromatin", *arguments, "--bed", "mine.bed")
    assert "1 of 1 features kept" in log
    index = json.loads((folder / "d" / "index.json").read_text())
    assert index["positives"] == {"train": [100], "validation": [50], "test": [50]}
    assert set(index["sources"]) == {"mine.bed", "g.fa", "chromatin_features.tsv"}
    _, log = run(folder, "chromatin", "--fasta", "g.fa", "--output", "e", code=2)
    assert "give either --peaks with --tracks, or --bed" in log


def test_the_genome_is_reported_and_a_wrong_one_refused(folder):
    facts = {
        "kind": "files", "name": "tiny", "assembly": "tiny", "citation": "None.",
        "contigs": {"chr1": 200_000}, "files": [],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(facts))
    table, _ = run(folder, "grch37", "check", "g.fa", "--manifest", "tiny.yaml")
    assert table.splitlines()[1] == "g.fa\tchr1\tchr1\t200000\t200000\t200000\twhole"
    table, log = run(folder, "grch37", "check", "g.fa", code=1)
    assert table == ""
    assert "error: g.fa: chr1 has 200,000 bp, GRCh37 has 249,250,621 bp" in log
    run(folder, "grch37", "prepare", "g.fa", "--manifest", "tiny.yaml", "--output", "o.fa.gz")
    assert (folder / "o.fa.gz.gzi").is_file()


def test_a_part_of_a_split_of_one_s_own_is_written_as_bed(folder):
    arguments = ("--name", "tiny", "--splits-file", "splits.yaml")
    run(folder, "manifest", "split", "validation", "v.bed", *arguments)
    assert (folder / "v.bed").read_text() == "chr1\t100000\t150000\n"
    _, log = run(folder, "manifest", "split", "all", "a.bed", *arguments, code=2)
    assert "split tiny has no part 'all'; it has train, validation, test" in log


def test_a_missing_input_is_misuse(folder):
    for step, options in {
        "promoters": ("--bed", "no.bed", "--fasta", "g.fa"),
        "chromatin": ("--bed", "no.bed", "--fasta", "g.fa"),
        "epdnew": ("--download", "no.bed", "--chain", "no.chain"),
        "demo": ("--bed", "no.bed", "--fasta", "g.fa", "--variants", "no.vcf"),
    }.items():
        _, log = run(folder, step, *options, "--output", "out", code=2)
        assert log.startswith("error: no file no.bed")
    _, log = run(folder, "fetch", "grch37", "--output", "o", "--only", "x", code=2)
    assert "has no file 'x'" in log
    assert not (folder / "out").exists()


def test_every_manifest_of_the_project_is_valid(folder):
    report, _ = run(folder, "manifest", "check")
    assert report.splitlines()[-1] == "splits.yaml: splits, valid"
