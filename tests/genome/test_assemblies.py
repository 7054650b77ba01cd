from __future__ import annotations

import bioframe
import pytest

from genobird.genome.assemblies import (
    CHROMOSOMES,
    chromosome,
    fitting,
    is_other_mitochondrion,
    mitochondrion_of,
    named,
    names_in,
    recognise,
)


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
        ("NC_001807.4", ("MT", None)),
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


@pytest.mark.parametrize(
    ("text", "assembly"),
    [
        ("hg19", "GRCh37"),
        ("B37", "GRCh37"),
        ("human_g1k_v37_decoy.fasta", "GRCh37"),
        ("HumanG1Kv37", "GRCh37"),
        ("file:///x/hs37d5.fa.gz", "GRCh37"),
        ("GCA_000001405.15_GRCh38_no_alt_analysis_set.fna", "GRCh38"),
        ("GRCh38.p14", "GRCh38"),
        ("hs38DH.fa", "GRCh38"),
        ("T2T-CHM13v2.0", "T2T-CHM13"),
        ("hs1.fa", "T2T-CHM13"),
        ("hg19ToHg38", None),
        ("lifted_hg19_to_hg38.vcf", None),
        ("xhg19", None),
        ("Homo_sapiens_assembly19.fasta", None),
        ("", None),
    ],
)
def test_an_assembly_is_named_in_many_ways(text: str, assembly: str | None) -> None:
    assert named(text) == assembly


@pytest.mark.parametrize(
    ("ends", "assemblies"),
    [
        ({"chr20": 63_025_520}, ("GRCh37", "GRCh38", "T2T-CHM13")),
        ({"chr20": 63_025_521}, ("GRCh38", "T2T-CHM13")),
        ({"20": 63_025_521, "21": 46_000_000}, ("GRCh38",)),
        ({"NC_000021.8": 48_000_000}, ("GRCh37",)),
        ({"chr20": 63_025_521, "chr21": 48_000_000}, ()),
        ({"chrM": 10**9, "scaffold": 10**9}, ()),
        ({}, ()),
    ],
)
def test_ends_fit_the_assemblies_that_are_long_enough(
    ends: dict[str, int], assemblies: tuple[str, ...]
) -> None:
    assert fitting(ends) == assemblies


def test_the_first_of_several_names_of_a_chromosome_counts() -> None:
    assert names_in({"scaffold": 1, "chr1": 5, "1": 5, "MT": 9}) == {"1": "chr1", "MT": "MT"}
    assert mitochondrion_of({"chrM": 16_571}) == 16_571
    assert mitochondrion_of({"chrM": 5}) is None
    assert mitochondrion_of({"chr1": 16_571}) is None


@pytest.mark.parametrize(
    ("name", "length", "other"),
    [
        ("MT", 16_571, True),
        ("MT", 16_569, False),
        ("MT", 100, False),
        ("chrM", 16_571, False),
        ("NC_001807.4", 16_569, True),
        ("NC_012920.1", 16_571, True),
    ],
)
def test_some_names_mean_one_of_the_two_mitochondria(name: str, length: int, other: bool) -> None:
    assert is_other_mitochondrion(name, length) is other


@pytest.mark.parametrize(
    ("assembly", "build"), [("GRCh37", "hg19"), ("GRCh38", "hg38"), ("T2T-CHM13", "hs1")]
)
def test_lengths_and_names_are_those_that_bioframe_knows(assembly: str, build: str) -> None:
    known = bioframe.assembly_info(build)
    nuclear = [name for name in CHROMOSOMES if name != "MT"]
    lengths = {f"chr{name}": int(known.chromsizes[f"chr{name}"]) for name in nuclear}
    for name, length in lengths.items():
        assert recognise({name: length}) == assembly
        assert fitting({name: length}) != fitting({name: length + 1})
    for alias, name in known.alias_dict.items():
        if name in lengths and alias.startswith("NC_"):
            assert chromosome(alias) == (name.removeprefix("chr"), assembly)
        elif name in lengths and len(alias) <= 2:
            assert chromosome(alias) == (name.removeprefix("chr"), None)
