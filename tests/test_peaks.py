from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import AssemblyError, BedError, ContigError, OutOfBoundsError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.peaks import (
    Cover,
    Feature,
    Track,
    coverage,
    labels,
    merge,
    place_tracks,
    read_tracks,
)

BINS = 20
INTERVALS = st.lists(
    st.tuples(st.integers(0, 4200), st.integers(1, 900)).map(lambda p: (p[0], p[0] + p[1])),
    max_size=12,
)


def track(*places):
    return Track(Feature(-1, "mine", "custom"), {"chr1": np.array(places, dtype=np.int64)})


def covered(places, length):
    mask = np.zeros(length, dtype=bool)
    for start, end in places:
        mask[start:end] = True
    return mask


@given(INTERVALS)
def test_coverage_is_that_of_the_bases(places):
    array = np.array(places, dtype=np.int64).reshape(-1, 2)
    bases = covered(places, BINS * 200).reshape(BINS, 200).sum(axis=1)
    assert coverage(array, np.arange(BINS) * 200).tolist() == bases.tolist()


@given(INTERVALS)
def test_merged_peaks_are_sorted_disjoint_and_cover_the_same(places):
    union = merge(np.array(places, dtype=np.int64).reshape(-1, 2))
    assert (union[1:, 0] > union[:-1, 1]).all()
    assert (covered(places, 6000) == covered(union.tolist(), 6000)).all()


@pytest.mark.parametrize(("length", "positive"), [(99, False), (100, False), (101, True)])
@pytest.mark.parametrize("start", [200, 250, 299])
def test_a_bin_is_positive_when_more_than_half_is_covered(length, positive, start):
    assert labels([track((start, start + length))], "chr1", 5)[1, 0] == positive


def test_overlapping_peaks_of_one_track_count_once():
    assert not labels([track((200, 300), (210, 290), (200, 300))], "chr1", 5).any()
    assert labels([track((200, 260), (255, 300), (399, 400))], "chr1", 5)[1, 0]


def test_a_peak_over_the_end_of_the_contig_is_cut():
    assert labels([track((900, 5000))], "chr1", 5)[:, 0].tolist() == [False] * 4 + [False]
    assert labels([track((899, 5000))], "chr1", 5)[:, 0].tolist() == [False] * 4 + [True]


def bed(folder, *lines, name="my.peaks.bed"):
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def genome(tiny_genome_path):
    with Genome(tiny_genome_path) as opened:
        yield opened


def test_tracks_are_named_by_their_file_or_as_asked(genome, tmp_path):
    first = bed(tmp_path, "chr1\t10\t20", "chr1\t5\t7")
    second = tmp_path / "b.narrowPeak.gz"
    with gzip.open(second, "wt") as file:
        file.write("2\t100\t300\tp1\t0\t.\t7.5\t-1\t-1\t60\n")
    found = read_tracks([first, second], (), genome)
    assert [t.feature for t in found] == [
        Feature(-1, "my.peaks", "custom"), Feature(-1, "b", "custom"),
    ]  # fmt: skip
    assert found[0].peaks["chr1"].tolist() == [[10, 20], [5, 7]]
    assert {c: p.tolist() for c, p in found[1].peaks.items()} == {"chr2": [[100, 300]]}
    assert [t.feature.name for t in read_tracks([first, first], ["x", "y"], genome)] == ["x", "y"]


def test_names_are_one_a_file_and_each_another(genome, tmp_path):
    path = bed(tmp_path, "chr1\t10\t20")
    with pytest.raises(UsageError, match="2 --peaks and 1 --name; give one name per file"):
        read_tracks([path, path], ["x"], genome)
    with pytest.raises(UsageError, match=r"track name 'my\.peaks'; names must differ"):
        read_tracks([path, path], (), genome)
    with pytest.raises(UsageError, match="text on one line"):
        read_tracks([path], ["a\tb"], genome)


@given(INTERVALS, INTERVALS)
def test_a_stretch_is_touched_where_it_shares_a_base_with_an_interval(places, asked):
    cover = Cover(Interval("chr1", start, end) for start, end in places)
    mask = covered(places, 5200)
    starts, ends = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    expected = [bool(mask[start:end].any()) for start, end in asked]
    assert cover.touches("chr1", starts, ends).tolist() == expected
    assert [bool(cover.touches("chr1", *stretch)) for stretch in asked] == expected
    assert not cover.touches("chr2", starts, ends).any()
    assert set(cover.unions) <= {"chr1"}


def test_peak_files_that_are_missing_empty_or_broken_are_refused(genome, tmp_path):
    with pytest.raises(UsageError, match=r"none\.bed"):
        read_tracks([tmp_path / "none.bed"], (), genome)
    with pytest.raises(BedError, match="holds no interval"):
        read_tracks([bed(tmp_path, "# nothing")], (), genome)
    with pytest.raises(BedError, match="start 1,000, has no length"):
        read_tracks([bed(tmp_path, "chr1\t1000\t1000")], (), genome)


def test_a_peak_beyond_its_contig_tells_of_another_assembly(genome, tmp_path):
    path = bed(tmp_path, "chr1\t59900\t60000", "chr2\t29900\t30001", "chr2\t5\t9")
    with pytest.raises(OutOfBoundsError, match="chr2:29,901-30,001 ends after chr2 \\(30,000 bp"):
        read_tracks([path], (), genome)


def test_a_contig_that_the_genome_lacks_is_an_error_unless_it_may_be_left_out(
    genome, tmp_path, caplog
):
    path = bed(tmp_path, "chr1\t10\t20", "chr9\t1\t2", "chr9\t3\t4")
    with pytest.raises(ContigError, match=r"2 of 3 peaks lie on chr9, not in .*--keep-going"):
        read_tracks([path], (), genome)
    (found,) = read_tracks([path], (), genome, skip_missing=True)
    assert set(found.peaks) == {"chr1"}
    assert "2 of 3 peaks lie on chr9" in caplog.text
    with pytest.raises(ContigError, match=r"1 of 1 peaks lie on chr9.*check the assembly$"):
        read_tracks([bed(tmp_path, "chr9\t1\t2")], (), genome, skip_missing=True)


def test_tracks_together_may_lie_on_one_chromosome_of_the_genome(genome, caplog):
    first, second = (
        Track(Feature(-1, name, "custom"), {contig: np.array([[1, 2]])})
        for name, contig in (("a", "1"), ("b", "chr9"))
    )
    placed = place_tracks([first, second], genome)
    assert [list(track.peaks) for track in placed] == [["chr1"], []]
    assert "2 tracks: 1 of 2 peaks lie on chr9, not in" in caplog.text
    with pytest.raises(ContigError, match=r"^b: 1 of 1 peaks lie on chr9"):
        place_tracks([second], genome)
    far = Track(Feature(-1, "c", "custom"), {"chr2": np.array([[0, 30_001]])})
    with pytest.raises(OutOfBoundsError, match=r"^c: the peak chr2:1-30,001 ends after chr2"):
        place_tracks([first, far], genome)


def test_an_accession_of_another_assembly_is_refused(genome):
    peaks = {"NC_000001.11": np.array([[1, 2]])}
    with pytest.raises(AssemblyError, match="belongs to GRCh38"):
        place_tracks([Track(Feature(-1, "x", "custom"), peaks)], genome)
