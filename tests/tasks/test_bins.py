from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import ContigError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.peaks import Feature, Track
from genobird.tasks.bins import ChosenBins, Parts, choose, divide, group, without_n

LENGTHS = {"chr1": 60_000, "chr2": 30_000}
KNOWN = {contig: np.ones(length // 200, dtype=bool) for contig, length in LENGTHS.items()}
WHOLE = [Interval(contig, 0, length) for contig, length in LENGTHS.items()]


@pytest.fixture
def genome(tiny_genome_path):
    with Genome(tiny_genome_path) as opened:
        yield opened


def track(name, peaks):
    arrays = {contig: np.array(places, dtype=np.int64) for contig, places in peaks.items()}
    return Track(Feature(-1, name, "custom"), arrays)


EVERY_TENTH = track("tenth", {c: [(at, at + 200) for at in range(0, n, 2000)]
                              for c, n in LENGTHS.items()})  # fmt: skip
ONE = track("one", {"chr1": [(200, 400)]})


def chosen_of(contigs, bins, positives=1, background=1):
    return ChosenBins(
        np.array(contigs), np.array(bins), np.zeros((len(bins), 1), bool), positives, background
    )


def test_places_are_held_out_by_any_name_of_theirs(genome):
    parts = divide(["2", "chr1:1,001-2,000"], WHOLE, genome, seed=0)
    assert parts.held_out == (Interval("chr1", 1000, 2000), Interval("chr2", 0, 30_000))


def test_a_share_of_the_megabases_is_drawn_by_the_seed(genome):
    areas = [Interval("chr1", 500_000, 7_300_000)]
    drawn = [divide(["0.25"], areas, genome, seed).held_out for seed in range(8)]
    for held_out in drawn:
        assert sum(-(-i.length // 1_000_000) for i in held_out) == 2
        assert all(500_000 <= i.start < i.end <= 7_300_000 for i in held_out)
        assert all(i.start % 1_000_000 == 0 or i.start == 500_000 for i in held_out)
    assert len(set(drawn)) > 1
    assert drawn[3] == divide(["0.25"], areas, genome, 3).held_out


def test_something_is_always_left_to_train_on(genome):
    areas = [Interval("chr1", 0, 3_000_000)]
    assert sum(i.length for i in divide(["0.99"], areas, genome, 0).held_out) == 2_000_000
    with pytest.raises(UsageError, match=r"0\.2 of a single megabase; name a region"):
        divide(["0.2"], [Interval("chr1", 0, 60_000)], genome, 0)


def test_what_cannot_be_held_out_is_refused(genome):
    with pytest.raises(ContigError, match="contig 'chr9' is not in"):
        divide(["chr9"], WHOLE, genome, 0)
    with pytest.raises(ContigError, match="contig '20' is not in"):
        divide(["20"], WHOLE, genome, 0)
    with pytest.raises(UsageError, match=r"0\.2 beside others; give one share or places"):
        divide(["chr1", "0.2"], WHOLE, genome, 0)


@pytest.mark.parametrize("text", ["1.5", "0", "1.0", "-0.2", "nan"])
def test_a_number_that_is_no_share_is_told_apart_from_a_contig(genome, text):
    with pytest.raises(UsageError, match=f"--held-out {text} is neither a share, .* 0 and 1"):
        divide([text], WHOLE, genome, 0)
    with pytest.raises(UsageError, match="is neither a share"):
        divide(["chr2", text], WHOLE, genome, 0)


@given(st.integers(0, 59_000), st.integers(1, 5_000))
def test_no_bin_is_in_both_parts_and_none_crosses_the_border(start, length):
    held_out = Interval("chr1", start, start + length)
    train, test = Parts(tuple(WHOLE), (held_out,)).masks("chr1", 300)
    for number in range(300):
        first, end = 200 * number, 200 * number + 200
        assert test[number] == (held_out.start <= first and end <= held_out.end)
        assert train[number] == (end <= held_out.start or held_out.end <= first)


def test_all_peaks_are_taken_and_as_much_background_as_asked():
    parts = Parts(tuple(WHOLE), (Interval("chr2", 0, 30_000),))
    found = choose(
        [EVERY_TENTH, ONE], KNOWN, parts,
        held_out=False, most_positives=100, background=2.0, seed=1,
    )  # fmt: skip
    assert (found.positives, found.background) == (31, 269)
    assert found.peaked.sum() == 31
    assert len(found) == 93
    assert set(found.contigs) == {"chr1"}
    assert (np.diff(found.bins) > 0).all()
    for number, row in zip(found.bins, found.labels, strict=True):
        assert row.tolist() == [number % 10 == 0, number == 1]


def test_too_many_peaks_are_thinned_by_the_seed():
    def drawn(seed):
        return choose(
            [EVERY_TENTH], KNOWN, Parts(tuple(WHOLE), ()),
            held_out=False, most_positives=10, background=1.0, seed=seed,
        )  # fmt: skip

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first.peaked.sum() == 10
    assert (first.bins == again.bins).all()
    assert first.bins.tolist() != other.bins.tolist()


def test_weights_count_all_bins_of_the_part():
    found = choose(
        [EVERY_TENTH], KNOWN, Parts(tuple(WHOLE), ()),
        held_out=False, most_positives=9, background=3.0, seed=1,
    )  # fmt: skip
    weights = found.weights()
    assert weights[found.peaked].sum() == pytest.approx(45)
    assert weights[~found.peaked].sum() == pytest.approx(405)
    assert np.exp(found.log_ratio()) == pytest.approx((9 / 45) / (27 / 405))


def test_areas_bound_what_is_used():
    parts = Parts((Interval("chr1", 1_900, 8_100),), ())
    found = choose(
        [EVERY_TENTH], KNOWN, parts, held_out=False, most_positives=99, background=99, seed=0
    )
    assert found.bins.tolist() == list(range(10, 40))


def test_bins_with_n_are_neither_peaks_nor_background(genome):
    """They counted as background, and were dropped only when they were encoded."""
    lengths = {"chrN": 2_000}  # N at 0-300 and 1200-1400
    areas = (Interval("chrN", 100, 2_000),)
    known = without_n(genome, lengths, areas)
    assert np.flatnonzero(~known["chrN"]).tolist() == [0, 1, 6]
    found = choose(
        [track("some", {"chrN": [(600, 800), (1_200, 1_400)]})], known, Parts(areas, ()),
        held_out=False, most_positives=9, background=9.0, seed=0,
    )  # fmt: skip
    assert found.bins.tolist() == [2, 3, 4, 5, 7, 8, 9]
    assert (found.positives, found.background) == (1, 6)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 80)), unique=True, min_size=1))
def test_groups_hold_every_bin_once_within_reach(places):
    places = sorted(places)
    chosen = chosen_of([f"c{c}" for c, _ in places], [b for _, b in places])
    groups = group(chosen, 1_000, seed=5)
    assert sorted(row for rows in groups for row in rows) == list(range(len(places)))
    for rows in groups:
        assert len(set(chosen.contigs[rows])) == 1
        assert (chosen.bins[rows[-1]] - chosen.bins[rows[0]]) * 200 <= 1_000
        assert (np.diff(rows) == 1).all()


def test_areas_that_overlap_count_once(genome):
    areas = [Interval("chr1", 0, 30_000), Interval("chr1", 20_000, 60_000)]
    assert divide(["chr2"], areas, genome, 0).areas == (Interval("chr1", 0, 60_000),)
