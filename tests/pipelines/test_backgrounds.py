from __future__ import annotations

import gzip

import numpy as np
import pytest

from genobird.errors import BedError, TableError
from genobird.genome.interval import Interval
from pipelines import backgrounds
from pipelines.backgrounds import Contig
from tests.conftest import random_dna

RICH = "GC" * 20_000
POOR = "AT" * 20_000


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def test_gc_content_is_among_known_bases():
    assert backgrounds.gc_fraction("GGNNAA") == 0.5
    assert backgrounds.gc_fraction("NN") == 0.0


def test_a_draw_has_the_gc_content_asked_for():
    contigs = {"chr1": Contig.of(POOR + RICH, [])}
    whole = [Interval("chr1", 0, 80_000)]
    for gc in (0.0, 0.3, 1.0):
        contig, start, matched = backgrounds.draw(contigs, whole, {"chr1": []}, gc, generator())
        assert (contig, matched) == ("chr1", True)
        found = backgrounds.gc_fraction((POOR + RICH)[start : start + 8000])
        assert abs(found - gc) <= 0.01


def test_without_a_match_the_nearest_is_taken_and_said_so():
    contigs = {"chr1": Contig.of(POOR, [])}
    whole = [Interval("chr1", 0, 40_000)]
    _, _, matched = backgrounds.draw(contigs, whole, {"chr1": []}, 0.9, generator())
    assert not matched


def test_draws_stay_in_the_intervals_and_apart():
    contigs = {"chr1": Contig.of(random_dna(60_000, 1), []), "chr2": Contig.of(POOR, [])}
    places = [Interval("chr1", 1000, 30_000), Interval("chr2", 10_000, 99_000)]
    taken = {"chr1": [], "chr2": []}
    rng = generator()
    for _ in range(5):
        contig, start, _ = backgrounds.draw(contigs, places, taken, 0.2, rng)
        low, high = (1000, 30_000) if contig == "chr1" else (10_000, 40_000)
        assert low <= start <= high - 8000
        assert all(abs(start - other) >= 4000 for other in taken[contig])
        taken[contig].append(start)
    assert taken["chr1"] or taken["chr2"]


def test_no_interval_wide_enough_is_no_draw():
    contigs = {"chr1": Contig.of(POOR, [])}
    assert (
        backgrounds.draw(contigs, [Interval("chr1", 0, 7999)], {"chr1": []}, 0, generator()) is None
    )


def test_windows_with_n_or_near_a_tss_are_not_eligible():
    contig = Contig.of(POOR[:20_000] + "N" * 401 + POOR[:19_599], [(5000, 5001)])
    starts = np.array([0, 5001, 7000, 7001, 12_000, 13_000, 20_000, 20_001])
    expected = [False, False, False, True, True, False, False, True]
    assert contig.eligible(starts).tolist() == expected


def test_an_interval_with_a_strand_stands_for_its_first_base(tmp_path):
    bed = tmp_path / "a.bed"
    bed.write_text("chr1\t10\t20\tx\t.\t+\nchr1\t10\t20\ty\t.\t-\nchr2\t10\t20\n")
    assert backgrounds.read_tss(bed) == {"chr1": [(10, 11), (19, 20)], "chr2": [(10, 20)]}
    table = tmp_path / "a.tsv.gz"
    table.write_bytes(gzip.compress(b"chrom\tstart\tend\tStrand\nchr1\t10\t20\t-\n"))
    assert backgrounds.read_tss(table) == {"chr1": [(19, 20)]}
    both = backgrounds.read_all([bed, table])
    assert both["chr1"] == [(10, 11), (19, 20), (19, 20)]


def test_a_file_that_is_neither_bed_nor_table_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("chrom\tfrom\tto\nchr1\t1\t2\n")
    with pytest.raises(TableError, match="has no column start"):
        backgrounds.read_tss(tmp_path / "a.tsv")
    (tmp_path / "a.bed").write_text("chr1\tx\t2\n")
    with pytest.raises(BedError, match="line 1"):
        backgrounds.read_tss(tmp_path / "a.bed")
