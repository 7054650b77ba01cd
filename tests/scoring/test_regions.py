from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genobird.errors import (
    BedError,
    ContigError,
    OutOfBoundsError,
    SequenceError,
    TableError,
    UsageError,
)
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.heads import probabilities
from genobird.scoring.regions import site_frames
from genobird.scoring.scorer import Scorer
from genobird.scoring.sites import sites_of
from tests.conftest import write_fasta
from tests.models import starts_checkpoint

KEYS = ["chrom", "start", "end", "name", "strand", "status", "flags"]
EXACT = {"rtol": 0, "atol": 1e-5}


def test_the_table_has_one_row_a_region_in_order_and_the_columns_of_the_design(
    scorer, tiny_genome_path
):
    regions = [Interval("chr2", 900, 1_100, "+", "b"), Interval("chr1", 30_000, 30_200)]
    table = scorer.score_regions(regions, tiny_genome_path)
    assert list(table.columns) == [*KEYS, "promoter", *scorer.features]
    assert table["chrom"].tolist() == ["chr2", "chr1"]
    assert table["name"].tolist() == ["b", ""]
    assert table["strand"].tolist() == ["+", "."]
    assert table["start"].tolist() == [900, 30_000]
    values = table.drop(columns=KEYS).to_numpy()
    assert ((values > 0) & (values < 1)).all()


def test_chromatin_is_the_window_of_16200_bp_around_the_midpoint(scorer, genome, tiny_contigs):
    row = scorer.score_regions([Interval("chr1", 30_000, 30_201)], genome)
    window = tiny_contigs["chr1"][30_100 - 8_100 : 30_100 + 8_100]
    expected = probabilities(scorer.chromatin_logits([window], [8_100]), 8.0)
    np.testing.assert_allclose(row[scorer.features].to_numpy(), expected, **EXACT)


def test_the_promoter_window_follows_the_strand(scorer, genome, tiny_contigs):
    tss = 30_000
    table = scorer.score_regions(
        [Interval("chr1", tss, tss + 1, strand) for strand in "+-."], genome
    )
    contig = tiny_contigs["chr1"]
    plus = contig[tss - 5_000 : tss + 3_000]
    minus = reverse_complement(contig[tss - 2_999 : tss + 5_001])
    expected = probabilities(scorer.promoter_logits([plus, minus], [5_000, 5_000]))
    np.testing.assert_allclose(table["promoter"], [*expected, max(expected)], **EXACT)
    assert abs(expected[0] - expected[1]) > 1e-4


def test_one_base_is_a_start_and_a_longer_region_has_one_near(
    tiny_tokenizer, genome, tiny_contigs, tmp_path
):
    scorer = Scorer(starts_checkpoint(tiny_tokenizer))
    regions = [Interval("chr1", 30_000 - n, 30_001 + n, strand) for n in (0, 9) for strand in "+-"]
    table = scorer.score_regions(regions, genome)
    contig = tiny_contigs["chr1"]
    texts = [contig[25_000:33_000], reverse_complement(contig[27_001:35_001])]
    exact, near = (scorer.promoter_logits(texts, [5_000] * 2, near=n) for n in (False, True))
    np.testing.assert_allclose(table["promoter"], probabilities(np.array([*exact, *near])), **EXACT)
    assert (near > exact + 0.1).all()
    mixed = scorer.promoter_logits(texts, [5_000] * 2, near=[False, True])
    np.testing.assert_array_equal(mixed, [exact[0], near[1]])
    for odd in ("no", [True], [True, False, True], np.array([[True], [False]]), 1):
        with pytest.raises(UsageError, match="give true or false, or one of them for each of 2 pl"):
            scorer.promoter_logits(texts, [5_000] * 2, near=odd)
    scan = scorer.mutagenesis(regions[0], genome, features=["promoter"])
    assert scan["ref_logit"].iloc[0] == pytest.approx(float(exact[0]), abs=1e-5)
    scan = scorer.mutagenesis(regions[3], genome, features=["promoter"])
    assert scan["ref_logit"].iloc[0] == pytest.approx(float(near[1]), abs=1e-5)


def test_windows_are_clipped_at_contig_ends_not_padded(scorer, genome, tiny_contigs):
    last = len(tiny_contigs["chr2"])
    regions = [Interval("chr2", 0, 1, "-"), Interval("chr2", last - 1, last, "+")]
    table = scorer.score_regions(regions, genome)
    assert table["status"].tolist() == ["OK", "OK"]
    first, end = tiny_contigs["chr2"][:8_100], tiny_contigs["chr2"][-8_101:]
    expected = probabilities(scorer.chromatin_logits([first, end], [0, 8_100]), 8.0)
    np.testing.assert_allclose(table[scorer.features].to_numpy(), expected, **EXACT)
    starts = [reverse_complement(tiny_contigs["chr2"][:5_001]), tiny_contigs["chr2"][-5_001:]]
    expected = probabilities(scorer.promoter_logits(starts, [5_000, 5_000]))
    np.testing.assert_allclose(table["promoter"], expected, **EXACT)


def test_each_region_that_cannot_be_scored_says_why(scorer, genome):
    regions = [
        Interval("chr9", 0, 10),
        Interval("chr1", 59_999, 60_001),
        Interval("chr1", 60_000, 60_000),
        Interval("chrN", 290, 310),
        Interval("chr1", 0, 16_201),
        Interval("chrN", 600, 620),
        Interval("chr1", 60_000 - 1, 60_000),
    ]
    table = scorer.score_regions(regions, genome)
    assert table["status"].tolist() == [
        *("NO_CONTIG", "OUT_OF_BOUNDS", "OUT_OF_BOUNDS", "AMBIGUOUS", "TOO_LONG", "OK", "OK")
    ]
    scored = table.drop(columns=KEYS).notna()
    assert scored.all(axis=1).tolist() == [False] * 5 + [True] * 2
    assert not scored[:5].any(axis=None)
    assert table["chrom"].tolist() == [region.contig for region in regions]


def test_a_window_of_mostly_n_is_ambiguous(scorer, tmp_path, tiny_contigs):
    text = tiny_contigs["chr2"][:1_000]
    fasta = write_fasta(tmp_path / "n.fa", {"c": "N" * 5_000 + text + "N" * 5_000})
    table = scorer.score_regions([Interval("c", 5_400, 5_500)], fasta)
    assert table["status"].tolist() == ["AMBIGUOUS"]


def test_strict_raises_before_anything_is_scored(scorer, genome, monkeypatch):
    monkeypatch.setattr(scorer.inference.passes, "run", lambda *_: pytest.fail("scored"))
    good = Interval("chr1", 100, 200)
    with pytest.raises(
        OutOfBoundsError,
        match=r"^chr1:59,901-60,100 ends after chr1 \(60,000 bp\); is the region from another.*\?$",
    ):
        scorer.score_regions([good, Interval("chr1", 59_900, 60_100)], genome, strict=True)
    with pytest.raises(ContigError, match=r"contig 'chr7' is not in .*check the name"):
        scorer.score_regions([good, Interval("chr7", 1, 2)], genome, strict=True)


def test_bed_frame_and_intervals_give_the_same_table(scorer, genome, tmp_path):
    bed = tmp_path / "a.bed"
    bed.write_text("track name=x\n1\t20000\t20200\tp1\t0\t-\r\nchr2\t500\t700\n")
    frame = pd.DataFrame(
        {
            "chrom": ["1", "chr2"],
            "start": [20_000, 500],
            "end": [20_200, 700],
            "name": ["p1", None],
            "strand": ["-", None],
        }
    )
    intervals = [Interval("1", 20_000, 20_200, "-", "p1"), Interval("chr2", 500, 700)]
    tables = [scorer.score_regions(regions, genome) for regions in (bed, frame, intervals)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])
    assert tables[0]["status"].tolist() == ["OK", "OK"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"chrom": ["chr1"], "begin": [1], "end": [2]}, "no column start; needed are chrom"),
        ({"chrom": ["chr1"], "start": [5], "end": [2]}, "row 0 of the regions: end 2"),
        ({"chrom": ["chr1"], "start": ["x"], "end": [2]}, "regions: start 'x' is no whole number"),
        ({"chrom": ["chr1"], "start": [1], "end": [2.5]}, "regions: end '2.5' is no whole number"),
        (
            {"chrom": ["chr1"], "start": [np.nan], "end": [2]},
            "of the regions: start is empty",
        ),
        ({"chrom": [None], "start": [1], "end": [2]}, "row 0 of the regions: chrom is empty"),
    ],
)
def test_a_frame_that_is_no_table_of_regions_is_refused(scorer, genome, frame, message):
    with pytest.raises(TableError, match=message):
        scorer.score_regions(pd.DataFrame(frame), genome)


def test_strings_and_one_region_are_read_as_on_the_command_line(scorer, genome):
    text, interval = "chr1:20,001-20,200:-", Interval("chr1", 20_000, 20_200, "-")
    expected = scorer.score_regions([interval], genome)
    for regions in (text, [text], interval):
        pd.testing.assert_frame_equal(scorer.score_regions(regions, genome), expected)
    with pytest.raises(UsageError, match=r"'chr1' has no positions.*give a BED file"):
        scorer.score_regions("chr1", genome)
    with pytest.raises(UsageError, match=r"5 is among the regions; give intervals, or strings"):
        scorer.score_regions([5], genome)


def test_no_regions_give_an_empty_table_with_columns(scorer, genome, tmp_path):
    table = scorer.score_regions([], genome)
    assert table.empty
    assert list(table.columns) == [*KEYS, "promoter", *scorer.features]
    (tmp_path / "empty.bed").write_text("")
    with pytest.raises(BedError, match="holds no interval"):
        scorer.score_regions(tmp_path / "empty.bed", genome)


def test_chunks_change_nothing(scorer, genome):
    regions = [Interval("chr1", start, start + 200) for start in range(20_000, 21_000, 200)]
    regions[2] = Interval("chr9", 0, 1)
    frames = list(site_frames(scorer, sites_of(regions, genome), chunk=2))
    assert [len(frame) for frame in frames] == [2, 2, 1]
    whole = scorer.score_regions(regions, genome)
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), whole, rtol=0, atol=1e-5)


def test_features_choose_columns(scorer, genome):
    table = scorer.score_regions([Interval("chr1", 0, 9)], genome, features=["histone"])
    assert list(table.columns) == [*KEYS, "promoter", "B|H3K4me3|None"]


def test_a_sequence_is_scored_around_its_midpoint(scorer, genome, tiny_contigs):
    contig = tiny_contigs["chr1"]
    table = scorer.score_sequences([contig[10_000:50_000].lower(), contig[:301], "N" * 9 + "ACGT"])
    assert table["chrom"].tolist() == ["0", "1", "2"]
    assert table["end"].tolist() == [40_000, 301, 13]
    assert table["status"].tolist() == ["OK", "OK", "AMBIGUOUS"]
    region = scorer.score_regions([Interval("chr1", 30_000, 30_000)], genome)
    assert region["status"].tolist() == ["OK"]
    columns = ["promoter", *scorer.features]
    np.testing.assert_allclose(
        table.loc[:0, columns].to_numpy(), region[columns].to_numpy(), **EXACT
    )


def test_a_sequence_of_one_base_is_scored(scorer):
    assert scorer.score_sequences(["A"]).notna().all(axis=None)


def test_a_sequence_that_is_no_dna_is_refused(scorer):
    with pytest.raises(SequenceError, match=r"letter .E. at offset 2 of sequence protein"):
        scorer.score_sequences({"protein": "ATEACG"})
    with pytest.raises(SequenceError, match="sequence 0 is empty"):
        scorer.score_sequences([""])
