from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.batch import add_specials, pack
from genobird.checkpoint import Checkpoint
from genobird.errors import UsageError
from genobird.scoring.likelihood import AllelePair, log_likelihoods, masked_runs
from genobird.scoring.scorer import Scorer
from genobird.tokenizer import MASK
from tests.conftest import random_dna

TEXT = random_dna(400, seed=9)


def pair_of(start: int, ref: str, alt: str) -> AllelePair:
    left, right = TEXT[:start], TEXT[start + 20 :]
    spans = [(start, start + len(allele)) for allele in (ref, alt)]
    return AllelePair(left + ref + right, left + alt + right, *spans)


alleles = st.text("ACGT", min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 380), ref=alleles, alt=alleles)
def test_masked_runs_cover_the_alleles_and_end_at_common_boundaries(
    tiny_tokenizer, start, ref, alt
):
    pair = pair_of(start, ref, alt)
    encodings = [tiny_tokenizer.encode(text) for text in (pair.ref, pair.alt)]
    runs = masked_runs(*encodings, pair.ref_span, pair.alt_span)
    spans = [
        (int(encoding.spans[low, 0]), int(encoding.spans[high - 1, 1]))
        for encoding, (low, high) in zip(encodings, runs, strict=True)
    ]
    for (first, last), (begin, end) in zip(spans, (pair.ref_span, pair.alt_span), strict=True):
        assert first <= begin
        assert end <= last
    # The same bases of the genome are hidden before the alleles and behind them.
    assert spans[0][0] == spans[1][0]
    assert spans[0][1] - pair.ref_span[1] == spans[1][1] - pair.alt_span[1]
    # What is seen on the left is the same, token for token.
    np.testing.assert_array_equal(
        np.cumsum(tiny_tokenizer.lengths[encodings[0].ids[: runs[0][0]]])[-1:],
        np.cumsum(tiny_tokenizer.lengths[encodings[1].ids[: runs[1][0]]])[-1:],
    )


def test_the_score_is_the_sum_of_log_p_of_the_true_tokens_under_the_mask(scorer):
    pair = pair_of(200, "A", "ACCGT")
    parts = scorer.checkpoint
    expected = []
    for turned in (pair, pair.reversed()):
        encodings = [parts.tokenizer.encode(text) for text in (turned.ref, turned.alt)]
        runs = masked_runs(*encodings, turned.ref_span, turned.alt_span)
        for encoding, (low, high) in zip(encodings, runs, strict=True):
            ids = add_specials(encoding.ids).astype(np.int64)
            true = ids[low + 1 : high + 1].copy()
            ids[low + 1 : high + 1] = MASK
            with torch.inference_mode():
                hidden = parts.encoder(pack([ids], parts.encoder.config.block_size))
                logits = parts.mlm(hidden, parts.encoder.embedding.weight)[low + 1 : high + 1]
            log_p = logits.log_softmax(-1)[torch.arange(len(true)), torch.from_numpy(true)]
            expected.append(float(log_p.sum()))
    found = log_likelihoods(scorer, [pair])[0]
    assert math.isclose(found[0], (expected[0] + expected[2]) / 2, abs_tol=1e-4)
    assert math.isclose(found[1], (expected[1] + expected[3]) / 2, abs_tol=1e-4)
    assert (found < 0).all()


def test_alleles_swapped_swap_their_scores(scorer):
    pair = pair_of(100, "ACG", "T")
    swapped = AllelePair(pair.alt, pair.ref, pair.alt_span, pair.ref_span)
    both = log_likelihoods(scorer, [pair, swapped])
    np.testing.assert_allclose(both[0], both[1][::-1], rtol=0, atol=1e-5)


def test_a_model_without_mlm_head_says_so(tiny_checkpoint, scorer):
    assert log_likelihoods(scorer, []).shape == (0, 2)
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.mlm = None
    with pytest.raises(UsageError, match="no masked-language-model head"):
        log_likelihoods(Scorer(checkpoint, device="cpu"), [])
