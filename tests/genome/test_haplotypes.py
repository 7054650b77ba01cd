from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genobird.errors import UsageError, VcfError
from genobird.genome.fasta import Genome
from genobird.genome.haplotypes import (
    REACH,
    Edit,
    Phase,
    PhasedCalls,
    edit_of,
    genotype_of,
    haplotype_windows,
    together,
)
from genobird.genome.locus import Locator
from genobird.genome.variant import Variant, left_align, windows
from genobird.genome.vcf import VcfReader
from tests.conftest import random_dna, write_fasta

CONTIG = random_dna(90, seed=8) + "ACACACACACAC" + random_dna(48, seed=9)
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tother\tme\n"

bases = st.text("ACGT", max_size=4)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Genome]:
    contigs = {"c": CONTIG, "d": CONTIG[::-1]}
    with Genome(write_fasta(tmp_path_factory.mktemp("short") / "a.fa", contigs)) as genome:
        yield genome


def write_vcf(path: Path, rows: list[tuple[str, int, str, str, str]], keys: str = "GT") -> Path:
    """Rows are contig, 0-based position, REF, ALT and what FORMAT says of the sample `me`."""
    lines = [
        f"{contig}\t{position + 1}\t.\t{ref}\t{alt}\t.\t.\t.\t{keys}\t0|0\t{call}\n"
        for contig, position, ref, alt, call in rows
    ]
    path.write_text(HEADER + "".join(lines))
    return path


def calls_of(path: Path, genome: Genome, sample: str = "me") -> PhasedCalls:
    return PhasedCalls(path, sample, Locator(genome, 8_000))


def changed(contig: str, edits: list[Edit]) -> str:
    """Apply edits to a string, the last one first, so that none moves another."""
    for edit in sorted(edits, reverse=True):
        contig = contig[: edit.start] + edit.alt + contig[edit.end :]
    return contig


@st.composite
def separate_edits(draw: st.DrawFn) -> list[Edit]:
    kept: list[Edit] = []
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, len(CONTIG)))
        end = min(len(CONTIG), start + draw(st.integers(0, 5)))
        edit = Edit(start, end, draw(bases))
        if (start < end or edit.alt) and not any(edit.overlaps(other) for other in kept):
            kept.append(edit)
    return sorted(kept)


@given(separate_edits(), st.integers(0, len(CONTIG) - 1), st.integers(0, 200), st.integers(0, 200))
def test_haplotype_windows_are_cut_from_the_contig_with_all_edits_made(
    short, edits, position, before, after
):
    if any(edit.start < position < edit.end for edit in edits):
        return  # see the test of a base that is gone
    ahead = [edit for edit in edits if edit.end <= position and (edit.start < position or position)]
    anchor = len(changed(CONTIG[:position], ahead))
    whole = changed(CONTIG, edits)
    tails = [CONTIG[position : position + after], whole[anchor : anchor + after]]
    length = min(before, position) + max(map(len, tails))
    heads = [
        text[max(0, at - (length - len(tail))) : at]
        for text, at, tail in ((CONTIG, position, tails[0]), (whole, anchor, tails[1]))
    ]

    found = haplotype_windows(short, "c", edits, position, before, after)
    for window, head, tail in zip(found, heads, tails, strict=True):
        assert window.window.text == head + tail
        assert window.window.place == len(head)
    assert found[0].edits == ()
    applied = list(found[1].edits)
    assert applied == sorted(applied)
    assert haplotype_windows(short, "c", applied, position, before, after)[1] == found[1]
    single = haplotype_windows(short, "c", edits, position, before, after, alone=True)
    assert single[:2] == found
    assert len(single) == 2 + len(applied)
    for edit, window in zip(applied, single[2:], strict=True):
        assert len(window.window.text) <= before + after
        assert window.edits in ((edit,), ())  # another deletion may bring it into the window


def test_a_base_that_another_edit_deletes_is_where_the_edit_is(short):
    gone = haplotype_windows(short, "c", [Edit(50, 60, "")], 55, 10, 10)[1]
    assert gone.window.text == CONTIG[40:50] + CONTIG[60:70]
    assert gone.window.place == 10
    replaced = haplotype_windows(short, "c", [Edit(50, 60, "GGTT")], 52, 10, 10)[1]
    assert replaced.window.text == CONTIG[42:50] + "GGTT" + CONTIG[60:68]
    assert replaced.window.place == 10
    assert replaced.edits == (Edit(50, 60, "GGTT"),)


@given(st.integers(0, len(CONTIG) - 1), st.integers(1, 6), bases.filter(bool))
def test_with_one_variant_they_are_the_windows_that_a_variant_alone_has(short, position, cut, alt):
    ref = CONTIG[position : position + cut]
    variant = Variant("c", position, ref, alt)
    if ref == alt:
        return
    aligned = left_align(variant, short)
    for before, after in ((20, 20), (50, 30), (0, 5)):
        edit = edit_of(variant)
        found = haplotype_windows(short, "c", [edit], aligned.position, before, after, alone=True)
        ref, alt = windows(aligned, short, before, after)
        assert [one.window for one in found] == [ref, alt, alt][: len(found)]


@given(st.integers(0, 99), st.text("ACGT", min_size=1, max_size=5), bases.filter(bool))
def test_an_edit_is_what_an_allele_changes(position, ref, alt):
    edit = edit_of(Variant("c", position, ref, alt))
    contig = "N" * position + ref + "NN"
    assert changed(contig, [edit]) == "N" * position + alt + "NN"
    kept = contig[edit.start : edit.end]
    if kept and edit.alt:
        assert kept[0] != edit.alt[0]
        assert kept[-1] != edit.alt[-1]


@pytest.mark.parametrize(
    ("call", "phases", "haplotypes"),
    [
        ("0|1", "PHASED ABSENT", {1: (1,)}),
        ("1|0", "PHASED ABSENT", {1: (0,)}),
        ("1|1", "PHASED ABSENT", {1: (0, 1)}),
        ("1|2", "PHASED PHASED", {1: (0,), 2: (1,)}),
        ("2|2", "ABSENT PHASED", {2: (0, 1)}),
        ("0|0", "ABSENT ABSENT", {}),
        ("0/0", "ABSENT ABSENT", {}),
        (".|.", "MISSING MISSING", {}),
        ("./.", "MISSING MISSING", {}),
        (".", "MISSING MISSING", {}),
        ("0/1", "UNPHASED ABSENT", {}),
        ("1/2", "UNPHASED UNPHASED", {}),
        ("1/1", "PHASED ABSENT", {1: (0, 1)}),  # on both, whatever the phase
        (".|1", "PHASED MISSING", {1: (1,)}),
        ("1/.", "UNPHASED MISSING", {}),
        ("1", "PHASED ABSENT", {1: (0,)}),
        ("0", "ABSENT ABSENT", {}),
        ("0|1|1", "UNPHASED ABSENT", {}),
        ("1/1/1", "UNPHASED ABSENT", {}),
    ],
)
def test_each_kind_of_genotype_is_applied_or_said_not_to_be(
    short, tmp_path, call, phases, haplotypes
):
    ref = CONTIG[40]
    first, second = [base for base in "ACGT" if base != ref][:2]
    path = write_vcf(tmp_path / "a.vcf", [("c", 40, ref, f"{first},{second}", call)])
    calls = calls_of(path, short)
    calls.around(0, "c", 40)
    assert " ".join(calls.phases(0)) == phases
    found = {allele: calls.carried(0, allele) for allele in (1, 2)}
    assert {a: one.haplotypes for a, one in found.items() if one is not None} == haplotypes
    calls.close()


@pytest.mark.parametrize(
    ("keys", "call", "phase"),
    [
        ("DP", "3", Phase.MISSING),
        ("DP:GT", "3:0|1", Phase.PHASED),
        ("DP:GT", "3", Phase.MISSING),  # trailing fields may be left out
        ("GT:PS", "0|1\r", Phase.PHASED),
    ],
)
def test_a_genotype_is_found_wherever_format_has_it(tmp_path, keys, call, phase):
    path = write_vcf(tmp_path / "a.vcf", [("c", 40, "A", "C", call)], keys)
    with VcfReader(path) as reader:
        assert genotype_of(next(reader), 1).phase(1) is phase


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("a|b", "record 1, c:41: genotype 'a|b' cannot be read"),
        ("0|", "genotype '0|' cannot be read"),
        ("0|3", "genotype '0|3' names an ALT beyond the 1 there"),
    ],
)
def test_a_genotype_that_cannot_be_is_refused(short, tmp_path, call, message):
    calls = calls_of(write_vcf(tmp_path / "a.vcf", [("c", 40, "A", "C", call)]), short)
    with pytest.raises(VcfError, match=message.replace("|", r"\|")):
        calls.around(0, "c", 40)
    calls.close()


def snv(position: int, call: str) -> tuple[str, int, str, str, str]:
    ref = CONTIG[position]
    return "c", position, ref, "ACGT"[("ACGT".index(ref) + 1) % 4], call


def joined(calls: PhasedCalls, record: int, position: int, haplotype: int) -> list[int]:
    """Starts of the edits that are applied with the first ALT of a record."""
    near = calls.around(record, "c", position)
    focus = calls.carried(record, 1)
    assert focus is not None
    return [edit.start for edit in together(focus, haplotype, near)]


def test_only_alts_of_one_phase_set_are_applied_together(short, tmp_path):
    rows = [
        snv(10, "0|1:5"),
        snv(20, "1|0:5"),
        snv(30, "0|1:9"),
        snv(40, "1|1:."),
        snv(50, "0|1:."),
        snv(60, "0|1:."),
        snv(70, "1/1:5"),
    ]
    calls = calls_of(write_vcf(tmp_path / "a.vcf", rows, "GT:PS"), short)
    assert joined(calls, 0, 10, 1) == [10, 40, 70]
    assert joined(calls, 1, 20, 0) == [20, 40, 70]
    assert joined(calls, 2, 30, 1) == [30, 40, 70]
    # A homozygous one lies on both: it goes with the set of its nearest neighbour.
    assert joined(calls, 3, 40, 1) == [30, 40, 70]
    assert joined(calls, 3, 40, 0) == [20, 40, 70]
    # Without a phase set, all phased ones of a contig are of one.
    assert joined(calls, 4, 50, 1) == [40, 50, 60, 70]
    assert joined(calls, 6, 70, 1) == [40, 50, 60, 70]
    calls.close()


def test_of_overlapping_alts_the_first_is_kept_on_each_haplotype(short, tmp_path):
    def deletion(position: int, size: int, call: str) -> tuple[str, int, str, str, str]:
        return "c", position, CONTIG[position : position + size + 1], CONTIG[position], call

    rows = [
        deletion(10, 5, "0|1"),  # bases 11 to 15
        snv(10, "0|1"),  # its anchor is no change
        snv(13, "1|1"),  # gone on the second haplotype
        deletion(14, 4, "0|1"),  # gone in part
        snv(16, "0|1"),
        ("c", 16, CONTIG[16], f"{CONTIG[16]}TT", "0|1"),  # an insertion behind it
        ("c", 16, CONTIG[16], f"{CONTIG[16]}GG", "0|1"),  # another at the same place
    ]
    calls = calls_of(write_vcf(tmp_path / "a.vcf", rows), short)
    found = []
    for number, row in enumerate(rows):
        calls.around(number, "c", row[1])
        carried = calls.carried(number, 1)
        found.append((str(calls.phases(number)[0]), carried and carried.haplotypes))
    assert found == [
        ("PHASED", (1,)),
        ("PHASED", (1,)),
        ("PHASED", (0,)),
        ("OVERLAP", None),
        ("PHASED", (1,)),
        ("PHASED", (1,)),
        ("OVERLAP", None),
    ]
    calls.close()


def test_alts_that_cannot_be_scored_are_not_applied(short, tmp_path):
    rows = [
        ("c", 30, "ACGT"["ACGT".index(CONTIG[30]) - 1], CONTIG[30], "1|1"),
        ("c", 31, CONTIG[31], "<DEL>", "0|1"),
        ("c", 32, CONTIG[32], "*", "0|1"),
        ("x", 5, "A", "C", "0|1"),
    ]
    calls = calls_of(write_vcf(tmp_path / "a.vcf", rows), short)
    for number, (contig, position, *_) in enumerate(rows):
        assert calls.around(number, contig, position) == []
        assert calls.phases(number) == (Phase.UNSCORED,)
    calls.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_haplotypes_of_a_file_are_those_of_a_slow_reading(short, tmp_path, data):
    rows = []
    for contig, text in (("c", CONTIG), ("d", CONTIG[::-1])):
        places = sorted(data.draw(st.lists(st.integers(0, 149), max_size=8)))
        for place in places:
            ref = text[place : place + data.draw(st.integers(1, 4))]
            alt = data.draw(bases.filter(lambda alt, ref=ref: bool(alt) and alt != ref))
            rows.append(
                (contig, place, ref, alt, data.draw(st.sampled_from(["0|1", "1|0", "1/1"])))
            )
    path = write_vcf(tmp_path / "a.vcf", rows)
    first = data.draw(st.integers(0, len(rows)))  # as where a run goes on, or a shard begins

    kept: dict[tuple[str, int], list[tuple[int, Edit]]] = {}
    for number, (contig, place, ref, alt, call) in enumerate(rows):
        edit = edit_of(Variant(contig, place, ref, alt))
        for haplotype in (0, 1):
            others = kept.setdefault((contig, haplotype), [])
            if call[2 * haplotype] == "1" and not any(edit.overlaps(one) for _, one in others):
                others.append((number, edit))

    calls = calls_of(path, short)
    for number, (contig, place, ref, alt, _) in list(enumerate(rows))[first:]:
        near = calls.around(number, contig, place)
        carried = calls.carried(number, 1)
        for haplotype in (0, 1):
            mine = kept[contig, haplotype]
            on_it = carried is not None and haplotype in carried.haplotypes
            assert on_it == (number in [other for other, _ in mine])
            if carried is None or not on_it:
                continue
            position = left_align(Variant(contig, place, ref, alt), short).position
            edits = together(carried, haplotype, near)
            assert edits == sorted(edit for _, edit in mine)
            text = CONTIG if contig == "c" else CONTIG[::-1]
            window = haplotype_windows(short, contig, edits, position, 500, 500)[1]
            expected = changed(text, edits)
            if len(window.window.text) == len(expected):
                assert window.window.text == expected
            else:
                assert window.window.text in expected
    calls.close()


def test_a_reading_holds_no_more_than_a_stretch(tmp_path, tmp_path_factory):
    size = 400_000
    contig = "A" * size
    fasta = write_fasta(tmp_path_factory.mktemp("long") / "a.fa", {"c": contig}, width=1_000)
    rows = [("c", place, "A", "C", "0|1") for place in range(0, size, 200)]
    path = write_vcf(tmp_path / "a.vcf", rows)
    with Genome(fasta) as genome:
        calls = calls_of(path, genome)
        most = 0
        for number, row in enumerate(rows):
            near = calls.around(number, "c", row[1])
            most = max(most, len(calls._carried), len(calls._phases))
            starts = [one.edit.start for one in near]
            assert starts == [p for p in range(0, size, 200) if abs(p - row[1]) <= REACH]
        assert most <= 2 * REACH / 200 + 2
        calls.close()
        jumping = calls_of(path, genome)
        jumping.around(1_900, "c", 1_900 * 200)
        assert len(jumping._carried) <= 2 * REACH / 200 + 2
        jumping.close()


def test_what_cannot_be_read_twice_or_has_no_such_sample_is_refused(short, tmp_path):
    path = write_vcf(tmp_path / "a.vcf", [])
    with pytest.raises(UsageError, match="has no sample 'you'; it has other, me"):
        calls_of(path, short, "you")
    with pytest.raises(UsageError, match="reads the VCF twice; give a file"):
        calls_of(Path("-"), short)
    path.write_text(HEADER.replace("\tFORMAT\tother\tme", ""))
    with pytest.raises(UsageError, match="has no sample 'me'; it has no samples"):
        calls_of(path, short)


@pytest.mark.parametrize(
    "rows",
    [[snv(20, "0|1"), snv(10, "0|1")], [snv(5, "0|1"), ("d", 1, "A", "C", "0|0"), snv(9, "0|1")]],
)
def test_records_have_to_be_sorted(short, tmp_path, rows):
    calls = calls_of(write_vcf(tmp_path / "a.vcf", rows), short)
    with pytest.raises(VcfError, match=r"record \d, c:\d+: the records are not sorted"):
        [calls.around(number, row[0], row[1]) for number, row in enumerate(rows)]
    calls.close()


@pytest.mark.realdata
def test_a_real_call_set_is_read(shared_data):
    folder = shared_data / "variants"
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        source = folder / "giab_nist.chr20_100kb_at_10Mb.vcf.gz"
        calls = calls_of(source, genome, "INTEGRATION")
        counts: Counter[str] = Counter()
        with VcfReader(source) as reader:
            for record in reader:
                calls.around(record.number, record.contig, record.position)
                counts.update(calls.phases(record.number))
        calls.close()
    # 119 heterozygous without phase; 86 1/1, 6 1|1, 5 0|1, 4 1|0 and one 1|2
    assert counts == {"UNPHASED": 119, "PHASED": 86 + 6 + 5 + 4 + 2}
