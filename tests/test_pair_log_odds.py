import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird import pair_log_odds
from genobird.batch import add_specials, pack
from genobird.model import BigBirdConfig, MaskedLMHead
from genobird.pair_log_odds import PairLogOdds
from genobird.tokenizer import CLS, MASK, N_SPECIAL, PAD, SEP

V = 12


def texts(seed, runs=3, length=80):
    rng = np.random.Generator(np.random.Philox(seed))
    return [rng.integers(N_SPECIAL, V, size=length + i).astype(np.uint16) for i in range(runs)]


def by_hand(runs, distance, least):
    """Log-odds of all pairs, counted one by one, [V, V]."""
    every = np.concatenate(runs)
    counts = np.array([(every == piece).sum() for piece in range(V)], dtype=float)
    seen = np.zeros((V, V))
    for run in runs:
        for a, b in zip(run[:-distance], run[distance:], strict=True):
            seen[a, b] += 1
    seen[seen < least] = 0
    return np.log((seen + 1) / (np.outer(counts, counts) / counts.sum() + 1))


@given(st.integers(0, 50), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=20)
def test_log_odds_are_those_of_pairs_counted_one_by_one(seed, least):
    runs = texts(seed)
    found = PairLogOdds.counted(runs, V, least)
    for row, lowest in enumerate(least):
        expected = torch.from_numpy(by_hand(runs, row + 1, lowest)).float()
        # float16 keeps three digits
        torch.testing.assert_close(found.dense(row + 1), expected, rtol=2e-3, atol=2e-3)


@given(st.integers(0, 50), st.integers(0, 9))
@settings(max_examples=20)
def test_lists_give_what_the_dense_table_gives_gradients_too(seed, places):
    made = PairLogOdds.counted(texts(seed), V, [1, 2])
    rng = np.random.Generator(np.random.Philox(seed))
    around = torch.from_numpy(rng.integers(0, V, size=(places, 2, 2)))
    weights = made.weights
    expected = sum(
        weights[d, 0] * made.dense(d + 1)[around[:, d, 0]]
        + weights[d, 1] * made.dense(d + 1)[:, around[:, d, 1]].T
        for d in range(2)
    )
    found = made(around)
    assert found.shape == (places, V)
    torch.testing.assert_close(found, expected)
    asked = torch.randn(places, V)
    (actual,) = torch.autograd.grad((found * asked).sum(), weights)
    (wanted,) = torch.autograd.grad((expected * asked).sum(), weights)
    torch.testing.assert_close(actual, wanted)


def test_specials_say_nothing_and_nothing_is_said_of_them():
    made = PairLogOdds.counted(texts(1), V, [1, 1])
    specials = torch.tensor([PAD, CLS, SEP, MASK])
    assert not made(specials[:, None, None].expand(-1, 2, 2)).any()
    pieces = torch.arange(N_SPECIAL, V)[:, None, None].expand(-1, 2, 2)
    assert not made(pieces)[:, :N_SPECIAL].any()
    marked = [np.insert(run, 20, [MASK, SEP]) for run in texts(1)]
    assert PairLogOdds.counted(marked, V, [1]).counts[:N_SPECIAL].sum() == 0


def test_a_pair_does_not_reach_from_one_text_to_the_next():
    runs = [np.array([5, 6], np.uint16), np.array([7, 8], np.uint16)]
    made = PairLogOdds.counted(runs, V, [1, 1])
    assert (made.pairs(1), made.pairs(2)) == (2, 0)
    assert made.second_1.tolist() == [6, 8]


def test_counting_in_parts_changes_nothing(monkeypatch):
    whole = PairLogOdds.counted(texts(2), V, [1, 2])
    monkeypatch.setattr(pair_log_odds, "_CHUNK", 10)
    for name, value in PairLogOdds.counted(texts(2), V, [1, 2]).state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_saved_table_fits_into_an_empty_one():
    made = PairLogOdds.counted(texts(3), V, [1, 2])
    empty = PairLogOdds(V, 2)
    around = torch.randint(N_SPECIAL, V, (4, 2, 2))
    empty(around)  # what it has looked up so far is forgotten
    empty.load_state_dict(made.state_dict())
    assert torch.equal(empty(around), made(around))
    assert empty.second_1.dtype == torch.uint16
    assert empty.odds_1.dtype == torch.float16


def test_what_stands_around_a_token_is_of_its_own_sequence():
    batch = pack([add_specials(np.array(ids, np.uint16)) for ids in ([6, 7], [8, 9, 10])], 4)
    around = batch.around(torch.tensor([0, 1, 2, 4, 5, 7]), 2)
    assert around.tolist() == [
        [[PAD, 6], [PAD, 7]],
        [[CLS, 7], [PAD, SEP]],
        [[6, SEP], [CLS, PAD]],
        [[PAD, 8], [PAD, 9]],
        [[CLS, 9], [PAD, 10]],
        [[9, SEP], [8, PAD]],
    ]
    assert batch.around(torch.tensor([1]), 0).shape == (1, 0, 2)


def test_a_head_adds_what_it_knows_of_neighbours_and_asks_for_them():
    torch.manual_seed(0)
    head = MaskedLMHead(BigBirdConfig(vocab_size=V, width=8, heads=1, neighbours=1))
    hidden, embedding = torch.randn(3, 8), torch.randn(V, 8)
    around = torch.randint(N_SPECIAL, V, (3, 1, 2))
    plain = head(hidden, embedding, around)
    assert head.reach == 1
    head.neighbours = PairLogOdds.counted(texts(4), V, [1])
    said = head(hidden, embedding, around) - plain
    torch.testing.assert_close(said, head.neighbours(around))
    assert said.abs().max() > 0.1
    with pytest.raises(ValueError, match=r"reads neighbours; pass `batch.around"):
        head(hidden, embedding)
