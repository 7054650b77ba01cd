from __future__ import annotations

import pytest
import yaml

from genobird.errors import AssemblyError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from pipelines import grch37, manifest
from pipelines.manifest import Manifest
from tests.conftest import random_dna, write_fasta


def facts(**contigs):
    return Manifest(
        kind="files", name="tiny", assembly="tiny", citation="None.", contigs=contigs, files=[]
    )


@pytest.fixture
def other_path(tmp_path):
    return write_fasta(tmp_path / "other.fa", {"20": random_dna(500, 9) + "NN", "extra": "ACGT"})


def test_contigs_are_reported_with_what_is_known_of_them(tiny_genome_path, tiny_contigs):
    reports = grch37.check([tiny_genome_path], facts(chr1=60_000, chrN=2000))
    found = [(r.contig, r.length, r.known, r.whole) for r in reports]
    known = len(tiny_contigs["chrN"]) - tiny_contigs["chrN"].count("N")
    assert found == [("chr1", 60_000, 60_000, True), ("chrN", 2000, known, True)]


def test_names_of_another_style_are_understood(other_path):
    (report,) = grch37.check([other_path], facts(chr20=502))
    assert (report.contig, report.name, report.known) == ("chr20", "20", 500)


def test_lengths_must_be_the_assembly_s(tiny_genome_path):
    with pytest.raises(AssemblyError, match="chr1 has 60,000 bp, tiny has 59,999 bp"):
        grch37.check([tiny_genome_path], facts(chr1=59_999), allow_prefix=True)
    with pytest.raises(AssemblyError, match="--allow-prefix"):
        grch37.check([tiny_genome_path], facts(chr1=70_000))
    (report,) = grch37.check([tiny_genome_path], facts(chr1=70_000), allow_prefix=True)
    assert not report.whole


def test_a_genome_without_listed_contigs_is_refused(tiny_genome_path):
    with pytest.raises(UsageError, match="no contig of tiny"):
        grch37.check([tiny_genome_path], facts(chr7=1))


def test_contigs_are_found_over_several_files(tiny_genome_path, other_path, tiny_contigs):
    with grch37.locate([other_path, tiny_genome_path], ["chr2", "chr20", "chr9"]) as found:
        assert list(found) == ["chr2", "chr20"]
        assert found["chr2"].sequence() == tiny_contigs["chr2"]
        assert found["chr20"].name == "20"


def test_a_contig_in_two_files_is_refused(tiny_genome_path):
    with (
        pytest.raises(UsageError, match="give one of them"),
        grch37.locate([tiny_genome_path, tiny_genome_path], ["chr1"]),
    ):
        pass


def test_files_without_any_wanted_contig_are_refused(tiny_genome_path):
    with (
        pytest.raises(UsageError, match="none of the contigs chr7"),
        grch37.locate([tiny_genome_path], ["chr7"]),
    ):
        pass


def test_the_prepared_genome_is_indexed_and_the_same(tiny_genome_path, other_path, tmp_path):
    output = tmp_path / "genome.fa.gz"
    known = tmp_path / "tiny.yaml"
    lengths = facts(chr20=502, chr2=30_000, chr1=60_000)
    known.write_text(yaml.safe_dump(lengths.model_dump(mode="json")))
    grch37.prepare([tiny_genome_path, other_path], output, str(known))
    assert {p.name for p in tmp_path.glob("genome*")} == {
        "genome.fa.gz", "genome.fa.gz.fai", "genome.fa.gz.gzi",
    }  # fmt: skip
    with Genome(output) as genome, Genome(tiny_genome_path) as source:
        assert genome.contigs == {"chr20": 502, "chr2": 30_000, "chr1": 60_000}
        place = Interval("chr1", 59_900, 60_000)
        assert genome.fetch(place) == source.fetch(place)
    with pytest.raises(UsageError, match="--force"):
        grch37.prepare([tiny_genome_path], output, str(known))
    with pytest.raises(UsageError, match=r"must end in \.fa\.gz"):
        grch37.write_bgzf([], tmp_path / "genome.fa")


@pytest.mark.realdata
def test_the_shared_genome_is_grch37(shared_data):
    path = shared_data / "genome" / "chr20.fa.gz"
    (report,) = grch37.check([path], manifest.load("grch37"))
    assert (report.contig, report.whole, report.known) == ("chr20", True, 54_640_000)
