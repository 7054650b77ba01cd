from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import AssemblyError, UsageError
from genobird.heads import probabilities
from genobird.scoring.compat import KIPOI_SCORES, SELENE_SCORES, write_kipoi, write_selene
from genobird.scoring.scorer import load
from tests.conftest import other

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
LABELS = ["A_DNase_None", "A_CTCF_None", "A_CTCF_None", "B_CTCF_None", "B_H3K4me3_None"]
EXACT = {"rtol": 2e-5, "atol": 1e-7}


@pytest.fixture(scope="session")
def vcf(tmp_path_factory, tiny_contigs) -> Path:
    """Two ALTs; a REF mismatch; a deletion; N in the window; no ALT; another contig."""
    one, two = tiny_contigs["chr1"], tiny_contigs["chrN"]
    at = 30_000
    records = [
        ("chr1", at + 1, "rs1", one[at], f"{other(one[at])},{other(one[at], 2)}"),
        ("chr1", at + 11, "rs2", other(one[at + 10]), one[at + 10]),
        ("chr1", at + 21, ".", one[at + 20 : at + 23], one[at + 20]),
        ("chrN", 601, "rs4", two[600], other(two[600])),
        ("chr1", at + 31, "rs5", one[at + 30], "."),
        ("chr9", 5, "rs6", "A", "C"),
    ]
    path = tmp_path_factory.mktemp("compat") / "calls.vcf"
    lines = [f"{c}\t{p}\t{i}\t{r}\t{a}\t.\t.\t.\n" for c, p, i, r, a in records]
    path.write_text(HEADER + "".join(lines))
    return path


@pytest.fixture(scope="session")
def screened(scorer, vcf, tiny_genome_path) -> pd.DataFrame:
    return scorer.screen_variants(vcf, tiny_genome_path)


@pytest.fixture(scope="session")
def kipoi(scorer, vcf, tiny_genome_path, tmp_path_factory) -> tuple[Path, Counter[str]]:
    output = tmp_path_factory.mktemp("kipoi") / "out.tsv"
    scores = ["diff", "logit"]
    counts = write_kipoi(scorer, vcf, tiny_genome_path, output, prefix="M/p", scores=scores)
    return output, counts


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_the_kipoi_table_has_the_columns_of_the_retired_tool(kipoi):
    header = rows(kipoi[0])[0]
    assert header == [
        *("#CHROM", "POS", "ID", "REF", "ALT"),
        *(f"M/p/{label}/diff" for label in LABELS),
        *(f"M/p/{label}/logit" for label in LABELS),
    ]


def test_every_alt_has_its_row_in_order_with_the_id_of_its_record(kipoi, screened):
    found = rows(kipoi[0])[1:]
    assert [row[2] for row in found] == ["rs1", "rs1", "rs2", ".", "rs4", "rs5", "rs6"]
    assert [row[0] for row in found] == screened["chrom"].tolist()
    assert [int(row[1]) for row in found] == screened["pos"].tolist()
    assert [row[3] for row in found] == screened["ref"].tolist()
    assert [row[4] for row in found] == screened["alt"].tolist()
    assert kipoi[1] == {"OK": 4, "REF_MISMATCH": 1, "MISSING_ALT": 1, "NO_CONTIG": 1}


def test_kipoi_scores_are_those_of_the_variant_table(kipoi, screened, scorer):
    found = pd.read_csv(kipoi[0], sep="\t", header=None, skiprows=1)
    values = found.iloc[:, 5:].to_numpy()
    ok = (screened["status"] == "OK").to_numpy()
    assert np.isnan(values[~ok]).all()
    ref, alt, delta = (
        screened.loc[ok, [f"{name}|{which}" for name in scorer.features]].to_numpy()
        for which in ("ref", "alt", "delta")
    )
    np.testing.assert_allclose(values[ok, 5:], delta, rtol=1e-4, atol=1e-5)
    difference = probabilities(alt, 8.0) - probabilities(ref, 8.0)
    np.testing.assert_allclose(values[ok, :5], difference, rtol=1e-3, atol=1e-6)
    assert (values[ok] != 0).all()


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_scores_are_defined_as_in_the_retired_tool(ref, alt):
    p, q = (1 / (1 + 8 * np.exp(-value)) for value in (ref, alt))
    columns = {"ref": ref, "alt": alt, "delta": alt - ref, "ref_p": p, "alt_p": q, "diff": q - p}
    table = pd.DataFrame({f"x|{name}": [value] for name, value in columns.items()})

    def values(part):
        return table[[f"x|{part}"]].to_numpy()

    got = {name: score(values)[0, 0] for name, score in KIPOI_SCORES.items()}
    np.testing.assert_allclose(got["ref"], p, **EXACT)
    np.testing.assert_allclose(got["alt"], q, **EXACT)
    np.testing.assert_allclose(got["diff"], q - p, **EXACT)
    np.testing.assert_allclose(1 / (1 + np.exp(-got["logit_ref"])), p, **EXACT)
    np.testing.assert_allclose(1 / (1 + np.exp(-got["logit_alt"])), q, **EXACT)
    np.testing.assert_allclose(got["logit"], got["logit_alt"] - got["logit_ref"], atol=1e-12)
    np.testing.assert_allclose(got["deepsea_effect"], abs(q - p) * abs(alt - ref), **EXACT)
    files = {name: score for files in SELENE_SCORES.values() for name, score in files.items()}
    assert files["abs_diffs"](values)[0, 0] == abs(got["diff"])


def test_selene_tables_have_its_columns_one_file_a_score(
    scorer, vcf, tiny_genome_path, tmp_path, kipoi
):
    folder = tmp_path / "out"
    scores = ["diffs", "logits", "predictions"]
    counts, paths = write_selene(scorer, vcf, tiny_genome_path, folder, scores=scores)
    names = ["diffs", "logits", "ref_predictions", "alt_predictions"]
    assert [path.name for path in paths] == [f"calls_{name}.tsv" for name in names]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert counts == kipoi[1]
    diffs, logits, ref, alt = (pd.read_csv(path, sep="\t") for path in paths)
    keys = ["chrom", "pos", "name", "ref", "alt", "strand", "ref_match", "contains_unk"]
    assert list(diffs.columns) == [*keys, *scorer.features]
    assert diffs["name"].tolist() == ["rs1", "rs1", "rs2", ".", "rs4", "rs5", "rs6"]
    assert set(diffs["strand"]) == {"+"}
    assert diffs["ref_match"].tolist() == [True, True, False, True, True, True, False]
    assert diffs["contains_unk"].tolist() == [False] * 4 + [True] + [False] * 2
    for table in (logits, ref, alt):
        pd.testing.assert_frame_equal(table[keys], diffs[keys])
    np.testing.assert_allclose(
        diffs[scorer.features], alt[scorer.features] - ref[scorer.features], atol=2e-6
    )
    written = pd.read_csv(kipoi[0], sep="\t", header=None, skiprows=1)
    np.testing.assert_array_equal(diffs[scorer.features], written.iloc[:, 5:10])
    np.testing.assert_array_equal(logits[scorer.features], written.iloc[:, 10:])


def test_a_file_without_records_gives_a_table_without_rows(scorer, tiny_genome_path, tmp_path):
    (tmp_path / "none.vcf.gz.vcf").write_text(HEADER)
    output = tmp_path / "out.tsv"
    write_kipoi(scorer, tmp_path / "none.vcf.gz.vcf", tiny_genome_path, output, prefix="M")
    assert len(rows(output)) == 1
    counts, paths = write_selene(
        scorer, tmp_path / "none.vcf.gz.vcf", tiny_genome_path, tmp_path / "s"
    )
    assert not counts
    assert [len(rows(path)) for path in paths] == [1]


def test_the_heads_that_are_not_asked_for_cost_nothing_and_stay(
    scorer, vcf, tiny_genome_path, tmp_path, monkeypatch
):
    def refuse(*_: object) -> None:
        raise AssertionError("the promoter head was asked")

    for asked in ("promoter_logits", "starts_and_profiles"):
        monkeypatch.setattr(type(scorer), asked, refuse)
    write_kipoi(scorer, vcf, tiny_genome_path, tmp_path / "out.tsv", prefix="M", scores=["alt"])
    assert scorer.checkpoint.promoter is not None
    assert scorer.checkpoint.mlm is not None


def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    scorer, vcf, tiny_checkpoint, tiny_genome_path, tmp_path
):
    arguments = (scorer, vcf, tiny_genome_path)
    with pytest.raises(UsageError, match="score 'magic' is unknown; allowed are diff, logit, ref"):
        write_kipoi(*arguments, tmp_path / "out.tsv", prefix="M", scores=["diff", "magic"])
    with pytest.raises(UsageError, match="score 'diff' is unknown; allowed are abs_diffs, diffs"):
        write_selene(*arguments, tmp_path, scores=["diff"])
    without = load(tiny_checkpoint, device="cpu")
    without.checkpoint.chromatin = None
    with pytest.raises(UsageError, match="no chromatin head"):
        write_kipoi(without, vcf, tiny_genome_path, tmp_path / "out.tsv", prefix="M")
    lost = tmp_path / "lost.vcf"
    lost.write_text(f"{HEADER}chr9\t5\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(AssemblyError, match="none of 1 allele lies on a contig"):
        write_kipoi(scorer, lost, tiny_genome_path, tmp_path / "out.tsv", prefix="M")
    assert [path.name for path in tmp_path.iterdir()] == ["lost.vcf"]
