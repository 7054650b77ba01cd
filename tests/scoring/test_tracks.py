from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import OutputError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.scoring import regions
from genobird.scoring.regions import bins_of, track_paths, write_tracks
from genobird.scoring.sites import Outputs


class BigWigFile:
    """What pyBigWig's writer demands: a header first, entries in order that do not overlap."""

    def __init__(self, path: str, mode: str) -> None:
        assert mode == "w"
        self.path = Path(path)
        self.path.write_text("")
        self.contigs: list[tuple[str, int]] = []
        self.entries: list[tuple[str, int, int, float]] = []

    def addHeader(self, contigs: list[tuple[str, int]]) -> None:
        assert not self.contigs
        self.contigs = contigs

    def addEntries(
        self, contigs: list[str], starts: list[int], ends: list[int], values: list[float]
    ) -> None:
        order = {name: at for at, (name, _) in enumerate(self.contigs)}
        for contig, start, end, value in zip(contigs, starts, ends, values, strict=True):
            assert {type(start), type(end), type(value)} == {int, float}
            assert start < end <= dict(self.contigs)[contig]
            if self.entries:
                last, _, reached, _ = self.entries[-1]
                assert (order[last], reached) <= (order[contig], start) or last != contig
                assert order[last] <= order[contig]
            self.entries.append((contig, start, end, value))

    def close(self) -> None:
        self.path.write_text(json.dumps(self.entries))


@pytest.fixture
def backend(monkeypatch) -> None:
    fake = SimpleNamespace(open=BigWigFile)
    monkeypatch.setattr(regions, "require_backend", lambda: fake)


def entries(path: Path) -> list[tuple[str, int, int, float]]:
    return [tuple(entry) for entry in json.loads(path.read_text())]


places = st.tuples(st.sampled_from(["chr1", "2", "chrN", "chr9"]), st.integers(0, 3_000))


@given(st.lists(st.tuples(places, st.integers(0, 900)), max_size=12))
def test_bins_cover_every_interval_once_on_the_grid_in_order(tiny_genome_path, drawn):
    intervals = [Interval(contig, start, start + width) for (contig, start), width in drawn]
    with Genome(tiny_genome_path) as genome:
        bins = list(bins_of(intervals, genome))
        contigs = list(genome.contigs)
        assert bins == sorted(set(bins), key=lambda b: (contigs.index(b.contig), b.start))
        covered = {(b.contig, at) for b in bins for at in range(b.start, b.end)}
        for b in bins:
            assert b.start % 200 == 0
            assert b.end == min(b.start + 200, genome.length(b.contig))
        asked = {
            (genome.resolve(i.contig), at)
            for i in intervals
            if i.contig != "chr9"
            for at in range(
                i.start, min(max(i.end, i.start + 1), genome.contigs.get(i.contig, 30_000))
            )
        }
    assert asked <= covered
    assert {(contig, at // 200) for contig, at in covered} == {(c, at // 200) for c, at in asked}


def test_a_track_holds_the_numbers_of_the_table(scorer, genome, tmp_path, backend):
    bins = list(bins_of([Interval("2", 900, 1_100), Interval("chr1", 30_050, 30_060)], genome))
    paths = write_tracks(scorer, bins, genome, tmp_path / "out", features=["DNase"])
    assert [path.name for path in paths] == ["promoter.bw", "A_DNase_None.bw"]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    table = scorer.score_regions(bins, genome, features=["DNase"])
    for path, name in zip(paths, ("promoter", "A|DNase|None"), strict=True):
        found = entries(path)
        assert [entry[:3] for entry in found] == [
            ("chr1", 30_000, 30_200),
            ("chr2", 800, 1_000),
            ("chr2", 1_000, 1_200),
        ]
        np.testing.assert_allclose([entry[3] for entry in found], table[name], rtol=0, atol=1e-6)


def test_a_bin_that_cannot_be_scored_has_no_value(scorer, genome, tmp_path, backend, caplog):
    bins = bins_of([Interval("chrN", 0, 200), Interval("chrN", 600, 700)], genome)
    paths = write_tracks(scorer, bins, genome, tmp_path, features=["histone"])
    assert [[entry[1] for entry in entries(path)] for path in paths] == [[600], [600]]
    none = write_tracks(
        scorer, bins_of([Interval("chrN", 0, 200)], genome), genome, tmp_path / "none"
    )
    assert none == []
    assert not list((tmp_path / "none").iterdir())
    assert "promoter.bw is not written: no bin of it could be scored" in caplog.text


def test_files_are_named_after_outputs_and_never_share_a_name():
    names = ["promoter", "K562|CTCF|None#338", "a b/c", "a b?c", "///"]
    paths = track_paths(Path("out"), names)
    assert [path.name for path in paths.values()] == [
        *("promoter.bw", "K562_CTCF_None_338.bw", "a_b_c.bw", "a_b_c_2.bw", "track.bw")
    ]


def test_outputs_are_those_of_the_region_table(scorer):
    assert Outputs.of(scorer, None).names == ["promoter", *scorer.features]
    assert Outputs.of(scorer, ["DNase"]).names == ["promoter", "A|DNase|None"]


def test_existing_tracks_need_force(scorer, genome, tmp_path, backend):
    (tmp_path / "promoter.bw").write_text("old")
    bins = list(bins_of([Interval("chr1", 30_000, 30_001)], genome))
    with pytest.raises(UsageError, match=r"promoter\.bw exists; choose another folder or"):
        write_tracks(scorer, bins, genome, tmp_path, features=["DNase"])
    with pytest.raises(UsageError, match=r"promoter\.bw is a file, and output"):
        write_tracks(scorer, bins, genome, tmp_path / "promoter.bw", features=["DNase"])
    write_tracks(scorer, bins, genome, tmp_path, features=["DNase"], force=True)
    assert len(entries(tmp_path / "promoter.bw")) == 1


def test_a_track_that_cannot_be_written_leaves_nothing(
    scorer, genome, tmp_path, backend, monkeypatch
):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("no space")

    monkeypatch.setattr(BigWigFile, "addEntries", full)
    bins = bins_of([Interval("chr1", 30_000, 30_001)], genome)
    with pytest.raises(OutputError, match=r"promoter\.bw cannot be written: no space"):
        write_tracks(scorer, bins, genome, tmp_path, features=["DNase"])
    assert not list(tmp_path.iterdir())


def test_without_pybigwig_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyBigWig", None)
    with pytest.raises(UsageError, match=r"pip install 'genobird\[bigwig\]'"):
        regions.require_backend()


def test_pybigwig_reads_back_what_was_written(scorer, genome, tmp_path):
    backend = pytest.importorskip("pyBigWig")
    bins = list(bins_of([Interval("chr2", 900, 1_100), Interval("chrN", 1_900, 2_000)], genome))
    [_, path] = write_tracks(scorer, bins, genome, tmp_path, features=["DNase"])
    table = scorer.score_regions(bins, genome, features=["DNase"])
    with backend.open(str(path)) as file:
        assert file.chroms() == dict(genome.contigs)
        for row in table.to_dict("records"):
            found = file.values(row["chrom"], row["start"], row["end"])
            np.testing.assert_allclose(found, row["A|DNase|None"], rtol=1e-6)
