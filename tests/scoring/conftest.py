"""A scorer and a genome for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from genobird.genome.fasta import Genome
from genobird.scoring.scorer import Scorer, load
from tests.scoring.stubs import short_genome


@pytest.fixture(scope="session")
def scorer(tiny_checkpoint: Path) -> Scorer:
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture
def genome(tiny_genome_path: Path) -> Iterator[Genome]:
    with Genome(tiny_genome_path) as genome:
        yield genome


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Genome]:
    """A genome of short contigs; see `stubs`."""
    (tmp_path / "genome").mkdir()
    with Genome(short_genome(tmp_path / "genome")) as genome:
        yield genome
