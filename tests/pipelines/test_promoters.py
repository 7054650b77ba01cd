from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from genobird.errors import BedError, OutOfBoundsError, UsageError
from genobird.genome.interval import Interval, read_bed
from genobird.genome.sequence import reverse_complement
from pipelines import grch37, manifest, promoters
from pipelines.promoters import Negatives
from tests.conftest import random_dna, write_fasta

SPLITS = manifest.Splits(
    "tiny",
    (Interval("chr1", 0, 150_000),),
    (Interval("chr1", 150_000, 220_000),),
    (Interval("chr1", 220_000, 300_000),),
)
SEQUENCE = random_dna(300_000, seed=11)


def tss(place, strand="+", name=None, contig="chr1"):
    return Interval(contig, place, place + 1, strand, name or f"p{place}{strand}")


PROMOTERS = [tss(20_000), tss(60_000, "-"), tss(170_000), tss(240_000, "-"), tss(241_000)]


@pytest.fixture(scope="module")
def contigs(tmp_path_factory):
    path = write_fasta(tmp_path_factory.mktemp("genome") / "g.fa", {"chr1": SEQUENCE})
    with grch37.locate([path], ["chr1"]) as found:
        yield found


@pytest.mark.parametrize("strand", ["+", "-"])
def test_the_tss_base_lands_at_offset_5000(strand):
    (row,), _ = promoters.positives([tss(60_000, strand)], {"chr1": SEQUENCE}, SPLITS)
    assert (len(row.sequence), row.end - row.start) == (8000, 8000)
    inside = SEQUENCE[row.start : row.end]
    assert row.sequence == (inside if strand == "+" else reverse_complement(inside))
    upstream = SEQUENCE[59_990:60_001] if strand == "+" else SEQUENCE[60_000:60_011]
    expected = upstream if strand == "+" else reverse_complement(upstream)
    assert row.sequence[4990:5001] == expected
    assert row.group == "chr1:0"


def test_the_window_reaches_5000_back_and_3000_on():
    assert promoters.window(10_000, "+") == (5000, 13_000)
    assert promoters.window(10_000, "-") == (7001, 15_001)


def test_what_cannot_be_cut_is_dropped_and_counted():
    sequence = SEQUENCE[:100_000] + "N" * 401 + SEQUENCE[100_401:]
    places = [
        tss(4999), tss(5000), tss(2998, "-"), tss(297_001), tss(100_000), tss(149_000),
        tss(60_000), tss(60_000, name="again"), tss(60_000, "-"), tss(9, contig="chr9"),
    ]  # fmt: skip
    rows, dropped = promoters.positives(places, {"chr1": sequence}, SPLITS)
    assert [row.start for row in rows] == [0, 55_000, 57_001]
    assert dropped == {
        "window leaves the contig": 3,
        "more than 5 % N": 1,
        "window not wholly in one part of the split": 1,
        "same TSS as another promoter": 1,
        "contig without sequence or outside the split": 1,
    }


def test_a_promoter_is_one_base_with_a_strand_and_a_name_of_its_own():
    with pytest.raises(BedError, match="covers 2 bp"):
        promoters.positives([Interval("chr1", 1, 3, "+", "x")], {"chr1": SEQUENCE}, SPLITS)
    with pytest.raises(BedError, match=r"strand \."):
        promoters.positives([tss(1, ".")], {"chr1": SEQUENCE}, SPLITS)
    with pytest.raises(BedError, match="names must be unique"):
        promoters.positives([tss(1, name="x"), tss(2, name="x")], {"chr1": SEQUENCE}, SPLITS)


def parts(sequence):
    return [sequence[start : start + 400] for start in range(0, 8000, 400)]


def test_substitution_leaves_8_of_20_pieces():
    sequence = SEQUENCE[:8000]
    changed = promoters.substitute(sequence, promoters.generator(0, "x"))
    same = [a == b for a, b in zip(parts(sequence), parts(changed), strict=True)]
    assert sum(same) == 8
    assert set(changed) == set("ACGT")


def test_shuffling_moves_whole_pieces_and_leaves_at_least_8():
    sequence = SEQUENCE[:8000]
    changed = promoters.shuffle(sequence, promoters.generator(0, "x"))
    assert sorted(parts(changed)) == sorted(parts(sequence))
    same = [a == b for a, b in zip(parts(sequence), parts(changed), strict=True)]
    assert 8 <= sum(same) < 20


def test_a_window_that_has_no_20_equal_pieces_is_refused():
    with pytest.raises(UsageError, match="cannot be cut into 20 equal pieces"):
        promoters.shuffle("ACG", promoters.generator(0, "x"))


@pytest.mark.parametrize("kind", [Negatives.GENOMIC, Negatives.SUBSTITUTE, Negatives.SHUFFLE])
def test_every_promoter_has_one_negative_in_its_part(contigs, kind):
    table, counts = promoters.build(PROMOTERS, contigs, SPLITS, kind)
    assert counts["kept"] == 5
    assert table["label"].tolist() == [1, 0] * 5
    positive, negative = table[::2].reset_index(), table[1::2].reset_index()
    assert (positive["split"] == negative["split"]).all()
    assert negative["name"].tolist() == [f"{name}|{kind}" for name in positive["name"]]
    assert (table["sequence"].str.len() == 8000).all()
    for row in table.itertuples():
        assert SPLITS.of(row.chrom, row.start, row.end)[0] == row.split
        if row.label or kind is Negatives.GENOMIC:
            inside = SEQUENCE[row.start : row.end]
            assert row.sequence == (reverse_complement(inside) if row.strand == "-" else inside)
    if kind is not Negatives.GENOMIC:
        assert (positive["group"] == negative["group"]).all()


def test_a_genomic_negative_is_far_from_every_known_tss(contigs):
    others = [(start, start + 1) for start in range(0, 120_000, 7000)]
    table, _ = promoters.build(PROMOTERS, contigs, SPLITS, exclude={"chr1": others})
    known = np.array([start for start, _ in others] + [p.start for p in PROMOTERS])
    for row in table[table["label"] == 0].itertuples():
        anchor = row.start + 5000 if row.strand == "+" else row.start + 2999
        assert np.abs(known - anchor).min() >= 5000
        assert not ((known >= row.start) & (known < row.end)).any()


def test_a_scan_takes_every_free_window_of_the_held_out_parts(contigs):
    others = {"chr1": [(200_000, 200_001)]}
    table, counts = promoters.build(PROMOTERS, contigs, SPLITS, Negatives.SCAN, others)
    assert counts["kept"] == 5
    found, scanned = table[table["label"] == 1], table[table["label"] == 0]
    assert found["split"].tolist() == ["validation", "test", "test"]
    assert set(scanned["strand"]) == {"+", "-"}
    known = np.array([170_000, 200_000, 240_000, 241_000])
    expected = [
        start
        for first, end in ((150_000, 220_000), (220_000, 300_000))
        for start in range(first, end - 8000 + 1, 2000)
        if not ((known >= start - 2000) & (known < start + 10_000)).any()
    ]
    assert scanned["start"].tolist() == expected
    for row in scanned.itertuples():
        inside = SEQUENCE[row.start : row.end]
        assert row.sequence == (reverse_complement(inside) if row.strand == "-" else inside)
        assert SPLITS.of(row.chrom, row.start, row.end)[0] == row.split
    with pytest.raises(UsageError, match="is free of start sites"):
        promoters.build(PROMOTERS, contigs, SPLITS, Negatives.SCAN, {"chr1": [(0, 300_000)]})


def test_windows_of_the_training_part_s_scan_are_added_to_genomic_negatives(contigs):
    alone, _ = promoters.build(PROMOTERS, contigs, SPLITS)
    table, _ = promoters.build(PROMOTERS, contigs, SPLITS, scanned=20)
    pd.testing.assert_frame_equal(table[: len(alone)], alone)
    added = table[len(alone) :]
    assert len(added) == added["start"].nunique() == 20
    assert set(added["split"]) == {"train"}
    assert not added["label"].any()
    assert not (added["start"] % 2000).any()
    tss_of_train = np.array([place.start for place in PROMOTERS])
    for start in added["start"]:
        assert not ((tss_of_train >= start - 2000) & (tss_of_train < start + 10_000)).any()
    every, counts = promoters.build(PROMOTERS, contigs, SPLITS, scanned=10_000)
    assert counts["scanned windows, of 10,000 asked for"] == len(every) - len(alone)
    assert set(added["start"]) < set(every["start"][len(alone) :])
    with pytest.raises(UsageError, match="added to genomic negatives, not to shuffle ones"):
        promoters.build(PROMOTERS, contigs, SPLITS, Negatives.SHUFFLE, scanned=20)


def test_draws_depend_on_seed_and_name_only(contigs):
    def sequences(chosen, seed):
        table, _ = promoters.build(chosen, contigs, SPLITS, Negatives.SHUFFLE, seed=seed)
        return table.set_index("name")["sequence"]

    first = sequences(PROMOTERS, 0)
    assert first.equals(sequences(PROMOTERS, 0))
    alone = sequences(PROMOTERS[2:3], 0)
    assert (first[alone.index] == alone).all()
    assert not first.equals(sequences(PROMOTERS, 1))


def test_no_room_for_negatives_is_said(contigs):
    everywhere = {"chr1": [(0, 300_000)]}
    with pytest.raises(UsageError, match="no room for another negative in chr1:1-150,000"):
        promoters.build(PROMOTERS, contigs, SPLITS, exclude=everywhere)
    with pytest.raises(UsageError, match="none of 1 promoters has a window"):
        promoters.build([tss(9, contig="chr9")], contigs, SPLITS)


def test_a_split_that_ends_after_its_contig_is_refused(contigs):
    splits = manifest.Splits("x", SPLITS.train, (), (Interval("chr1", 220_000, 300_001),))
    with pytest.raises(OutOfBoundsError, match="chr1:220,001-300,001 of test ends after chr1"):
        promoters.build(PROMOTERS, contigs, splits)


def test_the_table_carries_where_it_came_from(contigs, tmp_path):
    table, counts = promoters.build(PROMOTERS, contigs, SPLITS)
    path = tmp_path / "p.parquet"
    promoters.write(table, path, {"counts": counts})
    assert pd.read_parquet(path).equals(table)
    facts = json.loads(pq.read_schema(path).metadata[b"genobird"])
    assert facts["counts"]["kept"] == 5
    first = path.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        promoters.write(table, path, {})
    promoters.write(table, path, {"counts": counts}, force=True)
    assert path.read_bytes() == first


def initiator_rate(windows, shift=0):
    """Share of windows with a pyrimidine before, and a purine at, the base `shift` from the TSS.

    Near 0.7 for human promoters at shift 0 and near 0.25 elsewhere: it tells an off-by-one.
    """
    at = promoters.UPSTREAM + shift
    pairs = [(text[at - 1], text[at]) for text in windows["sequence"]]
    return np.mean([before in "CT" and base in "AG" for before, base in pairs])


@pytest.mark.realdata
def test_real_promoters_have_their_initiator_at_the_tss_on_both_strands(shared_data):
    splits = manifest.load_splits("available")
    bed = read_bed(shared_data / "promoters" / "epdnew_human_006_hg19.bed")
    chosen = [p for p in bed if p.contig == "chr20" and p.start < 20_000_000]
    with grch37.locate([shared_data / "genome" / "chr20.fa.gz"], ["chr20"]) as found:
        text = found["chr20"].genome.fetch(Interval("chr20", 0, 20_100_000))
    rows, _ = promoters.positives(chosen, {"chr20": text}, splits)
    table = promoters.frame(rows)
    for _, windows in table.groupby("strand"):
        assert len(windows) > 50
        assert initiator_rate(windows) > 0.55
        for shift in (-3, -2, -1, 1, 2, 3):
            assert initiator_rate(windows, shift) < 0.35
