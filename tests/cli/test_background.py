from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest

from genobird.cli import main
from genobird.scoring.background import Background
from genobird.scoring.settings import DEFAULT
from tests.scoring.quick_logits import stub_logits

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


@pytest.fixture
def vcf(tmp_path: Path, tiny_contigs: dict[str, str]) -> Path:
    """Six SNVs with a sample, phased but for the last."""
    contig = tiny_contigs["chr1"]
    lines = [f"{HEADER}\tFORMAT\tme\n"]
    for number, call in enumerate(["0|1", "1|0", "0|1", "1|1", "0|0", "0/1"]):
        at = 20_000 + 40 * number
        alt = "ACGT"[("ACGT".index(contig[at]) + 1) % 4]
        lines.append(f"chr1\t{at + 1}\t.\t{contig[at]}\t{alt}\t.\t.\tAC=1\tGT\t{call}\n")
    path = tmp_path / "in.vcf"
    path.write_text("".join(lines))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are not made by the model."""
    stub_logits(monkeypatch)


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A model directory of this test's own."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture
def options(tiny_genome_path: Path, model: Path) -> list[str]:
    return ["--fasta", str(tiny_genome_path), "--model", str(model), "--device", "cpu"]


def build(run, vcf, options, output, *more) -> None:
    code, _, err = run("background", "build", vcf, *options, "-o", output, *more)
    assert code == 0, err


def table_of(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


def test_build_says_what_it_made(run, vcf, options, tmp_path):
    output = tmp_path / "a.npz"
    arguments = ["background", "build", vcf, *options, "-o", output]
    code, out, err = run(*arguments, "--limit", "4")
    assert (code, out) == (0, "")
    assert "4 variants, 7 outputs in" in err
    code, out, err = run(*arguments, "--force", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    expected = {"variants": 6, "outputs": 7, "limit": None, "seed": 0, "source": "in.vcf"}
    assert facts.items() >= expected.items()
    assert facts["smallest_evalue"] == 1 / 7
    assert facts["command"].startswith("genobird")


def test_build_takes_the_settings_of_variants(run, vcf, options, model, tmp_path):
    build(run, vcf, options, model / "background.npz", "--shifts", "3", "--window-grid", "64")
    made = Background.load(model / "background.npz")
    settings = {"shifts": 3, "grid": 64, "segmentations": DEFAULT.segmentations}
    assert made.facts.items() >= settings.items()
    outputs = ["-o", tmp_path / "out.vcf", "--quiet"]
    _, _, err = run("variants", vcf, *options, *outputs)
    assert "the background was made with shifts 3, grid 64: quantiles" in err
    outputs = ["-o", tmp_path / "one.vcf", "--quiet", "--shifts", "3", "--window-grid", "64"]
    _, _, err = run("variants", vcf, *options, *outputs, "--two-windows")
    assert "the background was made with one window: promoter|quantile is a little off" in err


def test_build_leaves_regions_and_those_of_a_bed_out(run, vcf, options, tmp_path):
    bed = tmp_path / "out.bed"
    bed.write_text("1\t20040\t20041\n")
    more = ["--exclude", "chr1:20,001-20,001", "--exclude", bed, "--quiet"]
    build(run, vcf, options, tmp_path / "a.npz", *more)
    made = Background.load(tmp_path / "a.npz")
    assert made.count == 4
    assert made.facts["exclude"] == ["chr1:20,001-20,001", "1:20,041-20,041"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "a.tsv"], "a.tsv has an unknown ending; allowed are .npz"),
        (["-o", "a.npz", "--limit", "0"], "limit"),
        (["-o", "a.npz", "--exclude", "chr1"], "region chr1 has no positions"),
    ],
)
def test_misuse_ends_with_2_and_one_line(run, vcf, options, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("background", "build", vcf, *options, *more)
    assert code == 2
    assert message in err.replace("'", "")
    assert err.count("\n") == 1


def test_the_group_without_a_verb_shows_its_verbs(run):
    code, _, err = run("background")
    assert code == 2
    assert "build" in err
    assert "info" in err


def test_info_tells_of_a_file_and_of_a_model_directory(run, vcf, options, model):
    build(run, vcf, options, model / "background.npz")
    code, text, _ = run("background", "info", model / "background.npz")
    assert code == 0
    assert "variants: 6" in text
    assert "1 in 100" in text
    assert len([line for line in text.splitlines() if line.startswith("A|CTCF|None#130")]) == 1
    code, out, _ = run("background", "info", model, "--json")
    facts = json.loads(out)
    made = Background.load(model / "background.npz")
    assert facts["hash"] == made.hash
    assert list(facts["sizes"]) == list(made.outputs)
    largest = facts["sizes"]["promoter"]
    assert largest["largest"] == made.sizes.values[0, 0] >= largest["1 in 10"] >= largest["half"]
    code, _, err = run("background", "info", model.parent / "none.npz")
    assert code == 2
    assert "there is no background" in err


def test_variants_use_the_background_of_the_model(run, vcf, options, model, tmp_path):
    build(run, vcf, options, model / "background.npz")
    outputs = ["-o", tmp_path / "out.vcf.gz", "--table", tmp_path / "out.tsv"]
    code, _, err = run("variants", vcf, *options, *outputs)
    assert code == 0
    assert "no E-values" not in err
    table = table_of(tmp_path / "out.tsv")
    assert table["evalue"].between(1 / 7, 1).all()
    assert table["promoter|quantile"].between(0, 6 / 7).all()
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as file:
        field = file.header.info["GB_EVALUE"]
        assert (field.number, field.type) == ("A", "Float")
        made = Background.load(model / "background.npz")
        assert f"##genobirdBackground={made.hash}\n" in str(file.header)
        found = [record.info["GB_EVALUE"][0] for record in file]
    np.testing.assert_allclose(found, table["evalue"], rtol=1e-5)


def test_without_a_background_there_are_no_evalues_and_that_is_said_once(
    run, vcf, options, model, tmp_path
):
    outputs = ["-o", tmp_path / "out.vcf", "--table", tmp_path / "out.tsv", "--force"]
    code, _, err = run("variants", vcf, *options, *outputs)
    assert code == 0
    assert err.count("so no E-values") == 1
    assert "evalue" not in table_of(tmp_path / "out.tsv").columns
    assert "GB_EVALUE" not in (tmp_path / "out.vcf").read_text()
    build(run, vcf, options, model / "background.npz")
    _, _, err = run("variants", vcf, *options, *outputs, "--background", "none")
    assert "no E-values" not in err
    assert "evalue" not in table_of(tmp_path / "out.tsv").columns


def test_a_background_can_be_given_and_one_of_another_model_stops(run, vcf, options, tmp_path):
    build(run, vcf, options, tmp_path / "a.npz", "--limit", "3")
    arguments = ["variants", vcf, *options, "-o", tmp_path / "out.vcf"]
    code, _, _ = run(*arguments, "--background", tmp_path / "a.npz")
    assert code == 0
    assert "GB_EVALUE=" in (tmp_path / "out.vcf").read_text()
    made = Background.load(tmp_path / "a.npz")
    made.facts["model"] = "0123456789ab"
    made.save(tmp_path / "b.npz")
    code, _, err = run(*arguments, "--force", "--background", tmp_path / "b.npz")
    assert code == 1
    assert "the background is of model 0123456789ab" in err


def test_phased_adds_joint_scores_to_info_and_table(run, vcf, options, tmp_path):
    outputs = ["-o", tmp_path / "out.vcf.gz", "--table", tmp_path / "out.parquet"]
    code, _, err = run("variants", vcf, *options, *outputs, "--phased", "me")
    assert code == 0
    assert "ALTs of me: 4 applied on their haplotypes, 1 not: UNPHASED 1" in err
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["phase"].tolist() == ["PHASED"] * 4 + ["ABSENT", "UNPHASED"]
    assert table["haplotype1|count"].tolist() == [0, 2, 0, 2, 0, 0]
    assert table["haplotype2|count"].tolist() == [3, 0, 3, 3, 0, 0]
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as file:
        records = list(file)
    assert [record.info["GB_PHASE"][0] for record in records] == table["phase"].tolist()
    first = records[0].info
    assert first["GB_HAP_N"] == (3,)
    for key, column in (
        ("GB_HAP_JOINT", "chromatin|joint"),
        ("GB_HAP_SUM", "chromatin|sum"),
        ("GB_HAP_PROMOTER_JOINT", "promoter|joint"),
        ("GB_HAP_PROMOTER_SUM", "promoter|sum"),
    ):
        expected = table[f"haplotype2|{column}"][0]
        np.testing.assert_allclose(first[key], [expected], rtol=1e-5)
    assert "GB_HAP_JOINT" not in records[5].info


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["-"], "give a file, not standard input"),
        (["chr1:5:A>C"], "--phased needs the genotypes of a VCF"),
    ],
)
def test_phased_needs_a_file_with_genotypes(
    run, vcf, options, tmp_path, monkeypatch, source, message
):
    stdin = io.TextIOWrapper(io.BytesIO(vcf.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    output = tmp_path / ("out.vcf" if source == ["-"] else "out.tsv")
    arguments = ["variants", *source, *options, "-o", output, "--phased", "me"]
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert not output.exists()


def test_phased_names_the_samples_that_there_are(run, vcf, options, tmp_path):
    arguments = ["variants", vcf, *options, "-o", tmp_path / "out.vcf", "--phased", "you"]
    code, _, err = run(*arguments)
    assert code == 2
    assert "it has me" in err


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["new", "force"])
def test_a_background_and_a_merged_file_replace_none_of_their_inputs(
    capsys, vcf, tiny_genome_path, tmp_path, force
):
    other = tmp_path / "other.vcf"
    shutil.copy(vcf, other)
    before = vcf.read_bytes()
    for command, fault in (
        (["background", "build", vcf, other, "-f", tiny_genome_path, "-o", vcf], "the input"),
        (["variants", "merge", vcf, other, "-o", vcf], "the shard"),
    ):
        assert main([*map(str, command), *force]) == 2
        error = capsys.readouterr().err
        assert f"--output and {fault} {vcf} are the same file" in error
    assert vcf.read_bytes() == before
