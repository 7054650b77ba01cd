"""The same scores from every attention backend, and how far bfloat16 moves them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from genobird.batch import pack
from genobird.checkpoint import Checkpoint
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import Scorer
from genobird.tokenizer import Tokenizer
from tests.conftest import random_dna
from tests.models import random_ids, tiny_checkpoint, tiny_encoder

ACROSS = 1e-4
"""Largest difference of a float32 score between backends and devices, per unit of its size or 1."""

TEXT = random_dna(900, seed=11)
ALTERED = TEXT[:400] + "GATTACA" + TEXT[401:]


@pytest.fixture(scope="module")
def checkpoint(tiny_tokenizer: Tokenizer) -> Checkpoint:
    return tiny_checkpoint(tiny_tokenizer, width=64, heads=2)


def scores(scorer: Scorer) -> np.ndarray:
    pair = AllelePair(TEXT, ALTERED, (400, 401), (400, 407))
    return np.concatenate(
        [
            scorer.chromatin_logits([TEXT, ALTERED], [400, 400]).ravel(),
            scorer.promoter_logits([TEXT, ALTERED], [400, 400]),
            log_likelihoods(scorer, [pair], segmentations=2)[0].ravel(),
        ]
    )


def through(checkpoint: Checkpoint, backend: str, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """A scorer whose encoder attends by one backend."""
    forward = checkpoint.encoder.forward
    monkeypatch.setattr(checkpoint.encoder, "forward", partial(forward, backend=backend))
    return Scorer(checkpoint)


def test_the_dense_reference_gives_the_same_scores(checkpoint, monkeypatch):
    expected = scores(Scorer(checkpoint))
    found = scores(through(checkpoint, "reference", monkeypatch))
    np.testing.assert_allclose(found, expected, rtol=ACROSS, atol=ACROSS)
    assert np.ptp(expected) > 1


def test_the_kernels_give_the_same_scores(checkpoint, monkeypatch):
    text = TEXT[:360]  # sparse, and short enough for an interpreter
    blocks = len(checkpoint.tokenizer.encode(text)) // 16
    assert blocks > 8
    expected = Scorer(checkpoint).promoter_logits([text], [180])
    found = through(checkpoint, "triton", monkeypatch).promoter_logits([text], [180])
    np.testing.assert_allclose(found, expected, rtol=ACROSS, atol=ACROSS)


SHAPES = [
    {},
    {"global_tokens": "extra"},
    {"global_tokens": "internal"},
    {"stem": "tower"},
    {"norm": "post", "position": "absolute"},
    {"pattern": "full"},
    {"layers": 0},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wanted_states_do_not_depend_on_the_others_being_computed(tiny_tokenizer, shape):
    encoder = tiny_encoder(tiny_tokenizer, **shape)
    batch = pack([random_ids(tiny_tokenizer, n, seed=n) for n in (37, 200, 2, 64)], 16)
    wanted = torch.tensor([0, 100, 101, 130, 260, 300])
    with torch.inference_mode():
        found, expected = encoder(batch, wanted=wanted), encoder(batch)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[wanted], expected[wanted], rtol=1e-5, atol=1e-5)


def test_states_that_no_one_reads_are_not_needed(checkpoint, monkeypatch):
    scorer = Scorer(checkpoint, device="cpu")
    found = scores(scorer)
    forward = checkpoint.encoder.forward
    monkeypatch.setattr(
        checkpoint.encoder, "forward", lambda batch, wanted: forward(batch, wanted=None)
    )
    np.testing.assert_allclose(found, scores(scorer), rtol=0, atol=1e-5)


def test_bf16_moves_scores_little_and_leaves_float32_alone(checkpoint):
    exact = scores(Scorer(checkpoint, device="cpu"))
    coarse = scores(Scorer(checkpoint, device="cpu", precision="bf16"))
    moved = np.sqrt(np.mean((coarse - exact) ** 2)) / np.std(exact)
    assert 1e-5 < moved < 0.05
    np.testing.assert_array_equal(exact, scores(Scorer(checkpoint, device="cpu")))
