from __future__ import annotations

from pathlib import Path

import pytest

from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator, Locus
from genobird.genome.variant import Status, Variant
from genobird.genome.vcf import VcfReader
from tests.conftest import write_fasta

# Bases 10 to 30 of the old chr1 are the reverse complement of bases 5 to 25 of the new one.
OLD = "ACGTTGCAAC" + "TTTGACCATGCAAGTCCGTA" + "GATTACAGAT"
NEW = "CCCCC" + "TACGGACTTGCATGGTCAAA" + "GGGGG"
CHAIN = "chain 1 chr1 40 + 10 30 chr1 30 - 5 25 1\n20\n"


@pytest.fixture
def locator(tmp_path: Path) -> Locator:
    (tmp_path / "a.chain").write_text(CHAIN)
    genome = Genome(write_fasta(tmp_path / "new.fa", {"chr1": NEW}))
    return Locator(genome, 100, ChainFile(tmp_path / "a.chain"))


def test_each_base_is_found_on_the_other_strand_of_the_new_assembly(locator: Locator) -> None:
    for position in range(10, 30):
        variant = Variant("1", position, OLD[position], "AC"[OLD[position] == "A"])
        locus = locator.find(variant)
        assert locus.status is Status.OK
        assert locus.place is not None
        assert locus.place.start == locus.variant.position == 34 - position
        assert NEW[locus.variant.position] == locus.variant.ref
        assert locus.place.strand == "-"


@pytest.mark.parametrize(
    ("variant", "status"),
    [
        (Variant("1", 9, "C", "A"), Status.NOT_LIFTED),
        (Variant("1", 29, "AG", "A"), Status.NOT_LIFTED),
        (Variant("7", 12, "T", "A"), Status.NOT_LIFTED),
        (Variant("1", 9, "C", "<DEL>"), Status.NOT_LIFTED),
        (Variant("1", 9, "C", "."), Status.MISSING_ALT),
        (Variant("1", 12, "T", "<DEL>"), Status.SYMBOLIC),
        (Variant("1", 12, "T", "t"), Status.NON_VARIANT),
        (Variant("1", 12, "N", "A"), Status.AMBIGUOUS_BASE),
        (Variant("1", 12, "A", "T"), Status.REF_MISMATCH),
        (Variant("1", 12, "TGA", "T"), Status.OK),
    ],
)
def test_a_lifted_variant_has_one_status(
    locator: Locator, variant: Variant, status: Status
) -> None:
    locus = locator.find(variant)
    assert locus.status is status
    assert (locus.place is None) == (status in (Status.NOT_LIFTED, Status.MISSING_ALT))


def test_alleles_that_the_new_assembly_has_swapped_are_told_from_others(locator: Locator) -> None:
    swapped = locator.find(Variant("1", 12, "A", "T"))
    neither = locator.find(Variant("1", 12, "A", "C"))
    assert locator.is_swapped(swapped)
    assert locator.swapped(swapped).variant == Variant("chr1", 22, "A", "T")
    assert not locator.is_swapped(neither)
    assert not locator.is_swapped(locator.find(Variant("1", 12, "T", "A"))), "REF is right"


def test_without_a_chain_a_variant_lies_where_it_says(tmp_path: Path) -> None:
    genome = Genome(write_fasta(tmp_path / "new.fa", {"chr1": NEW, "chrM": NEW}))
    locator = Locator(genome, 5, absent={"chrM"})
    variant = Variant("1", 5, "T", "A")
    assert locator.find(variant) == Locus(variant, Status.OK)
    assert locator.find(Variant("1", 5, "T", "TAAAAA")).status is Status.TOO_LONG
    assert locator.find(Variant("chrM", 5, "T", "A")).status is Status.NO_CONTIG
    assert locator.find(Variant("chrM", 5, "T", ".")).status is Status.MISSING_ALT


@pytest.mark.realdata
def test_real_variants_come_back_from_the_other_assembly_with_their_ref(shared_data: Path) -> None:
    there, back = (
        ChainFile(shared_data / "liftover" / f"{name}.over.chain.gz")
        for name in ("hg19ToHg38", "hg38ToHg19")
    )
    lost, found = 0, 0
    with (
        Genome(shared_data / "genome" / "chr20.fa.gz") as genome,
        VcfReader(shared_data / "variants" / "1000g_phase3_sites.chr20_1-2Mb.vcf.gz") as reader,
    ):
        locator = Locator(genome, 8_000, back)
        for record in reader:
            for variant in record.variants() if record.number % 10 == 0 else ():
                moved = there.lift_variant(variant)
                if moved is None:
                    lost += 1
                    continue
                locus = locator.find(moved[0])
                assert locus.variant.position == variant.position
                symbolic = variant.alt.startswith("<")
                assert locus.status is (Status.SYMBOLIC if symbolic else Status.OK)
                found += 1
    assert found > 2_800
    assert lost <= 1
