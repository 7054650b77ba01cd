"""The benchmarks of scoring run, at a size that says nothing about speed."""

from __future__ import annotations

import pytest

from genobird.scoring import effects, windows
from tests.benchmarks import bench_scores, bench_variants, bench_vcf
from tests.conftest import write_fasta


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for module in (effects, bench_variants, bench_scores):
        for name, size in (("CHROMATIN_FLANK", 600), ("LLR_FLANK", 200)):
            monkeypatch.setattr(module, name, size, raising=False)
    for module in (windows, bench_variants):
        monkeypatch.setattr(module, "PROMOTER_BEFORE", 300)
        monkeypatch.setattr(module, "PROMOTER_AFTER", 200)


@pytest.fixture
def inputs(tiny_contigs, tmp_path) -> tuple[str, str]:
    bases = tiny_contigs["chr1"][:4_000]
    rows = [
        f"chr1\t{at + 1}\t.\t{bases[at]}\t{'C' if bases[at] == 'A' else 'A'}\t.\t.\t."
        for at in (1_500, 1_520)
    ]
    contig = f"##contig=<ID=chr1,length={len(bases)}>\n"
    header = f"##fileformat=VCFv4.2\n{contig}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    vcf = tmp_path / "sites.vcf"
    vcf.write_text(header + "\n".join(rows) + "\n")
    return str(vcf), str(write_fasta(tmp_path / "chr1.fa", {"chr1": bases}))


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each Markdown table behind the first paragraph, without names and rule."""
    parts = [part.splitlines() for part in text.split("\n\n")[1:]]
    for name, rule, *rows in parts:
        assert rule == "|---" * name.count(" | ") + "|---|"
        assert {row.count(" | ") for row in rows} == {name.count(" | ")}
    return [[row.strip("| ").split(" | ") for row in rows] for _, _, *rows in parts]


@pytest.mark.parametrize(("more", "timed"), [([], "2"), (["--loop", "1"], "1")])
def test_variants_are_timed_beside_a_naive_loop_and_a_network(
    inputs, tiny_checkpoint, capsys, more, timed
):
    bench_variants.main([*inputs, "--model", str(tiny_checkpoint), *more])
    text = capsys.readouterr().out
    assert text.startswith("Model `")
    (rows,) = tables(text)
    ways = ["naive", "two windows", "float32", "grid", "bf16", "bf16 grid", "DeepSEA"]
    assert [row[0] for row in rows] == ways
    assert [row[1] for row in rows] == [timed, *["2"] * 6]
    assert rows[0][4:6] == ["1.00", "1.00 (1.00 to 1.00)"]
    assert rows[0][6].startswith("about ") == (timed == "1")


def test_movements_of_scores_are_set_against_their_size(inputs, tiny_checkpoint, capsys):
    bench_scores.main([*inputs, "--model", str(tiny_checkpoint), "--records", "2"])
    offsets, segmentations, precision, edges, equality = tables(capsys.readouterr().out)
    assert [row[0] for row in offsets] == ["1 window (default)", "2 windows", "4 windows"]
    assert [row[0] for row in segmentations] == ["1", "2", "4", "8"]
    assert precision[0][0] == "`--precision bf16`"
    shares = {row[0]: row[1] for row in edges}
    assert (shares["300 before"], shares["300 on each side"]) == ("25%", "50%")
    assert float(edges[0][3]) > float(edges[-1][3]) == 0  # 4,000 are more than the window
    assert len(equality) == 6
    assert all(float(row[1]) < 1e-4 and row[3:] == ["-", "-"] for row in equality)


def test_records_that_cannot_be_scored_are_timed_beside_other_readers(
    inputs, tiny_checkpoint, capsys
):
    bench_vcf.main([*inputs, "--model", str(tiny_checkpoint), "--times", "4"])
    text = capsys.readouterr().out
    assert text.startswith("8 records of sites.vcf, none scored")
    (rows,) = tables(text)
    assert [row[:2] for row in rows if row[0].startswith("genobird")] == [
        ["genobird variants", ".vcf"],
        ["genobird variants", ".vcf.gz"],
    ]
    assert rows[0][3] == "1.0"
