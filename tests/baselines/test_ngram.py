from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.baselines.ngram import NgramSettings, Text, ngram_bits
from genobird.errors import InputError, UsageError

SIZE = 3
runs = st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=30), min_size=1, max_size=4)
shapes = st.builds(
    NgramSettings,
    order=st.integers(1, 4),
    smoothing=st.sampled_from(["kneser_ney", "dirichlet"]),
    strength=st.sampled_from([0.5, 3.0]),
)


def text(parts, size=SIZE):
    firsts = np.cumsum([0, *map(len, parts)])[:-1]
    return Text(np.concatenate([np.array(part, dtype=np.uint8) for part in parts]), firsts, size)


class Dictionary:
    """The same model, written with dictionaries from its definition."""

    def __init__(self, parts, shape, size=SIZE):
        self.size, self.shape = size, shape
        raw = [
            Counter(tuple(part[i : i + n]) for part in parts for i in range(len(part) - n + 1))
            for n in range(1, shape.order + 1)
        ]
        self.counts = list(raw)
        if shape.smoothing == "kneser_ney":
            for n in range(shape.order - 1):
                self.counts[n] = Counter(gram[1:] for gram in raw[n + 1])

    def p(self, context, symbol):
        shorter = self.p(context[1:], symbol) if context else 1 / self.size
        counts = self.counts[len(context)]
        followers = {g[-1]: c for g, c in counts.items() if g[:-1] == context}
        total = sum(followers.values())
        if self.shape.smoothing == "dirichlet":
            strength = self.shape.strength
            return (followers.get(symbol, 0) + strength * shorter) / (total + strength)
        if not followers:
            return shorter
        once = sum(c == 1 for c in counts.values())
        twice = sum(c == 2 for c in counts.values())
        discount = once / (once + 2 * twice) if once else 0.5
        kept = max(followers.get(symbol, 0) - discount, 0) / total
        return kept + discount * len(followers) / total * shorter


@settings(max_examples=60)
@given(runs, runs, shapes)
def test_it_is_the_model_of_the_definition(train, test, shape):
    oracle = Dictionary(train, shape)
    wanted = [
        -np.log2(oracle.p(tuple(part[max(0, i - shape.order + 1) : i]), part[i]))
        for part in test
        for i in range(len(part))
    ]
    np.testing.assert_allclose(ngram_bits(text(train), text(test), shape), wanted, rtol=1e-9)


@settings(max_examples=40)
@given(runs, st.lists(st.integers(0, SIZE - 1), max_size=5), shapes)
def test_probabilities_of_all_symbols_sum_to_one(train, context, shape):
    p = [2 ** -ngram_bits(text(train), text([[*context, s]]), shape)[-1] for s in range(SIZE)]
    assert sum(p) == pytest.approx(1)
    assert min(p) > 0


def test_long_ngrams_are_numbered_by_64_bits_and_give_the_same():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 5, (2, 400)).tolist()
    shape = NgramSettings(order=15, smoothing="dirichlet")
    oracle = Dictionary([train], shape, 5)
    wanted = -np.log2(oracle.p(tuple(test[200:214]), test[214]))
    found = ngram_bits(text([train], 5), text([test], 5), shape)
    assert found[214] == pytest.approx(wanted)


def test_what_repeats_is_predicted_well_and_noise_is_not():
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 4, 20_000).tolist()
    shape = NgramSettings(order=6, smoothing="dirichlet")
    known = ngram_bits(text([noise], 4), text([noise[:500]], 4), shape)
    fresh = ngram_bits(text([noise], 4), text([rng.integers(0, 4, 3000).tolist()], 4), shape)
    assert fresh.mean() == pytest.approx(2.0, abs=0.1)
    period = [0, 1, 2, 3, 3, 1] * 400
    assert ngram_bits(text([period], 4), text([period], 4), shape)[6:].max() < 0.1
    assert known.mean() < fresh.mean()


def test_what_cannot_be_numbered_or_counted_is_refused():
    one = text([[0, 1]], 4096)
    with pytest.raises(UsageError, match="order 6 of 4096 symbols; at most 5 is possible"):
        ngram_bits(one, one, NgramSettings(order=6, smoothing="kneser_ney"))
    with pytest.raises(InputError, match="both texts are of one alphabet"):
        ngram_bits(one, text([[0]]), NgramSettings(order=2, smoothing="kneser_ney"))
