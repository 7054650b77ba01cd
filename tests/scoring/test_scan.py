from __future__ import annotations

from dataclasses import replace

import pytest

from genobird.errors import AssemblyError
from genobird.genome.variant import Status, Variant
from genobird.genome.vcf import Record
from genobird.scoring import scan
from genobird.scoring.alleles import VariantSource
from genobird.scoring.scan import Batch, VariantScan
from genobird.scoring.settings import ScanSettings
from tests.scoring.stubs import Screen, stub_screen

AT = 1_000


@pytest.fixture(autouse=True)
def screen(monkeypatch, scorer) -> Screen:
    monkeypatch.setattr(scorer, "chunk", 2)
    return stub_screen(monkeypatch)


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


@pytest.fixture
def pushed(scorer, genome, kinds):
    """Push records of these letters, two a chunk; return the batches and the statuses' counts."""

    def push(letters: str, policy: str = "flag", text: str = ""):
        rows = [Record.of_variants(n, (kinds[letter],)) for n, letter in enumerate(letters)]
        records = [replace(row, rest=text) for row in rows]
        batches: list[Batch] = []
        source = VariantSource("letters", iter(records))
        counts = VariantScan(scorer, source, genome, ScanSettings(policy)).run([batches.append])
        assert [record for batch in batches for record in batch.records] == records
        for batch in batches:
            variants = [allele.variant for allele in batch.alleles]
            assert [locus.variant for locus in batch.loci] == variants
            assert len(batch.table) == len(variants)
        return batches, counts

    return push


def cut(pushed, letters: str, *arguments: str) -> list[tuple[str, bool]]:
    """The letters of each batch, and whether something is scored in it."""
    batches, _ = pushed(letters, *arguments)
    return [
        ("".join(letters[record.number] for record in batch.records), batch.is_scored)
        for batch in batches
    ]


def test_chunks_without_a_score_are_joined_and_others_stay_alone(pushed):
    assert cut(pushed, "ddmdxdsdssdddmsd") == [
        ("ddmdxd", False),
        ("sd", True),
        ("ss", True),
        ("dddm", False),
        ("sd", True),
    ]


def test_what_the_policy_scores_counts_as_scored(pushed):
    found = cut(pushed, "dmxmmd", "swap")
    assert found == [("dm", False), ("xm", True), ("md", False)]
    assert cut(pushed, "dmxmmd", "skip") == [("dmxmmd", False)]


def test_a_mismatch_that_is_an_error_ends_the_run_where_it_stands(pushed, screen):
    with pytest.raises(AssemblyError, match=f"REF . at chr1:{AT + 1} is"):
        pushed("sddm", "error")
    assert screen.scored == 1


def test_joined_chunks_are_handed_on_when_they_hold_enough(pushed, monkeypatch):
    monkeypatch.setattr(scan, "_ALLELES", 4)
    assert cut(pushed, "d" * 9) == [("dddd", False), ("dddd", False), ("d", False)]


def test_joined_chunks_hold_little_text(pushed, monkeypatch):
    monkeypatch.setattr(scan, "_CHARACTERS", 40)
    batches, _ = pushed("d" * 10, text="x" * 12)
    assert [len(batch.records) for batch in batches] == [4, 4, 2]


def test_every_sink_gets_a_batch_even_without_records(pushed):
    batches, counts = pushed("")
    assert [batch.records for batch in batches] == [[]]
    assert not counts


def test_statuses_are_those_of_the_locator(pushed):
    batches, counts = pushed("md")
    statuses = [locus.status for locus in batches[0].loci]
    assert statuses == [Status.REF_MISMATCH, Status.SYMBOLIC]
    assert counts == {"REF_MISMATCH": 1, "SYMBOLIC": 1}
