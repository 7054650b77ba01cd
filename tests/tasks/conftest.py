"""A small world to train in: shards, chromatin labels and promoter windows over random contigs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird import shards
from genobird.corpus import CorpusSettings, build
from genobird.datasets import ChromatinDataset
from genobird.shards import Shards
from genobird.tasks.data import PretrainBatches, PretrainDataSettings
from genobird.tasks.fit import fit
from genobird.tasks.pretrain import Pretraining
from genobird.tasks.run_folder import Run
from genobird.tokenizer import Tokenizer
from tests.conftest import random_dna
from tests.models import tiny_checkpoint
from tests.tasks.runs import SETTINGS

SPLITS = {
    "train": [["chr1", 0, 21_900], ["chr2", 4_100, 12_000]],
    "validation": [["chr1", 21_900, 30_000]],
    "test": [["chr2", 12_000, 30_000]],
}
FEATURES = 11  # more than a byte


@pytest.fixture(scope="session")
def tokenizer_path(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer as a file."""
    path = tmp_path_factory.mktemp("tokenizer") / "tiny.model"
    tiny_tokenizer.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_shards(
    tiny_genome_path: Path, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Shards:
    """Token shards of one pass over the tiny genome; documents of 400 to 900 bp."""
    folder = tmp_path_factory.mktemp("shards")
    settings = CorpusSettings(passes=1, start_max=500, sentences=(4, 9), sentence_bp=(90, 110))
    corpus = build([tiny_genome_path], folder / "corpus", settings)
    return shards.write(corpus.path, tiny_tokenizer, folder / "shards")


@pytest.fixture(scope="session")
def chromatin_labels(tiny_contigs: dict[str, str]) -> dict[str, np.ndarray]:
    """Random labels of every bin of a contig, uint8 [n, F]."""
    rng = np.random.Generator(np.random.Philox(5))
    sizes = {name: len(tiny_contigs[name]) // 200 for name in ("chr1", "chr2")}
    return {
        name: rng.integers(0, 2, size=(n, FEATURES)).astype(np.uint8) for name, n in sizes.items()
    }


@pytest.fixture(scope="session")
def chromatin_path(
    tiny_contigs: dict[str, str],
    chromatin_labels: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A chromatin dataset; every seventh bin is not usable."""
    path = tmp_path_factory.mktemp("chromatin") / "dataset"
    return write_chromatin(path, tiny_contigs, chromatin_labels)


@pytest.fixture(scope="session")
def auxiliary_path(
    tiny_contigs: dict[str, str],
    chromatin_labels: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two further features of the same bins: the opposites of the first two."""
    path = tmp_path_factory.mktemp("auxiliary") / "dataset"
    return write_chromatin(
        path, tiny_contigs, {c: 1 - y[:, :2] for c, y in chromatin_labels.items()}
    )


def write_chromatin(path: Path, contigs: dict[str, str], found: dict[str, np.ndarray]) -> Path:
    """Write a dataset of the labels [n, F] of each contig's bins."""
    path.mkdir()
    for name, labels in found.items():
        sequence = np.frombuffer(contigs[name].encode(), np.uint8)
        np.save(path / f"{name}.sequence.npy", sequence)
        np.save(path / f"{name}.labels.npy", np.packbits(labels, axis=1, bitorder="little"))
        np.save(path / f"{name}.usable.npy", (np.arange(len(labels)) % 7 > 0).astype(np.uint8))
    count = labels.shape[1]
    names = [f"cell{i}|TF{i}|None" for i in range(count)]
    features = pd.DataFrame({"index": range(count), "name": names, "class": "TF"})
    features.to_csv(path / "features.tsv", sep="\t", index=False)
    index = {
        "bin_bp": 200, "splits": SPLITS, "split": "tiny", "bins": {"train": 100},
        "positives": {"train": [40] * count}, "sources": {},
    }  # fmt: skip
    (path / "index.json").write_text(json.dumps(index))
    return path


@pytest.fixture
def chromatin(chromatin_path: Path) -> ChromatinDataset:
    """The chromatin dataset, open."""
    return ChromatinDataset(chromatin_path)


@pytest.fixture(scope="session")
def promoter_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten promoter windows to train on, four to validate: the start, 5 kb before, 1 kb behind."""
    table = pd.DataFrame(
        {
            "chrom": "chr1",
            "start": np.arange(14) * 10_000,
            "end": np.arange(14) * 10_000 + 6000,
            "strand": "+",
            "name": [f"window{i}" for i in range(14)],
            "label": np.arange(14) % 2,
            "split": ["train"] * 10 + ["validation"] * 4,
            "group": [f"chr1:{i}" for i in range(14)],
            "sequence": [random_dna(6000, seed=100 + i) for i in range(14)],
        }
    )
    path = tmp_path_factory.mktemp("promoters") / "promoters.parquet"
    table.to_parquet(path)
    return path


@pytest.fixture
def model(tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A saved model with all heads, and dropout."""
    made = tiny_checkpoint(tiny_tokenizer, dropout=0.1)
    made.provenance = {"pretraining": {"tokens_seen": 7}}
    made.save(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def batches(tiny_shards: Shards, tiny_tokenizer: Tokenizer) -> PretrainBatches:
    """Masked batches of two sequences of 66 tokens."""
    settings = PretrainDataSettings(max_tokens=66, sequences=2)
    return PretrainBatches(
        tiny_shards, settings, vocab_size=tiny_tokenizer.vocab_size, block_size=16
    )


@pytest.fixture
def task(tiny_tokenizer: Tokenizer) -> Callable[..., Pretraining]:
    """Makes a pretraining task with dropout; changes are to its settings."""

    def task(**changes):
        checkpoint = tiny_checkpoint(tiny_tokenizer, dropout=0.1)
        return Pretraining(checkpoint, SETTINGS.model_copy(update=changes))

    return task


@pytest.fixture
def run(
    batches: PretrainBatches, task: Callable[..., Pretraining], tmp_path: Path
) -> Callable[..., Pretraining]:
    """Train in a folder; `train` replaces what makes the batches."""

    def run(
        name="run", train=batches, *, resume=False, validate=True, validation=batches, **changes
    ):
        trained = task(**changes)
        fit(
            trained,
            train,
            Run(tmp_path / name, resume=resume, progress=False),
            validation=validation if validate else None,
            validations=2,
        )
        return trained

    return run
