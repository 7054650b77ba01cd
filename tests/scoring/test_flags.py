from __future__ import annotations

import pytest

from genobird.genome.fasta import Genome
from genobird.scoring.regions import score_regions, score_sequences
from genobird.scoring.variant_table import screen_variants
from genobird.scoring.variant_vcf import annotate_variants
from genobird.scoring.windows import EDGE, LEAST, NEAR, flag_of
from tests.conftest import random_dna, write_fasta

MISSING = round((1 - LEAST) * 2 * NEAR)  # so many bases may be missing
FIRST = NEAR - MISSING  # 0-based place that lacks so many
LENGTH = 2_000
GAP = 1_000  # where N begin


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A genome of A, and of A with one N more than may be missing."""
    contigs = {
        "ends": "A" * LENGTH,
        "gap": "A" * GAP + "N" * (MISSING + 1) + "A" * (LENGTH - GAP),
    }
    with Genome(write_fasta(tmp_path_factory.mktemp("flat") / "x.fa", contigs)) as genome:
        yield genome


PLACES = [
    ("ends", FIRST - 1, EDGE),
    ("ends", FIRST, ""),
    ("ends", LENGTH - FIRST, ""),
    ("ends", LENGTH - FIRST + 1, EDGE),
    ("gap", GAP - 1, EDGE),
    ("gap", GAP - NEAR + MISSING, ""),  # one N is not near it
]


def test_variants_and_regions_that_lack_more_are_flagged(scorer, flat, tmp_path):
    variants = [(contig, place + 1, "A", "C") for contig, place, _ in PLACES]
    lines = "".join(f"{c}\t{at}\t.\t{ref}\t{alt}\t.\t.\t.\n" for c, at, ref, alt in variants)
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "in.vcf").write_text(header + lines)
    expected = [flag for _, _, flag in PLACES]

    table = screen_variants(scorer, variants, flat)
    assert set(table["status"]) == {"OK"}
    assert table["flags"].tolist() == expected
    annotate_variants(scorer, tmp_path / "in.vcf", flat, tmp_path / "out.vcf")
    text = (tmp_path / "out.vcf").read_text()
    assert '##INFO=<ID=GB_FLAGS,Number=A,Type=String,Description="' in text
    records = [line for line in text.splitlines() if not line.startswith("#")]
    assert [f";GB_FLAGS={EDGE};" in line for line in records] == [flag == EDGE for flag in expected]

    regions = [(contig, place, place + 1) for contig, place, _ in PLACES]
    found = score_regions(scorer, regions, flat)
    assert set(found["status"]) == {"OK"}
    assert found["flags"].tolist() == expected


def test_what_is_not_scored_has_no_flag(scorer, flat):
    table = screen_variants(scorer, [("ends", 5, "G", "C"), ("none", 5, "A", "C")], flat)
    assert table["flags"].tolist() == ["", ""]
    found = score_regions(scorer, [("gap", GAP, GAP + 1)], flat)
    assert found[["status", "flags"]].iloc[0].tolist() == ["AMBIGUOUS", ""]


@pytest.mark.parametrize(("length", "flag"), [(500, EDGE), (2 * FIRST, EDGE), (2 * NEAR, "")])
def test_short_sequences_are_flagged(scorer, length, flag):
    found = score_sequences(scorer, [random_dna(length, seed=length)])
    assert found[["status", "flags"]].iloc[0].tolist() == ["OK", flag]


def test_missing_bases_and_n_count_alike():
    known = "A" * (2 * NEAR - MISSING)
    for rest in ("", "N" * MISSING):
        assert flag_of(known + rest, NEAR) == ""
        assert flag_of(known[1:] + rest, NEAR) == EDGE
