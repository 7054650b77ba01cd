from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.batch import PackedBatch, add_specials, pack
from genobird.checkpoint import Checkpoint
from genobird.errors import UsageError
from genobird.inference import Inference
from genobird.scoring.likelihood import AllelePair, draw_cuts, log_likelihoods, masked_runs
from genobird.scoring.scorer import Scorer
from genobird.tokenizer import MASK, Encoding, Tokenizer
from tests.conftest import random_dna

TEXT = random_dna(400, seed=9)


def pair_of(start: int, ref: str, alt: str) -> AllelePair:
    left, right = TEXT[:start], TEXT[start + 20 :]
    spans = [(start, start + len(allele)) for allele in (ref, alt)]
    return AllelePair(left + ref + right, left + alt + right, *spans)


alleles = st.text("ACGT", min_size=1, max_size=12)


@settings(max_examples=60)
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


def one_score(
    scorer: Scorer, pair: AllelePair, ref: Encoding, alt: Encoding
) -> tuple[float, float]:
    """Log p of the masked tokens of REF and ALT, each computed alone."""
    parts = scorer.checkpoint
    runs = masked_runs(ref, alt, pair.ref_span, pair.alt_span)
    sums = []
    for encoding, (low, high) in zip((ref, alt), runs, strict=True):
        ids = add_specials(encoding.ids).astype(np.int64)
        true = ids[low + 1 : high + 1].copy()
        ids[low + 1 : high + 1] = MASK
        with torch.inference_mode():
            hidden = parts.encoder(pack([ids], parts.encoder.config.block_size))
            logits = parts.mlm(hidden, parts.encoder.embedding.weight)[low + 1 : high + 1]
        log_p = logits.log_softmax(-1)[torch.arange(len(true)), torch.from_numpy(true)]
        sums.append(float(log_p.sum()))
    return sums[0], sums[1]


def test_the_score_is_the_sum_of_log_p_of_the_true_tokens_under_the_mask(scorer):
    pair = pair_of(200, "A", "ACCGT")
    tokenizer = scorer.checkpoint.tokenizer
    expected = np.array(
        [
            one_score(scorer, turned, tokenizer.encode(turned.ref), tokenizer.encode(turned.alt))
            for turned in (pair, pair.reversed())
        ]
    ).mean(axis=0)
    found, errors = (values[0] for values in log_likelihoods(scorer, [pair]))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert math.isnan(errors)
    assert (found < 0).all()


def encode_cut(tokenizer: Tokenizer, text: str, edges: tuple[int, int]) -> Encoding:
    parts = [tokenizer.encode(text[a:b]) for a, b in pairwise([0, *edges, len(text)])]
    ids = np.concatenate([part.ids for part in parts])
    ends = np.cumsum(tokenizer.lengths[ids], dtype=np.int64)
    return Encoding(ids, np.stack([ends - tokenizer.lengths[ids], ends], axis=1))


def test_the_mean_and_its_error_are_those_over_segmentations_with_forced_boundaries(scorer):
    tokenizer = scorer.checkpoint.tokenizer
    pair = pair_of(200, "ACG", "T")
    cuts = draw_cuts(int(tokenizer.lengths.max()), 2, seed=3)
    by_strand = []
    for turned in (pair, pair.reversed()):
        encoded = [[tokenizer.encode(turned.ref), tokenizer.encode(turned.alt)]]
        for before, behind in cuts:
            edges = [
                (low - before, high + behind) for low, high in (turned.ref_span, turned.alt_span)
            ]
            texts = zip((turned.ref, turned.alt), edges, strict=True)
            encoded.append([encode_cut(tokenizer, text, here) for text, here in texts])
        by_strand.append([one_score(scorer, turned, *both) for both in encoded])
    scores = np.array(by_strand)  # [strand, segmentation, allele]
    ratios = scores[..., 1] - scores[..., 0]
    means, errors = log_likelihoods(scorer, [pair], segmentations=3, seed=3)
    np.testing.assert_allclose(means[0], scores.mean(axis=(0, 1)), atol=1e-4)
    expected = np.sqrt((ratios.var(axis=1, ddof=1) / 3).sum()) / 2
    np.testing.assert_allclose(errors[0], expected, atol=1e-4)
    assert errors[0] > 1e-2
    other, _ = log_likelihoods(scorer, [pair], segmentations=3, seed=4)
    assert not np.array_equal(other, means)


@settings(max_examples=40)
@given(start=st.integers(0, 380), ref=alleles, alt=alleles, seed=st.integers(0, 9))
def test_a_forced_boundary_bounds_what_is_masked(tiny_tokenizer, start, ref, alt, seed):
    pair = pair_of(start, ref, alt)
    [(before, behind)] = draw_cuts(int(tiny_tokenizer.lengths.max()), 1, seed)
    encodings = []
    for text, (low, high) in ((pair.ref, pair.ref_span), (pair.alt, pair.alt_span)):
        edges = (max(0, low - before), min(len(text), high + behind))
        encodings.append(encode_cut(tiny_tokenizer, text, edges))
    runs = masked_runs(*encodings, pair.ref_span, pair.alt_span)
    spans = (pair.ref_span, pair.alt_span)
    for encoding, (first, last), span in zip(encodings, runs, spans, strict=True):
        assert max(0, span[0] - before) <= encoding.spans[first, 0] <= span[0]
        assert span[1] <= encoding.spans[last - 1, 1] <= span[1] + behind


def test_boundaries_are_drawn_from_the_seed_alone_and_repeat_as_late_as_possible():
    assert draw_cuts(12, 3, seed=0) == draw_cuts(12, 3, seed=0) == draw_cuts(12, 9, seed=0)[:3]
    assert draw_cuts(12, 3, seed=0) != draw_cuts(12, 3, seed=1)
    assert draw_cuts(12, 0, seed=0) == []
    for side in zip(*draw_cuts(5, 12, seed=2), strict=True):
        assert sorted(side[:5]) == sorted(side[5:10]) == list(range(5))
        assert len(set(side[10:])) == 2


@pytest.mark.parametrize("segmentations", [1, 3])
def test_alleles_swapped_swap_their_scores_to_the_bit(scorer, segmentations):
    pair = pair_of(100, "ACG", "T")
    there, error = log_likelihoods(scorer, [pair], segmentations)
    back, error_back = log_likelihoods(scorer, [pair.swapped()], segmentations)
    np.testing.assert_array_equal(there, back[:, ::-1])
    np.testing.assert_array_equal(error, error_back)


def test_a_model_without_mlm_head_says_so(tiny_checkpoint, scorer):
    assert [values.shape for values in log_likelihoods(scorer, [])] == [(0, 2), (0,)]
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.mlm = None
    with pytest.raises(UsageError, match="no masked-language-model head"):
        log_likelihoods(Scorer(checkpoint, device="cpu"), [])


def test_what_is_the_same_under_the_mask_is_computed_once(scorer, monkeypatch):
    fed: list[bytes] = []
    encode = Inference.encode

    def noted(self: Inference, batch: PackedBatch, wanted: torch.Tensor) -> torch.Tensor:
        for start, length in zip(batch.starts.tolist(), batch.lengths, strict=True):
            fed.append(batch.ids[start : start + length].numpy().tobytes())
        return encode(self, batch, wanted)

    monkeypatch.setattr(Inference, "encode", noted)
    one, other = pair_of(100, "A", "C"), pair_of(200, "A", "C")
    both, _ = log_likelihoods(scorer, [one, other, one, one.swapped()])
    assert len(fed) == len(set(fed)) < 8  # two sites, two alleles, two strands
    np.testing.assert_array_equal(both[0], both[2])
    np.testing.assert_array_equal(both[0], both[3, ::-1])
    for pair, values in zip((one, other), both, strict=False):
        alone, _ = log_likelihoods(scorer, [pair])
        np.testing.assert_allclose(alone[0], values, rtol=0, atol=1e-4)
