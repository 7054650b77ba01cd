from __future__ import annotations

import codecs
import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import BedError, InputError, UsageError
from genobird.genome.interval import STRANDS, Interval, parse_region, read_bed

CONTIGS = st.text("abcXYZ019:|-_.*", min_size=1, max_size=12)
POSITIONS = st.integers(0, 3 * 10**9)


@given(CONTIGS, POSITIONS, st.integers(1, 10**6))
def test_a_region_string_round_trips(contig: str, start: int, length: int) -> None:
    interval = Interval(contig, start, start + length)
    assert parse_region(str(interval)) == interval
    assert parse_region(str(interval).replace(",", "")) == interval


@given(CONTIGS, POSITIONS, st.integers(1, 10**6), st.sampled_from("+-"))
def test_a_region_string_may_name_the_strand(
    contig: str, start: int, length: int, strand: str
) -> None:
    interval = Interval(contig, start, start + length, strand)
    assert parse_region(f"{interval}:{strand}") == interval


@given(POSITIONS, st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**5))
def test_a_window_holds_the_midpoint(start: int, length: int, before: int, after: int) -> None:
    interval = Interval("chr1", start, start + length)
    first, last = interval.window(before, after)
    assert last - first == before + after
    assert first + before == interval.midpoint
    assert interval.start <= interval.midpoint <= interval.end


def test_region_strings_are_one_based_and_inclusive() -> None:
    assert parse_region("chr20:1,001-2,000") == Interval("chr20", 1000, 2000)
    assert parse_region(" chr20:1000 ") == Interval("chr20", 999, 1000)
    assert parse_region("HLA-A*01:01:5-6") == Interval("HLA-A*01:01", 4, 6)
    assert str(Interval("chr20", 1000, 2000)) == "chr20:1,001-2,000"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("chr20", r"has no positions or is malformed; write it 1-based as chr20:1,000-2,000$"),
        ("", "has no positions"),
        ("chr20:", "malformed"),
        ("chr20:5-", "malformed"),
        ("chr20:a-b", "malformed"),
        ("chr20:0-10", "the first base is 1"),
        ("chr20:11-10", "ends before it starts"),
        ("chr20:1-2:*", "malformed"),
        (":1-2", "malformed"),
    ],
)
def test_a_bad_region_is_a_misuse(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_region(text)


@pytest.mark.parametrize(
    ("start", "end", "strand", "reason"),
    [(-1, 5, ".", "below 0"), (5, 4, ".", "before its start 5"), (1, 2, "x", "allowed are")],
)
def test_an_impossible_interval_is_refused(start: int, end: int, strand: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Interval("chr1", start, end, strand)


def test_intervals_sort_by_contig_and_position() -> None:
    intervals = [Interval("b", 1, 2), Interval("a", 5, 6), Interval("a", 1, 9), Interval("a", 1, 3)]
    assert [str(interval) for interval in sorted(intervals)] == ["a:2-3", "a:2-9", "a:6-6", "b:2-2"]


BED = (
    "# a comment\r\nbrowser position chr1:1-10\ntrack name=x\n\n"
    "chr1\t0\t10\r\nchr1 5 7 named 0 -\n   \ntrack1\t1\t2\twith space\t0\t+\textra\n"
)
BED_INTERVALS = [
    Interval("chr1", 0, 10),
    Interval("chr1", 5, 7, "-", "named"),
    Interval("track1", 1, 2, "+", "with space"),
]


@pytest.mark.parametrize("kind", ["plain", "gzip", "bgzf", "stdin"])
def test_a_bed_file_is_read_however_it_is_packed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "regions.bed"
    if kind == "plain":
        path.write_bytes(BED.encode())
    elif kind == "gzip":
        path.write_bytes(gzip.compress(BED.encode()))
    elif kind == "bgzf":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(BED.encode())
    else:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BED.encode())))
        path = Path("-")
    assert list(read_bed(path)) == BED_INTERVALS


@given(
    st.lists(
        st.builds(
            lambda contig, start, length, strand, name: Interval(
                contig, start, start + length, strand, name
            ),
            st.text("chrX019_", min_size=1).filter(lambda name: name not in ("track", "browser")),
            POSITIONS,
            st.integers(0, 10**6),
            st.sampled_from(STRANDS),
            st.text("abc :|", min_size=1),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_bed_round_trips(tmp_path_factory: pytest.TempPathFactory, rows: list[Interval]) -> None:
    path = tmp_path_factory.mktemp("bed") / "x.bed"
    path.write_text(
        "".join(f"{x.contig}\t{x.start}\t{x.end}\t{x.name}\t0\t{x.strand}\n" for x in rows)
    )
    assert list(read_bed(path)) == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no interval"),
        ("# only\n\n", "holds no interval"),
        ("chrom\tstart\tend\n", "line 1: start 'start' is no whole number .* header line"),
        ("chr1\t1\t2\nchr1\t5\t4\n", "line 2: end 4 of an interval on chr1 lies before"),
        ("chr1\t-1\t2\n", "line 1: start '-1' is no whole number"),
        ("chr1\t1\n", r"line 1: 2 columns found"),
        ("chr1\t1\t2\tx\t0\tx\n", "line 1: strand 'x' is unknown"),
        ("chr1\t1e3\t2000\n", "line 1: start '1e3'"),
        ("\t1\t2\n", "line 1: an empty chrom found, BED needs"),
        ("chr1\t1\t2\n\t\t\n", "line 2: an empty chrom found"),
    ],
)
def test_a_bad_bed_line_is_named(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    path.write_text(text)
    with pytest.raises(BedError, match=reason):
        list(read_bed(path))


@pytest.mark.parametrize("packing", [bytes, gzip.compress])
def test_the_byte_order_mark_of_an_editor_is_no_part_of_a_contig(
    packing: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x.bed"
    path.write_bytes(packing(codecs.BOM_UTF8 + b"chr1\t1\t2\n\xef\xbb\xbfchr2\t1\t2\n"))
    assert [interval.contig for interval in read_bed(path)] == ["chr1", "\ufeffchr2"]


def test_a_truncated_bed_is_no_short_bed(tmp_path: Path) -> None:
    path = tmp_path / "x.bed.gz"
    path.write_bytes(
        gzip.compress(b"".join(b"chr1\t%d\t%d\n" % (i, i + 1) for i in range(99)))[:-12]
    )
    with pytest.raises(BedError, match="is cut short"):
        list(read_bed(path))


def test_a_missing_bed_is_a_misuse_seen_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.bed does not exist"):
        read_bed(tmp_path / "none.bed")
    with pytest.raises(UsageError, match="is a folder"):
        read_bed(tmp_path)


@pytest.mark.realdata
def test_published_bed_files_are_read(shared_data: Path) -> None:
    promoters = list(read_bed(shared_data / "promoters" / "epdnew_human_006_hg19.bed"))
    assert len(promoters) == 28_739
    assert {promoter.length for promoter in promoters} == {1}
    assert {promoter.strand for promoter in promoters} == {"+", "-"}
    assert len(list(read_bed(shared_data / "annotation" / "repeatmasker.chr20.bed.gz"))) == 113_898
