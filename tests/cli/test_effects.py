"""Options that say how effects are computed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pysam
import pytest

from genobird.cli import main
from tests.cli.conftest import HEADER


@pytest.fixture
def vcf(tmp_path: Path, tiny_contigs: dict[str, str]) -> Path:
    path = tmp_path / "in.vcf"
    ref = tiny_contigs["chrN"][400]
    path.write_text(f"{HEADER}chrN\t401\t.\t{ref}\t{'AC'[ref == 'A']}\t.\t.\t.\n")
    return path


@pytest.fixture
def options(vcf: Path, tiny_genome_path: Path, tiny_checkpoint: Path) -> list[str]:
    fixed = ["--fasta", str(tiny_genome_path), "--model", str(tiny_checkpoint), "--device", "cpu"]
    return ["variants", str(vcf), *fixed, "-o", str(vcf.with_name("out.vcf"))]


def scored(folder: Path, options: list[str], *more: str) -> tuple[pd.DataFrame, dict[str, object]]:
    table = folder / "out.tsv"
    assert main([*options, "--table", str(table), "--force", "--quiet", *more]) == 0
    with pysam.VariantFile(str(folder / "out.vcf")) as file:
        [record] = file
        return pd.read_csv(table, sep="\t"), dict(record.info)


def test_what_is_asked_for_is_in_the_table_and_in_info(options, tmp_path):
    plain, info = scored(tmp_path, options)
    assert info["GB_LLR_SE"][0] == pytest.approx(plain["llr|se"][0], rel=1e-5)
    assert "GB_EMBEDDING" not in info
    more = ("--scores", "diff,probability", "--embedding", "--segmentations", "1")
    table, info = scored(tmp_path, options, *more)
    new = [name for name in table.columns if name not in plain.columns]
    outputs = dict.fromkeys(name.rpartition("|")[0] for name in plain.columns if "|ref" in name)
    del outputs["llr"]
    parts = ("diff", "ref_p", "alt_p")
    assert new == [*(f"{name}|{part}" for name in outputs for part in parts), "embedding|distance"]
    assert "llr|se" not in table.columns
    assert "GB_LLR_SE" not in info
    assert info["GB_EMBEDDING"][0] == pytest.approx(table["embedding|distance"][0], rel=1e-5)
    pd.testing.assert_series_equal(table["promoter|delta"], plain["promoter|delta"])


@pytest.mark.parametrize(
    ("option", "moved"),
    [
        (["--shifts", "2"], "A|DNase|None|delta"),
        (["--window-grid", "300"], "A|DNase|None|delta"),
        (["--segmentations", "3"], "llr|delta"),
        (["--seed", "5"], "llr|delta"),
        (["--precision", "bf16"], "promoter|delta"),
    ],
)
def test_an_option_moves_what_it_is_about(options, tmp_path, tiny_contigs, option, moved):
    # On a contig that is longer than a window, so that windows can be elsewhere.
    ref = tiny_contigs["chr1"][20_000]
    row = f"chr1\t20001\t.\t{ref}\t{'AC'[ref == 'A']}\t.\t.\t.\n"
    (tmp_path / "in.vcf").write_text(HEADER + row)
    plain, _ = scored(tmp_path, options)
    changed, _ = scored(tmp_path, options, *option)
    assert list(changed.columns) == list(plain.columns)
    assert changed[moved][0] != plain[moved][0]
    assert changed[moved][0] == pytest.approx(plain[moved][0], abs=20)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--scores", "odds"], "score 'odds' is unknown; allowed: probability, diff"),
        (["--shifts", "0"], "shifts 0 found; 1 to 15 are allowed"),
        (["--segmentations", "100"], "segmentations 100 found; 1 to 64"),
        (["--window-grid", "-1"], "window grid -1 found; 0 to 1024"),
        (["--precision", "float16"], "precision 'float16' is unknown; allowed are float32, bf16"),
        (["--features", " ,"], "a list ' ,' without names found; give names, or leave the option"),
    ],
)
def test_impossible_options_are_misuse(options, capsys, option, message):
    assert main([*options, *option]) == 2
    assert message in capsys.readouterr().err
