from __future__ import annotations

import gzip

import pytest

from genobird.errors import FastaError, UsageError
from genobird.genome.fasta import Genome
from pipelines.grch37 import join
from tests.conftest import random_dna, write_fasta


def test_all_contigs_come_in_order_from_files_of_any_packing(tmp_path):
    contigs = {"chr20": random_dna(7_000, 1), "chrX": random_dna(300, 2), "chr1": "ACGTN" * 30}
    names = list(contigs)
    plain = write_fasta(tmp_path / "a.fa", {name: contigs[name] for name in names[:2]})
    packed = write_fasta(tmp_path / "b.fa", {names[2]: contigs[names[2]]})
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress(packed.read_bytes()))
    join([plain, tmp_path / "b.fa.gz"], tmp_path / "all.fa.gz")
    with Genome(tmp_path / "all.fa.gz") as genome:
        assert dict(genome.stream()) == contigs
        assert list(genome.contigs) == names
    assert (tmp_path / "all.fa.gz.gzi").is_file()


def test_what_cannot_be_joined_is_refused_and_leaves_nothing(tiny_genome_path, tmp_path):
    output = tmp_path / "all.fa.gz"
    with pytest.raises(UsageError, match=r"contig chr1 is in .*give one of them"):
        join([tiny_genome_path, tiny_genome_path], output)
    with pytest.raises(UsageError, match=r"no file .*none\.fa"):
        join([tmp_path / "none.fa"], output)
    (tmp_path / "text.fa").write_text("no sequence\n")
    with pytest.raises(FastaError):
        join([tiny_genome_path, tmp_path / "text.fa"], output)
    assert [path.name for path in tmp_path.iterdir()] == ["text.fa"]
    output.touch()
    with pytest.raises(UsageError, match="exists"):
        join([tiny_genome_path], output)
