from __future__ import annotations

import logging
from pathlib import Path

import pytest

from genobird.errors import AssemblyError
from genobird.genome import locus
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status, Variant
from tests.conftest import random_dna, write_fasta

CHR21 = {"GRCh37": 48_129_895, "GRCh38": 46_709_983, "T2T-CHM13": 45_090_682}


class Paper:
    """A genome of which only the lengths of the contigs are known."""

    def __init__(self, **contigs: int) -> None:
        self.contigs = contigs
        self.path = Path("genome.fa")
        self.assembly = locus.assemblies.recognise(contigs)


def header(*lines: str) -> list[str]:
    return ["##fileformat=VCFv4.2", *lines, "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]


def contig(name: str, length: int | None = None, assembly: str | None = None) -> str:
    facts = [f"ID={name}"]
    facts += [f"length={length}"] if length else []
    facts += [f"assembly={assembly}"] if assembly else []
    return f"##contig=<{','.join(facts)}>"


def chain_between(folder: Path, source: int, target: int) -> ChainFile:
    path = folder / "a.chain"
    path.write_text(f"chain 1 chr21 {source} + 0 9 chr21 {target} + 0 9 1\n9\n")
    return ChainFile(path)


@pytest.mark.parametrize(
    ("lines", "assembly"),
    [
        ([contig("chr21", CHR21["GRCh37"])], "GRCh37"),
        ([contig("21", CHR21["GRCh38"])], "GRCh38"),
        ([contig("NC_060945.1", CHR21["T2T-CHM13"])], "T2T-CHM13"),
        ([contig("21", assembly="b37"), contig("X", assembly="b37")], "GRCh37"),
        (['##contig=<ID=21,assembly="GRCh38.p13",species="human, x">'], "GRCh38"),
        (["##reference=file:///somewhere/hs37d5.fa.gz"], "GRCh37"),
        (["##reference=ftp://x/human_g1k_v37.fasta\r"], "GRCh37"),
        (["##reference=chm13v2.0.fa"], "T2T-CHM13"),
        (["##reference=hg19.fa", contig("21", CHR21["GRCh38"])], "GRCh38"),
        (["##reference=hg19.fa", contig("21", assembly="GRCh38")], None),
        (["##reference=mm10.fa", contig("21")], None),
        (["##source=hg19"], None),
        ([], None),
    ],
)
def test_a_header_names_its_assembly_by_lengths_or_else_by_names(
    lines: list[str], assembly: str | None
) -> None:
    assert locus.assembly_of(header(*lines)) == assembly


@pytest.mark.parametrize("theirs", CHR21)
@pytest.mark.parametrize("mine", CHR21)
def test_variants_and_genome_must_be_of_one_assembly(mine: str, theirs: str) -> None:
    genome = Paper(chr21=CHR21[mine])
    lines = header(contig("21", CHR21[theirs]), contig("GL000191.1", 106433))
    if mine == theirs:
        locus.place_on(genome, 10, "in.vcf", lines)
        return
    with pytest.raises(
        AssemblyError,
        match=rf"in.vcf is of another assembly than genome.fa: it is {theirs}, the other {mine} "
        rf"\(contig 21 has {CHR21[theirs]:,} bp, there {CHR21[mine]:,} bp\); give the FASTA",
    ):
        locus.place_on(genome, 10, "in.vcf", lines)


def test_a_name_alone_is_enough_to_differ() -> None:
    with pytest.raises(AssemblyError, match="it is GRCh38, the other GRCh37; give the FASTA"):
        locus.place_on(Paper(chr21=CHR21["GRCh37"]), 10, "x", header("##reference=hg38.fa"))


@pytest.mark.parametrize(
    ("lines", "differs"),
    [
        ([contig("chr1", 100)], True),
        ([contig("1", 100), contig("scaffold", 7)], True),
        ([contig("chr1", 100), contig("chr2", 60)], False),  # one contig was patched
        ([contig("chr1"), contig("chr9", 100)], False),
        ([contig("scaffold", 7)], False),
    ],
)
def test_for_other_genomes_the_lengths_of_shared_contigs_decide(
    lines: list[str], differs: bool
) -> None:
    genome = Paper(chr1=50, chr2=60)
    if not differs:
        locus.place_on(genome, 10, "x", header(*lines))
        return
    with pytest.raises(AssemblyError, match=r"contig (chr)?1 has 100 bp, there 50 bp"):
        locus.place_on(genome, 10, "x", header(*lines))


def test_who_insists_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lines = header(contig("21", CHR21["GRCh38"]))
    with caplog.at_level(logging.WARNING):
        locus.place_on(Paper(chr21=CHR21["GRCh37"]), 10, "x", lines, strict=False)
    assert caplog.text.count("is of another assembly") == 1
    assert "--ignore-build" not in caplog.text


@pytest.mark.parametrize("source", CHR21)
@pytest.mark.parametrize("target", CHR21)
def test_a_chain_must_lead_from_the_variants_to_the_genome(
    tmp_path: Path, source: str, target: str
) -> None:
    chain = chain_between(tmp_path, CHR21[source], CHR21[target])
    genome, lines = Paper(chr21=CHR21["GRCh37"]), header(contig("21", CHR21["GRCh38"]))
    if target != "GRCh37":
        with pytest.raises(AssemblyError, match=f"a.chain leads to .*: it is {target}, the other"):
            locus.place_on(genome, 10, "in.vcf", lines, chain=chain)
    elif source != "GRCh38":
        with pytest.raises(
            AssemblyError,
            match=rf"in.vcf is of another assembly than the start of .*a.chain: it is GRCh38, the "
            rf"other {source}.*; give the chain from their assembly",
        ):
            locus.place_on(genome, 10, "in.vcf", lines, chain=chain)
    else:
        assert locus.place_on(genome, 10, "in.vcf", lines, chain=chain).chain is chain


@pytest.mark.parametrize(
    ("mine", "theirs", "same"), [(16571, 16569, False), (16569, 16571, False), (16569, 16569, True)]
)
def test_the_mitochondria_of_hg19_and_grch37_are_told_apart(
    mine: int, theirs: int, same: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sequence = random_dna(mine, seed=9)
    genome = Genome(write_fasta(tmp_path / "x.fa", {"chr21": "ACGT", "chrM": sequence}))
    variant = Variant("chrM", 99, sequence[99], "AC"[sequence[99] == "A"])
    with caplog.at_level(logging.WARNING):
        locator = locus.place_on(genome, 10, "in.vcf", header(contig("M", theirs)))
    assert locator.find(variant).status is (Status.OK if same else Status.NO_CONTIG)
    assert ("hg19 and GRCh37 differ in it" in caplog.text) != same
    assert ("NC_001807" in caplog.text and "rCRS" in caplog.text) != same


def test_mt_is_no_name_for_the_mitochondrion_of_hg19(tmp_path: Path) -> None:
    genome = Genome(write_fasta(tmp_path / "x.fa", {"chrM": random_dna(16571, seed=9)}))
    for name in ("MT", "NC_012920.1"):
        with pytest.raises(
            AssemblyError, match=r"another mitochondrial sequence than chrM.*16,571"
        ):
            genome.resolve(name)
    assert [genome.resolve(name) for name in ("M", "chrM", "NC_001807.4")] == ["chrM"] * 3
    rcrs = Genome(write_fasta(tmp_path / "y.fa", {"MT": random_dna(16569, seed=9)}))
    assert rcrs.resolve("chrM") == rcrs.resolve("NC_012920.1") == "MT"
    with pytest.raises(AssemblyError, match="another mitochondrial sequence"):
        rcrs.resolve("NC_001807.4")


@pytest.fixture
def bases(tiny_contigs: dict[str, str]) -> str:
    return tiny_contigs["chr1"]


def records(bases: str, kinds: str) -> list[list[Variant]]:
    """One record a letter: right, swapped, neither allele right, symbolic, off the contig."""
    made = []
    for number, kind in enumerate(kinds):
        at = 100 + 7 * number
        ref = bases[at]
        others = [base for base in "ACGT" if base != ref]
        made.append(
            {
                "r": [Variant("chr1", at, ref, others[0])],
                "s": [Variant("chr1", at, others[0], others[1]), Variant("1", at, others[0], ref)],
                "n": [Variant("chr1", at, others[0], others[1])],
                "d": [Variant("chr1", at, ref, "<DEL>")],
                "o": [Variant("chr1", 10**6, "A", "C")],
            }[kind]
        )
    return made


@pytest.mark.parametrize(
    ("kinds", "other"),
    [
        ("r" * 70 + "n" * 30, True),
        ("n" * 20, True),
        ("n" * 19, False),  # too few for a verdict
        ("n" * 19 + "d" * 50 + "o" * 50, False),
        ("r" * 85 + "n" * 15, False),
        ("s" * 100, False),  # REF and ALT swapped is no other assembly
        ("r" * 50 + "s" * 40 + "n" * 10, False),
    ],
)
def test_variants_that_share_no_allele_with_the_genome_are_of_another_assembly(
    tiny_genome_path: Path, bases: str, kinds: str, other: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first = records(bases, kinds)
    with Genome(tiny_genome_path) as genome:
        if not other:
            locus.place_on(genome, 10, "in.vcf", first=first)
            return
        strange, compared = kinds.count("n"), len(kinds)
        reason = f"{strange} of its first {compared} records have neither REF nor ALT"
        with pytest.raises(AssemblyError, match=reason):
            locus.place_on(genome, 10, "in.vcf", first=first)
        with caplog.at_level(logging.WARNING):
            locus.place_on(genome, 10, "in.vcf", first=first, strict=False)
        assert reason in caplog.text


@pytest.mark.parametrize(
    ("ends", "question"),
    [
        ({"chr20": 64_000_000}, "is it from GRCh38 or T2T-CHM13? the FASTA is GRCh37"),
        ({"chr20": 64_000_000, "21": 46_000_000}, "is it from GRCh38? the FASTA is GRCh37"),
        ({"chr20": 10**9}, "is it from another assembly? the FASTA is GRCh37"),
        ({"scaffold": 10**9}, "is it from another assembly? the FASTA is GRCh37"),
    ],
)
def test_positions_behind_an_end_say_which_assembly_they_fit(
    ends: dict[str, int], question: str
) -> None:
    assert locus.beyond(ends, Paper(chr21=CHR21["GRCh37"]), "it") == question
    assert locus.beyond(ends, Paper(chr1=50), "it") == "is it from another assembly?"


@pytest.mark.parametrize(
    ("provenance", "contigs", "warned"),
    [
        ({"assembly": "GRCh37"}, {"chr21": CHR21["GRCh38"]}, True),
        ({"assembly": "GRCh37"}, {"chr21": CHR21["GRCh37"]}, False),
        ({"assembly": "GRCh37"}, {"chr1": 50}, False),
        ({}, {"chr21": CHR21["GRCh38"]}, False),
    ],
)
def test_a_genome_of_another_assembly_than_the_models_is_said_and_no_error(
    provenance: dict[str, str],
    contigs: dict[str, int],
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        locus.warn_of_training(provenance, Paper(**contigs))
    assert ("is GRCh38, the model learnt from GRCh37" in caplog.text) == warned
