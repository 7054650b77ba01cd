"""The benchmarks of scoring run, at a size that says nothing about speed."""

from __future__ import annotations

import pytest
import torch

from genobird.scoring import effects
from tests.benchmarks import bench_scores, bench_variants
from tests.conftest import write_fasta


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for module in (effects, bench_variants, bench_scores):
        for name, size in (("CHROMATIN_FLANK", 600), ("LLR_FLANK", 200)):
            monkeypatch.setattr(module, name, size, raising=False)
    for module in (effects, bench_variants):
        monkeypatch.setattr(module, "PROMOTER_BEFORE", 300)
        monkeypatch.setattr(module, "PROMOTER_AFTER", 200)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def inputs(tiny_contigs, tmp_path) -> tuple[str, str]:
    bases = tiny_contigs["chr1"][:4_000]
    rows = [
        f"chr1\t{at + 1}\t.\t{bases[at]}\t{'C' if bases[at] == 'A' else 'A'}\t.\t.\t."
        for at in (1_500, 1_520)
    ]
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    vcf = tmp_path / "sites.vcf"
    vcf.write_text(header + "\n".join(rows) + "\n")
    return str(vcf), str(write_fasta(tmp_path / "chr1.fa", {"chr1": bases}))


def table(text: str) -> list[list[str]]:
    return [row.split("\t") for row in text.splitlines()]


def test_variants_are_timed_beside_a_naive_loop_and_a_network(inputs, tiny_checkpoint, capsys):
    bench_variants.main([*inputs, "--model", str(tiny_checkpoint), "--naive", "1"])
    _, names, *rows = table(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["naive", "float32", "grid", "bf16", "bf16 grid", "DeepSEA"]
    assert {len(row) for row in rows} == {len(names)}
    assert rows[0][-2:] == ["1.00", "1.00"]


def test_movements_of_scores_are_set_against_their_size(inputs, tiny_checkpoint, capsys):
    bench_scores.main([*inputs, "--model", str(tiny_checkpoint), "--records", "2"])
    _, names, *rows = table(capsys.readouterr().out)
    assert [row[0] for row in rows] == [*["offset"] * 3, *["segmentation"] * 4, "precision"] + [
        "equality"
    ] * 5
    assert {len(row) for row in rows} == {len(names)}
    assert all(float(row[3]) < 1e-4 for row in rows if row[0] == "equality")
