from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pysam
import pytest
import yaml
from snakemake.utils import validate
from snakemake_interface_common.exceptions import WorkflowError

from genobird.genome.interval import read_bed
from tests.models import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "workflows" / "score" / "config"
DEMO = ROOT / "genobird" / "bundled" / "demo"

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def config(project, tiny_tokenizer):
    """A user's own folder: a model, some files, one with a space in its name, and their sheet."""
    mine = project / "my files"
    mine.mkdir()
    tiny_checkpoint(tiny_tokenizer).save(mine / "model")
    rows = (DEMO / "regions.bed").read_text().splitlines()[:5]
    (mine / "places.bed").write_text("\n".join(rows) + "\n")
    with gzip.open(mine / "edge.bed.gz", "wt") as file:
        file.write("track name=edge\nchr20\t10\t20\nchr20\t55000000\t55000200\tx\t0\t-\n")
    lines = (DEMO / "variants.vcf").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    records = [line.split("\t") for line in lines if not line.startswith("#")][:3]
    records[1][4] = f"{records[1][4]},<DEL>"
    records[2][3] = {"A": "C", "C": "A", "G": "A", "T": "A"}[records[2][3]]
    records[2][4] = "G"
    text = "\n".join([*header, *("\t".join(record) for record in records)]) + "\n"
    (mine / "some.vcf").write_text(text)
    sheet = [
        ("places", "places.bed"), ("edge.of-the_contig", "edge.bed.gz"), ("some", "some.vcf"),
    ]  # fmt: skip
    table = pd.DataFrame([(name, f"my files/{file}") for name, file in sheet])
    table.to_csv(mine / "samples.tsv", sep="\t", header=["sample", "path"], index=False)
    return {
        "samples": "my files/samples.tsv",
        "fasta": "genobird/bundled/demo/chr20.demo.fa.gz",
        "model": "my files/model",
        "output": "results/mine",
        "threads": 1,
    }


@pytest.fixture(scope="module")
def scored(project, snakemake, config):
    """The folder of results of the whole workflow on a user's own files."""
    snakemake("score", config)
    return project / "results" / "mine"


@pytest.mark.slow
def test_each_region_has_its_row(scored, project):
    for name, file in (("places", "places.bed"), ("edge.of-the_contig", "edge.bed.gz")):
        table = pd.read_csv(scored / "regions" / f"{name}.tsv", sep="\t", comment="#")
        regions = list(read_bed(project / "my files" / file))
        assert list(table[["chrom", "start", "end"]].itertuples(index=False, name=None)) == [
            (region.contig, region.start, region.end) for region in regions
        ]
        assert table["promoter"].notna().tolist() == (table["status"] == "OK").tolist()
    places = pd.read_csv(scored / "regions" / "places.tsv", sep="\t", comment="#")
    assert set(places["status"]) == {"OK"}
    assert {"a|DNase|None", "b|CTCF|None", "c|H3K4me3|None"} <= set(places.columns)
    edge = pd.read_csv(scored / "regions" / "edge.of-the_contig.tsv", sep="\t", comment="#")
    assert edge["status"].tolist() == ["AMBIGUOUS", "OK"]


@pytest.mark.slow
def test_each_record_is_kept_and_each_alt_has_its_row(scored, project):
    with pysam.VariantFile(str(project / "my files" / "some.vcf")) as file:
        before = [(r.chrom, r.pos, r.id, r.alleles) for r in file]
    with pysam.VariantFile(str(scored / "variants" / "some.vcf.gz")) as file:
        after = [(r.chrom, r.pos, r.id, r.alleles, r.info["GB_STATUS"]) for r in file]
    assert [record[:4] for record in after] == before
    statuses = [("OK",), ("OK", "SYMBOLIC"), ("REF_MISMATCH",)]
    assert [record[4] for record in after] == statuses
    table = pd.read_parquet(scored / "variants" / "some.parquet")
    assert table["status"].tolist() == [status for row in statuses for status in row]
    with pysam.TabixFile(str(scored / "variants" / "some.vcf.gz")) as index:
        assert sum(1 for _ in index.fetch("chr20")) == 3


@pytest.mark.slow
def test_statuses_of_all_samples_are_counted_for_multiqc(scored):
    table = pd.read_csv(scored / "statuses_mqc.tsv", sep="\t", comment="#", index_col="Sample")
    assert list(table.columns) == ["OK", "AMBIGUOUS", "REF_MISMATCH", "SYMBOLIC"]
    assert table.to_numpy().tolist() == [[5, 0, 0, 0], [1, 1, 0, 0], [2, 0, 1, 1]]
    assert list(table.index) == ["places", "edge.of-the_contig", "some"]


@pytest.mark.slow
def test_a_second_run_does_nothing(scored, snakemake, config):
    assert "Nothing to be done" in snakemake("score", config)


@pytest.mark.slow
def test_the_report_holds_the_results_with_their_captions(scored, report, config):
    names, pages = report("score", config)
    assert names >= {"places.tsv", "edge.of-the_contig.tsv", "some.vcf.gz", "report.html"}
    assert "Variants of some: every record as it came" in pages


@pytest.mark.slow
def test_another_file_in_the_sheet_is_the_only_one_scored(scored, project, snakemake, config):
    sheet = (project / config["samples"]).read_text()
    (project / "longer.tsv").write_text(f"{sheet}new\tmy files/places.bed\n")
    log = snakemake("score", config | {"samples": "longer.tsv"}, "--dry-run", "--printshellcmds")
    assert re.findall(r"exec genobird .* --output (\S+)", log) == [
        f"{config['output']}/{name}" for name in ("regions/new.tsv", "statuses_mqc.tsv")
    ]


def test_the_demo_is_planned_with_the_bundled_model(snakemake):
    log = snakemake("score", CONFIG / "test.yaml", "--dry-run", "--printshellcmds")
    assert "genobird score genobird/bundled/demo/regions.bed --fasta genobird/bundled/" in log
    assert "genobird variants genobird/bundled/demo/variants.vcf --fasta" in log
    assert "--model" not in log


def test_settings_reach_the_command(snakemake, config):
    settings = {"keep_going": True, "features": ["TF", "c|H3K4me3|None"], "ref_mismatch": "swap"}
    changed = config | settings | {"output": "results/changed", "batch_size": 4}
    log = snakemake("score", changed, "--dry-run", "--printshellcmds")
    assert log.count("--features 'TF,c|H3K4me3|None'") == 3
    assert log.count("--keep-going") == 2
    assert log.count("--ref-mismatch swap --device auto --batch-size 4 --threads 1") == 1
    assert log.count("--resume --force") == 3
    assert "merge" not in log


def test_shards_are_planned_one_a_job_and_merged(snakemake, config):
    changed = config | {"output": "results/parts", "shards": 3}
    log = snakemake("score", changed, "--dry-run", "--printshellcmds")
    for part in (1, 2, 3):
        assert log.count(f"--shard {part}/3 --resume --force") == 1
    names = " ".join(f"results/parts/shards/some.{part}-of-3.vcf.gz" for part in (1, 2, 3))
    assert f"genobird variants merge {names} --output results/parts/variants/some.vcf.gz" in log
    assert log.count("genobird variants 'my files/some.vcf'") == 3


@pytest.mark.slow
def test_shards_give_the_records_and_rows_of_one_job(scored, project, snakemake, config):
    changed = config | {"output": "results/parts", "shards": 2}
    snakemake("score", changed, "--until", "merge")
    parts = project / "results" / "parts"
    assert {path.name for path in (parts / "variants").iterdir()} == {
        *("some.vcf.gz", "some.vcf.gz.tbi", "some.parquet")
    }
    assert not (parts / "shards").exists()
    one, merged = (
        [
            line
            for line in gzip.decompress((folder / "variants" / "some.vcf.gz").read_bytes())
            .decode()
            .splitlines()
            if "Command=" not in line
        ]
        for folder in (scored, parts)
    )
    assert merged == one
    tables = [pd.read_parquet(folder / "variants" / "some.parquet") for folder in (scored, parts)]
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=0)


def test_a_wrong_configuration_is_refused_before_anything_runs(project, snakemake, config):
    log = snakemake("score", config | {"output": "results/wrong", "modle": "x"}, code=1)
    assert "Additional properties are not allowed ('modle' was unexpected)" in log
    assert not (project / "results" / "wrong").exists()


def test_without_a_configuration_the_sheet_of_the_folder_is_scored(tmp_path):
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflows/score/Snakefile"),
        "--directory", str(tmp_path), "--cores", "1", "--dry-run", "--printshellcmds",
    ]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "there is no sheet 'samples.tsv' in" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    for name, text in (
        ("samples.tsv", "sample\tpath\na\tx.bed\n"),
        ("x.bed", ""),
        ("genome.fa.gz", ""),
    ):
        (tmp_path / name).write_text(text)
    planned = subprocess.run(command, capture_output=True, text=True)
    assert "genobird score x.bed --fasta genome.fa.gz" in planned.stdout + planned.stderr


def test_a_sample_that_is_there_twice_is_refused(project, snakemake, config):
    (project / "twice.tsv").write_text("sample\tpath\na\tx.bed\na\ty.vcf\n")
    log = snakemake("score", config | {"samples": "twice.tsv"}, "--dry-run", code=1)
    assert "duplicate keys: Index(['a']" in log


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sample": "a", "path": "x.txt"}, "'x.txt' does not match"),
        ({"sample": "a/b", "path": "x.bed"}, "'a/b' does not match"),
        ({"sample": "a", "path": None}, "'path' is a required property"),
        ({"sample": "a", "path": "x.bed", "kind": "BED"}, "'kind' was unexpected"),
    ],
)
def test_a_wrong_row_of_the_sheet_is_refused(row, message):
    with pytest.raises(WorkflowError, match=message):
        validate(pd.DataFrame([row]), str(CONFIG / "samples.schema.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ref_mismatch": "ignore"}, "'ignore' is not one of"),
        ({"device": "tpu"}, "'tpu' does not match"),
        ({"batch_size": 0}, "0 is not valid"),
        ({"threads": "many"}, "'many' is not of type 'integer'"),
        ({"shards": 0}, "0 is less than the minimum of 1"),
    ],
)
def test_the_schema_names_what_is_wrong(config, changes, message):
    with pytest.raises(WorkflowError, match=message):
        validate(config | changes, str(CONFIG / "schema.yaml"))


def test_the_template_is_complete_and_holds_the_defaults():
    schema = yaml.safe_load((CONFIG / "schema.yaml").read_text())
    template = yaml.safe_load((CONFIG / "config.yaml").read_text())
    assert template.keys() == schema["properties"].keys()
    for name, key in schema["properties"].items():
        assert key["description"], name
        assert template[name] == key.get("default", template[name]), name


def test_profiles_hold_options_that_snakemake_knows(snakemake, config, profile):
    options = ("--profile", f"workflows/score/profiles/{profile}", "--executor", "dryrun")
    changed = config | {"output": "results/planned"}
    assert "This was a dry-run" in snakemake("score", changed, *options, "--dry-run")
