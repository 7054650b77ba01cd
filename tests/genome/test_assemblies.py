from __future__ import annotations

import pytest

from genobird.genome.assemblies import CHROMOSOMES, chromosome, recognise


@pytest.mark.parametrize(
    ("contigs", "assembly"),
    [
        ({"chr21": 48_129_895}, "GRCh37"),
        ({"21": 46_709_983, "MT": 16_569}, "GRCh38"),
        ({"NC_060945.1": 45_090_682}, "T2T-CHM13"),
        ({"chr21": 45_090_683}, None),
        ({"scaffold": 48_129_895}, None),
        ({"MT": 16_569}, None),
        ({"chr21": 48_129_895, "chrX": 69_999_930}, "GRCh37"),
        ({"chr20": 63_025_520, "chr21": 46_709_983}, None),
        ({}, None),
    ],
)
def test_assemblies_are_recognised_by_length(contigs: dict[str, int], assembly: str | None) -> None:
    assert recognise(contigs) == assembly


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20", ("20", None)),
        ("chr20", ("20", None)),
        ("Chrx", ("X", None)),
        ("chrM", ("MT", None)),
        ("NC_000020.10", ("20", "GRCh37")),
        ("NC_000020.11", ("20", "GRCh38")),
        ("NC_000024.10", ("Y", "GRCh38")),
        ("NC_060944.1", ("20", "T2T-CHM13")),
        ("NC_012920.1", ("MT", None)),
        ("23", None),
        ("0", None),
        ("chr1_random", None),
        ("chr", None),
        ("", None),
    ],
)
def test_a_chromosome_is_known_by_many_names(
    name: str, expected: tuple[str, str | None] | None
) -> None:
    assert chromosome(name) == expected


def test_there_are_25_chromosomes() -> None:
    assert len(set(CHROMOSOMES)) == 25
