from __future__ import annotations

import pytest

from genobird.errors import ChainError, UsageError
from genobird.genome.interval import Interval, read_bed
from pipelines import manifest
from pipelines.epdnew import lift

CHAIN = """chain 100 chrA 1000 + 100 300 chrB 2000 + 1100 1300 1
200

chain 90 chrA 1000 + 400 500 chrB 2000 - 400 500 2
100

chain 80 chrA 1000 + 600 700 chrAlt 500 + 0 100 3
100

chain 70 chrA 1000 + 200 250 chrB 2000 + 1700 1750 4
50

"""


def tss(place, strand="+"):
    return Interval("chrA", place, place + 1, strand, f"p{place}")


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "a.over.chain"
    path.write_text(CHAIN)
    return path


def test_bases_move_along_the_chain_and_turn_with_it(chain):
    lifted, dropped = lift([tss(110), tss(400), tss(499, "-")], chain, ["chrB"])
    assert lifted == [
        Interval("chrB", 1110, 1111, "+", "p110"),
        Interval("chrB", 1500, 1501, "+", "p499"),
        Interval("chrB", 1599, 1600, "-", "p400"),
    ]
    assert not dropped


def test_what_has_no_single_place_is_counted(chain):
    lifted, dropped = lift([tss(50), tss(210), tss(650)], chain, ["chrB"])
    assert lifted == []
    assert dropped == {"no place": 1, "several places": 1, "on a contig that is not listed": 1}


def test_a_chain_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        lift([], tmp_path / "absent", [])
    (tmp_path / "cut.chain").write_text(CHAIN[:90])
    with pytest.raises(ChainError, match="does not belong in a chain"):
        lift([], tmp_path / "cut.chain", [])


@pytest.mark.realdata
def test_real_promoters_come_back_to_their_base(shared_data):
    contigs = manifest.load("grch37").contigs
    there, back = (
        shared_data / "liftover" / f"{name}.over.chain.gz" for name in ("hg19ToHg38", "hg38ToHg19")
    )
    bed = read_bed(shared_data / "promoters" / "epdnew_human_006_hg19.bed")
    chosen = sorted(promoter for promoter in bed if promoter.contig == "chr20")
    lifted, dropped = lift(chosen, there, contigs)
    assert not dropped
    assert lift(lifted, back, contigs)[0] == chosen
