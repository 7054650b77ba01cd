from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from genobird.errors import ContigError, OutOfBoundsError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.variant import (
    Status,
    Variant,
    check,
    left_align,
    parse_variant,
    trim,
    windows,
)
from genobird.genome.vcf import VcfReader
from tests.conftest import write_fasta

DNA = st.text("ACGT", min_size=1, max_size=12)


@pytest.fixture(scope="module")
def genome(tiny_genome_path: Path) -> Genome:
    return Genome(tiny_genome_path)


def small_genome(folder: Path, sequence: str) -> Genome:
    return Genome(write_fasta(folder / "x.fa", {"chr1": sequence}))


def applied(sequence: str, variant: Variant) -> str:
    assert sequence[variant.position : variant.end] == variant.ref
    return sequence[: variant.position] + variant.alt + sequence[variant.end :]


@pytest.mark.parametrize(
    "text",
    [
        "chr20-1000-A-G",
        "chr20:1000:A>G",
        "chr20:1000:A:G",
        "chr20:1000-A-G",
        "chr20:1,000 a g",
        "chr20_1000_A_G",
        "chr20:g.1000A>G",
        " chr20:1000:A/G ",
    ],
)
def test_common_spellings_of_a_variant_are_read(text: str) -> None:
    assert parse_variant(text) == Variant("chr20", 999, "A", "G")


@given(st.text("abcXYZ019:|-_.*", min_size=1), st.integers(0, 3 * 10**9), DNA, DNA)
def test_a_variant_in_text_round_trips(contig: str, position: int, ref: str, alt: str) -> None:
    variant = Variant(contig, position, ref, alt)
    assert parse_variant(str(variant)) == variant
    assert parse_variant(f"{contig}-{position + 1}-{ref}-{alt}") == variant


def test_accessions_and_symbols_are_read() -> None:
    assert parse_variant("NC_000020.10:g.5A>G") == Variant("NC_000020.10", 4, "A", "G")
    assert parse_variant("1-5-A-<DEL>").alt == "<DEL>"
    assert parse_variant("1-5-A-*").alt == "*"


@pytest.mark.parametrize("text", ["", "rs123", "chr1:5", "chr1:0:A>G", "chr1:5:A", "chr1:x:A>G"])
def test_a_bad_variant_is_a_misuse(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read; write it 1-based as chr20:1000:A>G"):
        parse_variant(text)


@pytest.mark.parametrize(
    ("ref", "alt", "position", "expected"),
    [
        ("A", "G", 10, (10, "A", "G")),
        ("ACC", "ACG", 10, (12, "C", "G")),
        ("CACA", "CA", 10, (10, "CAC", "C")),
        ("CCA", "CA", 10, (10, "CC", "C")),
        ("ag", "atg", 10, (10, "A", "AT")),
        ("ACGT", "ATTT", 10, (11, "CG", "TT")),
        ("A", "<DEL>", 10, (10, "A", "<DEL>")),
        ("A", "*", 10, (10, "A", "*")),
        ("AC", "AC", 10, (10, "AC", "AC")),
    ],
)
def test_shared_bases_are_trimmed(
    ref: str, alt: str, position: int, expected: tuple[int, str, str]
) -> None:
    assert trim(Variant("1", position, ref, alt)) == Variant("1", *expected)


@given(DNA, DNA, DNA, DNA)
def test_trimming_keeps_the_change_and_is_idempotent(
    before: str, ref: str, alt: str, after: str
) -> None:
    sequence = before + ref + after
    variant = Variant("1", len(before), ref, alt)
    trimmed = trim(variant)
    assert applied(sequence, trimmed) == applied(sequence, variant)
    assert trim(trimmed) == trimmed
    assert min(len(trimmed.ref), len(trimmed.alt)) >= 1


@settings(max_examples=200)
@given(st.text("AC", min_size=1, max_size=30), st.data())
def test_left_aligning_keeps_the_change_and_is_the_same_for_all_spellings(
    tmp_path_factory: pytest.TempPathFactory, sequence: str, data: st.DataObject
) -> None:
    genome = small_genome(tmp_path_factory.mktemp("g"), sequence)
    start = data.draw(st.integers(0, len(sequence) - 1))
    end = data.draw(st.integers(start + 1, len(sequence)))
    variant = Variant(
        "chr1", start, sequence[start:end], data.draw(st.text("AC", min_size=1, max_size=6))
    )
    assume(variant.ref != variant.alt)
    aligned = left_align(variant, genome)
    target = applied(sequence, variant)
    assert applied(sequence, aligned) == target
    assert aligned.position <= trim(variant).position
    assert left_align(aligned, genome) == aligned
    if len(sequence) == len(target):
        return
    for at in range(len(sequence)):
        for size in range(1, min(4, len(sequence) - at) + 1):
            alt_size = size + len(target) - len(sequence)
            other = Variant("chr1", at, sequence[at : at + size], target[at : at + alt_size])
            if alt_size >= 1 and applied(sequence, other) == target:
                assert left_align(other, genome) == aligned


def test_left_aligning_goes_through_long_repeats_to_the_contig_start(tmp_path: Path) -> None:
    genome = small_genome(tmp_path, "CA" * 2000 + "GGG")
    moved = left_align(Variant("1", 3997, "ACA", "A"), genome)
    assert moved == Variant("1", 0, "CAC", "C")
    moved = left_align(Variant("1", 3999, "A", "ACA"), genome)
    assert moved == Variant("1", 0, "C", "CAC")


def test_left_aligning_stops_at_n(tmp_path: Path) -> None:
    genome = small_genome(tmp_path, "AANNAAAAT")
    assert left_align(Variant("1", 6, "AA", "A"), genome) == Variant("1", 4, "AA", "A")


@pytest.mark.parametrize(
    ("variant", "status"),
    [
        (("1", 100, "REF", "x"), Status.OK),
        (("chr1", 100, "ref", "x"), Status.OK),
        (("NC_000001.10", 100, "REF", "x"), Status.OK),
        (("chr1", 100, "other", "G"), Status.REF_MISMATCH),
        (("chr1", 0, "REF", "x"), Status.OK),
        (("chr1", 59_999, "REF", "x"), Status.OK),
        (("chr1", 60_000, "A", "C"), Status.OUT_OF_BOUNDS),
        (("chr1", 59_999, "AC", "A"), Status.OUT_OF_BOUNDS),
        (("chr1", -1, "A", "C"), Status.OUT_OF_BOUNDS),
        (("chr7", 100, "A", "C"), Status.NO_CONTIG),
        (("NC_000001.11", 100, "A", "C"), Status.NO_CONTIG),
        (("chr1", 100, "REF", "."), Status.MISSING_ALT),
        (("chr1", 100, "REF", ""), Status.MISSING_ALT),
        (("chr1", 100, "REF", "*"), Status.SYMBOLIC),
        (("chr1", 100, "REF", "<DEL>"), Status.SYMBOLIC),
        (("chr1", 100, "REF", "<*>"), Status.SYMBOLIC),
        (("chr1", 100, "REF", "A[chr2:5["), Status.SYMBOLIC),
        (("chr1", 100, "REF", "]chr2:5]A"), Status.SYMBOLIC),
        (("chr1", 100, "REF", "A."), Status.SYMBOLIC),
        (("chr1", 100, "REF", ".A"), Status.SYMBOLIC),
        (("chr1", 100, "REF", "same"), Status.NON_VARIANT),
        (("chr1", 100, "R", "A"), Status.AMBIGUOUS_BASE),
        (("chr1", 100, "REF", "N"), Status.AMBIGUOUS_BASE),
        (("chrN", 10, "N", "A"), Status.AMBIGUOUS_BASE),
        (("chrN", 10, "A", "C"), Status.AMBIGUOUS_BASE),
        (("chr1", 100, "REF", "A" * 8001), Status.TOO_LONG),
    ],
)
def test_every_alt_has_one_status(
    variant: tuple[str, int, str, str], status: Status, genome: Genome, tiny_contigs: dict[str, str]
) -> None:
    contig, position, ref, alt = variant
    base = tiny_contigs["chr1"][position : position + 1]
    other = "A" if base != "A" else "C"
    ref = {"REF": base, "ref": base.lower(), "other": other}.get(ref, ref)
    alt = {"x": other, "same": ref.lower()}.get(alt, alt)
    assert check(Variant(contig, position, ref, alt), genome) is status


def test_the_length_of_an_allele_is_counted_after_trimming(genome: Genome) -> None:
    bases, _ = genome.fetch_clipped("chr1", 100, 220)
    other = "A" if bases[-1] != "A" else "C"
    assert check(Variant("chr1", 100, bases, bases[:-1] + other), genome, flank=50) is Status.OK
    assert check(Variant("chr1", 100, bases, bases[0]), genome, flank=50) is Status.TOO_LONG


@settings(max_examples=300)
@given(st.data())
def test_applying_alt_then_ref_restores_the_window(
    genome: Genome, tiny_contigs: dict[str, str], data: st.DataObject
) -> None:
    sequence = tiny_contigs["chr2"]
    near_ends = st.integers(0, 80) | st.integers(len(sequence) - 80, len(sequence) - 1)
    position = data.draw(near_ends | st.integers(0, len(sequence) - 1))
    end = min(len(sequence), position + data.draw(st.integers(1, 20)))
    variant = Variant("chr2", position, sequence[position:end], data.draw(DNA))
    before, after = data.draw(st.integers(0, 100)), data.draw(st.integers(30, 100))
    ref, alt = windows(variant, genome, before, after)

    mutated = applied(sequence, variant)
    lacking = max(0, min(after, len(mutated) - position) - (len(sequence) - position))
    start = max(0, position - before - lacking)
    assert ref.text == sequence[start : position + after]
    assert ref.place == position - start
    assert len(alt.text) == len(ref.text)

    alt_start = position - alt.place
    assert alt.text == mutated[alt_start : alt_start + len(alt.text)]
    anchor = alt.place
    # Near the end of the contig the allele may be longer than the window's right side.
    room = len(alt.text) - anchor
    assert alt.text[anchor : anchor + len(variant.alt)] == variant.alt[:room]
    if room >= len(variant.alt):
        restored = alt.text[:anchor] + variant.ref + alt.text[anchor + len(variant.alt) :]
        assert sequence[alt_start:].startswith(restored)
    if alt.place > ref.place:
        assert alt_start + len(alt.text) == len(mutated), "more on the left only at the contig end"


@settings(max_examples=60)
@given(st.data())
def test_windows_are_the_same_from_the_genome_that_has_alt(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sequence = data.draw(st.text("ACGT", min_size=8, max_size=40))
    position = data.draw(st.integers(0, len(sequence) - 1))
    end = min(len(sequence), position + data.draw(st.integers(1, 6)))
    variant = Variant("1", position, sequence[position:end], data.draw(DNA))
    before, after = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 12))
    folder = tmp_path_factory.mktemp("genomes")
    with small_genome(folder, sequence) as genome:
        ref, alt = windows(variant, genome, before, after)
    turned = Variant("1", position, variant.alt, variant.ref)
    with small_genome(folder, applied(sequence, variant)) as genome:
        assert windows(turned, genome, before, after) == (alt, ref)


def test_windows_at_the_contig_ends_are_clipped_and_equally_long(tmp_path: Path) -> None:
    genome = small_genome(tmp_path, "AACCGGTTAC")
    assert windows(Variant("1", 0, "A", "T"), genome, 3, 4) == (("AACC", 0), ("TACC", 0))
    assert windows(Variant("1", 4, "G", "GTT"), genome, 2, 4) == (("CCGGTT", 2), ("CCGTTG", 2))
    assert windows(Variant("1", 4, "GGT", "G"), genome, 2, 4) == (("CCGGTT", 2), ("CCGTAC", 2))
    assert windows(Variant("1", 7, "TAC", "T"), genome, 2, 5) == (("GTTAC", 2), ("CGGTT", 4))
    assert windows(Variant("1", 0, "AACCGGTTAC", "A"), genome, 20, 20) == (
        ("AACCGGTTAC", 0),
        ("A", 0),
    ), "the contig has no more bases"
    assert windows(Variant("1", 9, "C", "CGG"), genome, 2, 5) == (("GTTAC", 4), ("TACGG", 2)), (
        "an insertion behind the last base is seen"
    )


def test_a_variant_off_the_contig_has_no_windows(genome: Genome) -> None:
    with pytest.raises(OutOfBoundsError, match=r"chr2:30001:A>C does not lie on chr2 \(30,000 bp"):
        windows(Variant("chr2", 30_000, "A", "C"), genome, 10, 10)
    with pytest.raises(ContigError, match="chr7"):
        windows(Variant("chr7", 30_000, "A", "C"), genome, 10, 10)


@pytest.mark.realdata
def test_left_aligning_agrees_with_vt_normalize(shared_data: Path) -> None:
    folder = shared_data / "variants"
    found, expected = [], []
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        with VcfReader(folder / "vt_normalize_input.chr20.vcf.gz") as reader:
            for record in reader:
                assert len(record.alts) == 1
                [variant] = record.variants()
                assert check(variant, genome) is Status.OK
                found.append(left_align(variant, genome))
        with VcfReader(folder / "vt_normalize_expected.chr20.vcf.gz") as reader:
            expected = [record.variants()[0] for record in reader]
    assert len(expected) == 179
    key = str
    assert sorted(found, key=key) == sorted(expected, key=key)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "step", "count"),
    [
        ("1000g_phase3_sites.chr20_1-2Mb.vcf.gz", 20, 1450),
        ("common_snps.chr20_chrX.vcf.gz", 5, 1300),
        ("giab_nist.chr20_100kb_at_10Mb.vcf.gz", 1, 221),
    ],
)
def test_published_sites_have_the_ref_of_the_genome(
    name: str, step: int, count: int, shared_data: Path
) -> None:
    statuses = []
    with (
        Genome(shared_data / "genome" / "chr20.fa.gz") as genome,
        VcfReader(shared_data / "variants" / name) as reader,
    ):
        for record in reader:
            if record.number % step == 0 and record.contig == "chr20":
                statuses += [(check(v, genome), v.alt) for v in record.variants()]
    assert len(statuses) >= count
    assert {status for status, alt in statuses if not alt.startswith("<")} == {Status.OK}
    assert {status for status, alt in statuses if alt.startswith("<")} <= {Status.SYMBOLIC}
