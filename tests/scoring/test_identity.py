from __future__ import annotations

import gzip
import hashlib

import pytest

from genobird import __version__
from genobird.genome.fasta import Genome
from genobird.scoring import identity
from genobird.scoring.identity import hash_of_file, hash_of_genome, identity_of


def test_identity_holds_what_decides_scores(scorer):
    found = identity_of(scorer, None, genome="abc")
    assert (
        found.items()
        >= {
            "version": __version__,
            "model": scorer.model_hash,
            "features": "all",
            "device": "cpu",
            "chunk": scorer.chunk,
            "genome": "abc",
        }.items()
    )
    assert identity_of(scorer, ["TF", "DNase"])["features"] == "TF,DNase"


def test_a_file_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"ACGT")
    assert hash_of_file(path) == hashlib.sha256(b"ACGT").hexdigest()[:16]


@pytest.mark.parametrize("size", [1 << 16, 64])  # all bytes, or samples
def test_a_genome_is_known_wherever_it_lies_and_by_any_name(tmp_path, monkeypatch, size):
    monkeypatch.setattr(identity, "_SAMPLE", size)
    monkeypatch.setattr(identity, "_SAMPLES", 4)

    def hash_of(name: str, text: str) -> str:
        path = tmp_path / name
        packed = name.endswith(".gz")
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
        with Genome(path) as genome:
            return hash_of_genome(genome)

    text = ">chr1\n" + "ACGTTGCA" * 200 + "\n"
    original = hash_of("a.fa", text)
    assert hash_of("b.fa", text) == original
    others = [
        hash_of("c.fa", text.replace("chr1", "chr2")),
        hash_of("d.fa", text[:-2] + "\n"),
        hash_of("e.fa", text.replace("AC", "AT")),
    ]
    assert original not in others
    assert hash_of("f.fa.gz", text) != hash_of("g.fa.gz", text.replace("GCA", "GCG", 1))
