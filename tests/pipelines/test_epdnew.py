from __future__ import annotations

import pytest

from genobird.errors import AssemblyError, BedError, InputError
from genobird.genome.interval import Interval, read_bed
from genobird.genome.sequence import reverse_complement
from pipelines import epdnew
from pipelines.epdnew import check_initiators, initiator_rates, read_promoters
from tests.conftest import random_dna, write_fasta
from tests.pipelines.test_commands import run

# Three lines as EPD publishes them for hg19, and the starts that they mean.
PUBLISHED = (
    "chr1\t894625\t894685\tNOC2L_1\t900\t-\t894625\t894636\n"
    "chr1\t166808537\t166808597\tPOGK_2\t900\t+\t166808586\t166808597\n"
    "chr1\t166808666\t166808726\tPOGK_1\t900\t+\t166808715\t166808726\n"
)
STARTS = [
    Interval("chr1", 894635, 894636, "-", "NOC2L_1"),
    Interval("chr1", 166808586, 166808587, "+", "POGK_2"),
    Interval("chr1", 166808715, 166808716, "+", "POGK_1"),
]
CHAIN = """chain 100 chr1 1000000 + 100 5000 chr1 249250621 + 1100 6000 1
4900

"""


def written(folder, text, name="epd.bed"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_start_is_taken_from_the_published_intervals(tmp_path):
    assert read_promoters(written(tmp_path, PUBLISHED)) == (STARTS, None)


def test_single_bases_are_the_starts_themselves(tmp_path):
    rows = [f"{p.contig}\t{p.start}\t{p.end}\t{p.name}\t.\t{p.strand}\n" for p in STARTS]
    assert read_promoters(written(tmp_path, "".join(rows)))[0] == STARTS


def test_sga_is_one_based_and_names_its_assembly(tmp_path):
    rows = [
        f"NC_000001.10\tTSS\t{p.start + 1}\t{p.strand}\t1\t{p.name}\t2\n" for p in STARTS
    ] + ["NC_000023.10\tTSS\t5\t+\t1\tX_1\n"]  # fmt: skip
    found, assembly = read_promoters(written(tmp_path, "".join(rows), "epd.sga"))
    assert found == [*STARTS, Interval("chrX", 4, 5, "+", "X_1")]
    assert assembly == "GRCh37"


def test_other_files_are_refused(tmp_path):
    with pytest.raises(BedError, match=r"a covers 300 bp on strand \+; promoters of EPDnew are 60"):
        read_promoters(written(tmp_path, "chr1\t100\t400\ta\t0\t+\n"))
    with pytest.raises(BedError, match=r"a covers 60 bp on strand \.; "):
        read_promoters(written(tmp_path, "chr1\t100\t160\ta\n"))
    with pytest.raises(BedError, match="line 2: an SGA line is"):
        read_promoters(written(tmp_path, "NC_000001.10\tTSS\t5\t+\t1\ta\nNC_000001.10\tTSS\tx\n"))
    rows = "NC_000001.10\tTSS\t5\t+\t1\ta\nNC_000001.11\tTSS\t5\t+\t1\tb\n"
    with pytest.raises(AssemblyError, match="accessions of GRCh37 and GRCh38"):
        read_promoters(written(tmp_path, rows))


def genome_with_initiators(starts):
    """Random bases with CA before and at each start, on its strand."""
    bases = list(random_dna(20_000, seed=6))
    for start, strand in starts:
        at, word = (start - 1, "CA") if strand == "+" else (start, reverse_complement("CA"))
        bases[at : at + 2] = word
    return "".join(bases)


PLACES = [(at, "+-"[at // 100 % 2]) for at in range(200, 19_900, 100)]


def promoters(shift=0):
    return [Interval("chr1", at + shift, at + shift + 1, strand, f"p{at}") for at, strand in PLACES]


def test_initiators_are_found_on_both_strands_and_nowhere_else():
    rates, seen = initiator_rates(promoters(), {"chr1": genome_with_initiators(PLACES)})
    assert seen == len(PLACES)
    assert rates[0] == 1.0
    assert all(rate < 0.4 for shift, rate in rates.items() if shift)


def test_starts_that_are_off_by_one_are_refused(caplog):
    plus = [p for p in promoters(shift=1) if p.strand == "+"] * 2
    with pytest.raises(InputError, match=r"stands -1 bp from the stated starts \(100% against"):
        check_initiators(plus, {"chr1": genome_with_initiators(PLACES)})
    check_initiators(plus[:50], {"chr1": genome_with_initiators(PLACES)})
    assert "50 promoters with sequence are too few" in caplog.text


def test_the_command_lifts_counts_and_checks(tmp_path):
    write_fasta(tmp_path / "g.fa", {"chr1": genome_with_initiators(PLACES)})
    lines = [
        f"chr1\t{at - 1000 - (49 if s == '+' else 10)}\t{at - 1000 + (11 if s == '+' else 50)}"
        f"\tp{at}\t900\t{s}\n"
        for at, s in PLACES
        if at >= 1100
    ]
    written(tmp_path, "".join(lines))
    written(tmp_path, CHAIN, "a.chain")
    base = ("--download", "epd.bed", "--output", "o.bed")
    _, log = run(tmp_path, "epdnew", *base, "--chain", "a.chain", "--fasta", "g.fa")
    found = list(read_bed(tmp_path / "o.bed"))
    assert found == [p for p in promoters() if 1100 <= p.start < 6000]
    assert "initiator at 100.0 %" in log or "too few" in log
    head = (tmp_path / "o.bed").read_text().splitlines()[:3]
    assert head == ["# read: 188", "# lifted: 49", "# no place: 139"]
    _, log = run(tmp_path, "epdnew", *base, code=2)
    assert "o.bed exists" in log


def test_assemblies_that_do_not_fit_the_chain_are_refused(tmp_path):
    written(tmp_path, "NC_000001.11\tTSS\t500\t+\t1\ta\n", "38.sga")
    written(tmp_path, "NC_000001.10\tTSS\t500\t+\t1\ta\n", "37.sga")
    written(tmp_path, CHAIN, "a.chain")
    _, log = run(tmp_path, "epdnew", "--download", "38.sga", "--output", "o.bed", code=1)
    assert "38.sga is on GRCh38; lift it with --chain" in log
    chained = ("--chain", "a.chain", "--output", "o.bed")
    _, log = run(tmp_path, "epdnew", "--download", "37.sga", *chained, code=1)
    assert "37.sga is on GRCh37 already; leave out --chain" in log
    run(tmp_path, "epdnew", "--download", "38.sga", *chained)
    assert next(iter(read_bed(tmp_path / "o.bed"))).start == 1499


@pytest.mark.realdata
def test_real_promoters_have_their_initiator_at_the_start(shared_data):
    from genobird.genome.fasta import Genome

    bed = shared_data / "promoters" / "epdnew_human_006_hg19.bed"
    found = [p for p in read_promoters(bed)[0] if p.contig == "chr20"]
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        text = genome.fetch(Interval("chr20", 0, 58_000_000))
    rates, seen = initiator_rates(found, {"chr20": text})
    assert seen > 700
    assert rates[0] > 0.6
    assert max(rate for shift, rate in rates.items() if shift) < 0.4
    epdnew.check_initiators(found, {"chr20": text})
