"""Fixtures build what tests need; nothing binary is stored."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Read when torch and numpy are loaded, also by processes that tests start: workers of pytest-xdist
# share the cores, and threads that wait for one another would cost more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test asks for two all the same
os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")  # as genobird sets it, before torch is loaded
# Without a GPU kernels run in Triton's interpreter; read where Triton is loaded first, which may be
# by transformers.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from genobird.tokenizer import Tokenizer

# How long an example takes says how busy the machine is; `--hypothesis-profile=drawn` draws others.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("drawn", deadline=None)
settings.load_profile("steady")

# What genobird does not foresee fails a test, with its traceback, instead of ending in one line.
os.environ["GENOBIRD_DEBUG"] = "1"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `tests/golden`."""
    group = parser.getgroup("golden", "recorded outputs of commands")
    group.addoption("--update-golden", action="store_true", help="Record them anew.")
    group.addoption(
        "--exact-golden", action="store_true", help="Allow no rounding: on one machine."
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the workflows, then what is slow: a worker that began so late would be waited for.

    The first test of a workflow runs some fifty commands, 14 minutes of them on a busy machine of
    two cores: it gets more time before it counts as hanging.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (item.get_closest_marker("workflow") is None, item.path not in slow)
    )
    for item in items:
        if item.get_closest_marker("workflow"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their place: gzip's hold the time, and workers would collect other tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Begin each test with the same random state and threads of torch, whatever ran before."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.manual_seed(0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are marked `realdata`."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of programs that are found first; see `tests.warm`."""
    from tests.warm import warm_commands

    folder = tmp_path_factory.mktemp("programs") / "bin"
    with warm_commands(folder, Path(__file__).resolve().parents[1]):
        yield folder


def random_dna(length: int, seed: int) -> str:
    """Draw `length` bases with a GC content of 0.4."""
    rng = np.random.Generator(np.random.Philox(seed))
    return "".join(rng.choice(list("ACGT"), size=length, p=[0.3, 0.2, 0.2, 0.3]))


def other(base: str, shift: int = 1) -> str:
    """Another base: of A, C, G and T the one so many letters on."""
    return "ACGT"[("ACGT".index(base) + shift) % 4]


def write_fasta(path: Path, contigs: dict[str, str], width: int = 60) -> Path:
    """Write contigs as a FASTA file with lines of `width` bases."""
    with path.open("w") as file:
        for name, sequence in contigs.items():
            file.write(f">{name}\n")
            for start in range(0, len(sequence), width):
                file.write(sequence[start : start + width] + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_contigs() -> dict[str, str]:
    """Two random contigs and one with runs of N."""
    n_contig = "N" * 300 + random_dna(900, seed=3) + "N" * 200 + random_dna(600, seed=4)
    return {
        "chr1": random_dna(60_000, seed=1),
        "chr2": random_dna(30_000, seed=2),
        "chrN": n_contig,
    }


@pytest.fixture(scope="session")
def tiny_genome_path(
    tiny_contigs: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_contigs` as a plain FASTA file."""
    return write_fasta(tmp_path_factory.mktemp("genome") / "tiny.fa", tiny_contigs)


@pytest.fixture(scope="session")
def tiny_tokenizer(
    tiny_contigs: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """A BPE tokenizer of 64 pieces, trained on `tiny_contigs`."""
    from genobird.tokenizer import Tokenizer

    text = tiny_contigs["chr1"]
    sentences = [text[start : start + 500] for start in range(0, len(text), 500)]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return Tokenizer.train(sentences, path, vocab_size=64)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random model of two layers: both heads, MLM head, five features.

    Weights are larger than at the start of training, so that one base changes a logit visibly.
    """
    import pandas as pd
    import torch

    from genobird.checkpoint import Checkpoint
    from genobird.heads import Head, HeadConfig
    from genobird.model import PRESETS, BigBird, BigBirdConfig, MaskedLMHead

    torch.manual_seed(0)
    config = BigBirdConfig.model_validate({**PRESETS["tiny"], "vocab_size": 64})
    names = ["A|DNase|None", "A|CTCF|None", "A|CTCF|None", "B|CTCF|None", "B|H3K4me3|None"]
    features = pd.DataFrame(
        {
            "index": [3, 130, 338, 340, 820],
            "name": names,
            "class": ["DNase", "TF", "TF", "TF", "histone"],
        }
    )
    checkpoint = Checkpoint(
        BigBird(config, tiny_tokenizer.bases),
        tiny_tokenizer,
        mlm=MaskedLMHead(config),
        promoter=Head(HeadConfig(outputs=1), config.width),
        chromatin=Head(HeadConfig(outputs=len(names)), config.width),
        features=features,
    )
    with torch.no_grad():
        for module in checkpoint.modules().values():
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.2)
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    checkpoint.save(path)
    return path
