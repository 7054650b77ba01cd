from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pysam
import pytest

import genobird
from genobird.datasets import ChromatinDataset
from genobird.errors import UsageError, VcfError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, parse_region, read_bed
from genobird.genome.sequence import base_codes
from genobird.motifs import Motif
from pipelines import demo, grch37, manifest
from pipelines.demo import Snp, broken_site
from tests.conftest import random_dna, write_fasta

DEMO = Path(genobird.__file__).parent / "bundled" / "demo"
SEQUENCE = random_dna(200_000, seed=21)
REGION = Interval("chr1", 50_000, 150_000)


def tss(place, name):
    return Interval("chr1", place, place + 1, "+", name)


def snp(place, name="rs1", ref=None):
    base = SEQUENCE[place]
    return Snp(place, name, ref or base, "A" if base != "A" else "C")


def build(tmp_path, output="d", **options):
    path = tmp_path / "g.fa"
    if not path.exists():
        write_fasta(path, {"chr1": SEQUENCE})
    promoters = [tss(60_000, "outside"), tss(90_000, "a"), tss(100_000, "b")]
    snps = [snp(69_999), snp(90_010, "rs2"), snp(120_000, "rs3")]
    arguments = {"region": REGION, "tss": promoters, "snps": snps, "exclude": {}} | options
    with grch37.locate([path], ["chr1"]) as found:
        return demo.build(found["chr1"], output=tmp_path / output, **arguments)


def test_only_the_region_is_sequence_and_coordinates_are_true(tmp_path):
    counts = build(tmp_path)
    assert counts == {"promoters": 2, "background places": 1, "variants": 2}
    with Genome(tmp_path / "d" / "chr1.demo.fa.gz") as genome:
        assert genome.contigs == {"chr1": 200_000}
        text = genome.fetch(Interval("chr1", 0, 200_000))
    assert text == "N" * 50_000 + SEQUENCE[50_000:150_000] + "N" * 50_000
    places = list(read_bed(tmp_path / "d" / "regions.bed"))
    assert places == sorted(places)
    assert {p.name for p in places} == {"a", "b", "background_1"}
    assert [p.name for p in read_bed(tmp_path / "d" / "promoters.bed")] == ["a", "b"]
    for place in places:
        assert 70_000 <= place.start < 130_000
        assert (place.strand == ".") == place.name.startswith("background")
    with pysam.VariantFile(str(tmp_path / "d" / "variants.vcf")) as file:
        assert [(r.pos, r.id, r.ref) for r in file] == [
            (90_011, "rs2", SEQUENCE[90_010]),
            (120_001, "rs3", SEQUENCE[120_000]),
        ]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        build(tmp_path, name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_background_places_keep_away_from_any_tss():
    known = [(start, start + 1) for start in range(70_000, 120_000, 8000)]
    region = Interval("chr1", 70_000, 150_000)
    places = demo.draw_backgrounds(region, SEQUENCE, known, 10, seed=0)
    for place in places:
        assert min(abs(place.start - start) for start, _ in known) > 5000
    with pytest.raises(UsageError, match="has room for 0 of 1"):
        demo.draw_backgrounds(region, SEQUENCE, [(0, 200_000)], 1, seed=0)


def test_variants_of_another_assembly_are_refused(tmp_path):
    wrong = snp(90_010, ref="A" if SEQUENCE[90_010] != "A" else "C")
    with pytest.raises(VcfError, match="one assembly"):
        build(tmp_path, snps=[wrong])


def test_a_region_without_promoters_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no promoter lies 20 kb inside"):
        build(tmp_path, tss=[tss(60_000, "x")])


def test_the_demo_is_cut_from_the_test_part_only():
    splits = manifest.load_splits("available")
    demo.check_unseen(parse_region(demo.REGION), splits)
    with pytest.raises(UsageError, match="is not in the test part"):
        demo.check_unseen(parse_region("chr20:53,000,001-55,000,000"), splits)


def test_only_snps_with_an_rsid_are_read(tmp_path):
    path = tmp_path / "a.vcf"
    header = demo.VCF_HEADER.format(contig="chr1", length=200_000)
    rows = [
        "60000\trs0\tA\tC", "90011\trs1\tA\tC", "90012\trs2\tA\tCC", "90013\t.\tA\tC",
        "90014\trs3\tA\tC,G",
    ]  # fmt: skip
    path.write_text(header + "".join(f"chr1\t{row}\t.\t.\t.\n" for row in rows))
    region = Interval("chr1", 60_000, 150_000)
    assert demo.read_snps(path, region) == [Snp(90_010, "rs1", "A", "C")]
    path.write_text("no VCF\n")
    with pytest.raises(VcfError, match="cannot be read as VCF"):
        demo.read_snps(path, region)


def test_the_bundled_demo_is_whole_and_lies_in_sequence():
    region = parse_region(demo.REGION)
    with Genome(DEMO / "chr20.demo.fa.gz") as genome:
        assert genome.contigs == {"chr20": 63_025_520}
        assert genome.assembly == "GRCh37"
        assert genome.fetch(region).count("N") == 0
        before = Interval("chr20", region.start - 1000, region.start)
        assert set(genome.fetch(before)) == {"N"}
        with pysam.VariantFile(str(DEMO / "variants.vcf")) as file:
            records = [(r.pos - 1, r.ref) for r in file]
        for position, ref in records:
            assert genome.fetch(Interval("chr20", position, position + len(ref))) == ref
            assert region.start + 20_000 <= position < region.end - 20_000
    promoters = list(read_bed(DEMO / "promoters.bed"))
    places = list(read_bed(DEMO / "regions.bed"))
    assert (len(promoters), len(places), len(records)) == (27, 36, 11)
    assert {p.strand for p in promoters} == {"+", "-"}
    for place in places:
        assert region.start + 20_000 <= place.start < region.end - 20_000


@pytest.mark.realdata
def test_the_bundled_demo_is_the_published_sequence(shared_data):
    region = parse_region(demo.REGION)
    path = shared_data / "genome" / "chr20.fa.gz"
    with Genome(path) as source, Genome(DEMO / "chr20.demo.fa.gz") as bundled:
        assert source.fetch(region) == bundled.fetch(region)
    published = set(read_bed(shared_data / "promoters" / "epdnew_human_006_hg19.bed"))
    assert set(read_bed(DEMO / "promoters.bed")) <= published


def test_the_strongest_site_of_a_factor_is_broken(tmp_path):
    word = "GATTACAGGC"
    counts = np.zeros((4, len(word)))
    counts[base_codes(word), range(len(word))] = 20
    sequence = list(random_dna(20_000, seed=4))
    sequence[8_095 : 8_095 + len(word)] = word
    labels = np.zeros((100, 1), dtype=np.uint8)
    labels[40] = 1
    np.save(tmp_path / "c.sequence.npy", np.frombuffer("".join(sequence).encode(), np.uint8))
    np.save(tmp_path / "c.labels.npy", labels)
    np.save(tmp_path / "c.usable.npy", np.ones(100, np.uint8))
    (tmp_path / "features.tsv").write_text("index\tname\tclass\n1\tk|F|None\tTF\n")
    index = {"bin_bp": 200, "splits": {"test": [["c", 0, 20_000]]}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    dataset, motif = ChromatinDataset(tmp_path), Motif("m", "F", counts)
    snp = broken_site(dataset, "F", motif, [0], Interval("c", 1_000, 19_000))
    assert (snp.position, snp.ref, snp.name) == (8_095, word, "F_site_broken")
    assert sorted(snp.alt) == sorted(word)
    assert snp.alt != word
    with pytest.raises(UsageError, match="no strong match of F"):
        broken_site(dataset, "F", motif, [0], Interval("c", 9_000, 19_000))
