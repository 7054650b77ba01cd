import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.attention import PATTERNS, Pattern
from genobird.attention.pattern import Recent, _recent, sequence_lists


def rows(pattern: Pattern, n_blocks: int, layer: int = 0, heads: int = 2) -> list[list[list[int]]]:
    lists = sequence_lists(pattern, n_blocks, layer, heads)
    parts = np.split(lists.keys, lists.row_starts[1:-1])
    return [[list(parts[h * n_blocks + i]) for i in range(n_blocks)] for h in range(heads)]


@given(st.integers(1, 70), st.integers(0, 3), st.sampled_from([1, 3, 5]), st.integers(0, 5))
def test_a_bigbird_row_is_globals_window_and_distinct_random_blocks(n, g, w, r):
    pattern = Pattern("bigbird", global_blocks=g, window_blocks=w, random_blocks=r)
    for head in rows(pattern, n):
        for i, row in enumerate(head):
            assert row == sorted(set(row))
            if i < g or n <= g + w + r:
                assert row == list(range(n))
                continue
            must = set(range(min(g, n))) | {
                j for j in range(i - w // 2, i + w // 2 + 1) if 0 <= j < n
            }
            assert must <= set(row)
            assert len(row) == min(n, len(must) + r)


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_layout_repeats_itself_and_changes_with_the_seed(kind):
    first = sequence_lists(Pattern(kind), 40, 1, 3)
    _recent.clear()
    again = sequence_lists(Pattern(kind), 40, 1, 3)
    np.testing.assert_array_equal(first.keys, again.keys)
    other = sequence_lists(Pattern(kind, seed=1), 40, 1, 3)
    assert np.array_equal(first.keys, other.keys) == (kind in ("full", "longformer", "window"))


def test_random_blocks_are_drawn_over_the_whole_sequence_evenly():
    counts = np.zeros(64)
    for layer in range(40):
        for head in rows(Pattern("random", random_blocks=3), 64, layer, heads=12):
            for row in head:
                counts[row] += 1
    expected = 40 * 12 * 64 * 3 / 64
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_the_released_codes_pattern_has_its_first_and_last_block_global():
    for head in rows(Pattern("google"), 40, layer=3):
        assert head[0] == head[-1] == list(range(40))
        for i, row in enumerate(head[1:-1], start=1):
            fixed = {0, i - 1, i, i + 1, 39}
            assert fixed <= set(row)
            random = set(row) - fixed
            assert len(random) == 3
            assert random <= set(
                range(1, 10)
            )  # the plan's pool: 2 r + 5 = 11 blocks, ends excluded


def test_in_the_released_codes_pattern_a_random_block_may_repeat_the_last_one():
    counts = 0
    for layer in range(4):
        for head in rows(Pattern("google"), 16, layer):
            counts += sum(row.count(15) == 2 for row in head)
            assert all(
                len(row) == (16 if i in (0, 15) else 7 if i in (1, 14) else 8)
                for i, row in enumerate(head)
            )
    assert counts > 0


def test_the_released_codes_plan_wants_enough_blocks():
    with pytest.raises(ValueError, match="finds 1 blocks of 256 tokens for row 1, not 3"):
        sequence_lists(Pattern("google", block_size=256), 16, 0, 1)


@pytest.mark.parametrize("kind", ["longformer", "random", "random+window", "window"])
@given(n=st.integers(1, 40), g=st.integers(0, 3), w=st.sampled_from([1, 3, 5]), r=st.integers(0, 4))
def test_a_pattern_sees_the_blocks_it_is_called_after(kind, n, g, w, r):
    pattern = Pattern(kind, global_blocks=g, window_blocks=w, random_blocks=r)
    has_global, has_window = kind == "longformer", "window" in kind or kind == "longformer"
    for head in rows(pattern, n):
        for i, row in enumerate(head):
            assert row == sorted(set(row))
            if has_global and i < g:
                assert row == list(range(n))
                continue
            must = set(range(min(g, n))) if has_global else set()
            if has_window:
                must |= {j for j in range(i - w // 2, i + w // 2 + 1) if 0 <= j < n}
            assert must <= set(row)
            assert len(row) == min(n, len(must) + (r if "random" in kind else 0))


def test_each_layer_and_head_draws_its_own_random_blocks():
    pattern = Pattern("bigbird")
    first, second = rows(pattern, 60, layer=0)
    assert first != second
    assert rows(pattern, 60, layer=1)[0] != first


@pytest.mark.parametrize("kind", PATTERNS)
def test_layers_that_draw_nothing_share_their_lists(kind):
    lists = [sequence_lists(Pattern(kind), n, layer, 2) for n in (5, 60) for layer in (0, 7)]
    drawn = kind in ("bigbird", "google", "random", "random+window")
    assert (lists[0] is lists[1]) == (not drawn or kind in ("bigbird", "google"))  # is it short?
    assert (lists[2] is lists[3]) == (not drawn)


def test_global_seeds_have_no_say():
    state = np.random.get_state()
    try:
        found = []
        for seed in (1, 2):
            np.random.seed(seed)
            _recent.clear()
            found.append(rows(Pattern("bigbird"), 60))
        assert found[0] == found[1]
        assert np.random.get_state()[2] == np.random.RandomState(2).get_state()[2]
    finally:
        np.random.set_state(state)


def test_what_is_kept_of_the_lists_is_bounded_in_bytes():
    def key(blocks):
        return Pattern("full"), blocks, 0, 2

    size = Recent(0).get(key(8)).n_bytes
    recent = Recent(3 * size)
    first, second = recent.get(key(8)), recent.get(key(7))
    assert recent.get(key(8)) is first
    third = recent.get(key(9))  # the one asked for longest ago goes
    assert recent.get(key(9)) is third
    assert recent.get(key(8)) is first
    assert recent.get(key(7)) is not second
    large = recent.get(key(16))  # larger than all that may be kept
    assert recent.get(key(16)) is not large
