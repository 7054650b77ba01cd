from __future__ import annotations

import pytest

from genobird.errors import AssemblyError
from genobird.genome.locus import Locator
from genobird.genome.variant import Status, Variant
from genobird.scoring import parts
from genobird.scoring.alleles import Allele, RefMismatch
from genobird.scoring.parts import parts_of

AT = 1_000


@pytest.fixture
def locator(genome) -> Locator:
    return Locator(genome, 8_000)


@pytest.fixture
def kinds(tiny_contigs) -> dict[str, Variant]:
    """An ALT of each kind, by a letter: scored, exchanged, mismatched, and a deletion in words."""
    ref = tiny_contigs["chr1"][AT]
    one, other = [base for base in "ACGT" if base != ref][:2]
    return {
        "s": Variant("chr1", AT, ref, one),
        "x": Variant("chr1", AT, one, ref),
        "m": Variant("chr1", AT, one, other),
        "d": Variant("chr1", AT, ref, "<DEL>"),
    }


def cut(kinds, letters: str, locator: Locator, policy=RefMismatch.FLAG, **options):
    """Chunks of two: the number of the last one of each part, its letters, whether it is scored."""
    alleles = [Allele(number, 1, kinds[letter]) for number, letter in enumerate(letters)]
    found = list(parts_of(alleles, Allele.variants, 2, locator, policy, **options))
    assert [allele for part in found for allele in part.items] == alleles
    for part in found:
        assert [locus.variant for locus in part.loci] == [one.variant for one in part.items]
    return [
        (part.last, "".join(letters[allele.record] for allele in part.items), part.is_scored)
        for part in found
    ]


def test_chunks_without_a_score_are_joined_and_others_stay_alone(kinds, locator):
    assert cut(kinds, "ddmdxdsdssdddmsd", locator) == [
        (2, "ddmdxd", False),
        (3, "sd", True),
        (4, "ss", True),
        (6, "dddm", False),
        (7, "sd", True),
    ]


def test_what_the_policy_scores_counts_as_scored(kinds, locator):
    found = cut(kinds, "dmxmmd", locator, RefMismatch.SWAP)
    assert found == [(0, "dm", False), (1, "xm", True), (2, "md", False)]
    assert cut(kinds, "dmxmmd", locator, RefMismatch.SKIP) == [(2, "dmxmmd", False)]


def test_a_mismatch_that_is_an_error_ends_the_run_where_it_stands(kinds, locator):
    alleles = [Allele(number, 1, kinds[letter]) for number, letter in enumerate("sddm")]
    found = parts_of(alleles, Allele.variants, 2, locator, RefMismatch.ERROR)
    assert next(found).is_scored
    with pytest.raises(AssemblyError, match=f"REF . at chr1:{AT + 1} is"):
        next(found)


def test_joined_chunks_are_handed_on_when_they_hold_enough(kinds, locator, monkeypatch):
    monkeypatch.setattr(parts, "_ALLELES", 4)
    found = cut(kinds, "d" * 9, locator)
    assert found == [(1, "dddd", False), (3, "dddd", False), (4, "d", False)]


def test_joined_chunks_hold_little_text(kinds, locator, monkeypatch):
    monkeypatch.setattr(parts, "_CHARACTERS", 40)
    sizes = {number: 30 if number == 2 else 10 for number in range(10)}
    found = cut(kinds, "d" * 10, locator, text=lambda allele: sizes[allele.record])
    assert [part[:2] for part in found] == [(1, "dddd"), (3, "dddd"), (4, "dd")]


def test_every_chunk_is_one_of_its_own_where_all_count_as_scored(kinds, locator):
    assert cut(kinds, "dddd", locator, always=True) == [(0, "dd", True), (1, "dd", True)]


def test_statuses_are_those_of_the_locator(kinds, locator):
    alleles = [Allele(0, 1, kinds["m"]), Allele(1, 1, kinds["d"])]
    (part,) = parts_of(alleles, Allele.variants, 16, locator, RefMismatch.FLAG)
    assert [locus.status for locus in part.loci] == [Status.REF_MISMATCH, Status.SYMBOLIC]
