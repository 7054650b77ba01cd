import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genobird.attention import PATTERNS, BlockLayout, Pattern
from genobird.attention.layout import sequence_lists


def rows(pattern: Pattern, n_blocks: int, layer: int = 0, heads: int = 2) -> list[list[list[int]]]:
    counts, keys = sequence_lists(pattern, n_blocks, layer, heads)
    parts = np.split(keys, np.cumsum(counts.reshape(-1))[:-1])
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
    sequence_lists.cache_clear()
    again = sequence_lists(Pattern(kind), 40, 1, 3)
    np.testing.assert_array_equal(first[1], again[1])
    other = sequence_lists(Pattern(kind, seed=1), 40, 1, 3)
    assert np.array_equal(first[1], other[1]) == (kind in ("full", "longformer", "window"))


def test_random_blocks_are_drawn_over_the_whole_sequence_evenly():
    counts = np.zeros(64)
    for layer in range(40):
        for head in rows(Pattern("random", random_blocks=3), 64, layer, heads=12):
            for row in head:
                counts[row] += 1
    expected = 40 * 12 * 64 * 3 / 64
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_packing_shifts_the_lists_of_each_sequence(lengths):
    pattern = Pattern("bigbird", block_size=16)
    packed = BlockLayout.pack(pattern, lengths, layer=2, heads=2)
    starts = packed.row_starts
    for s, length in enumerate(lengths):
        alone = BlockLayout.pack(pattern, [length], layer=2, heads=2)
        for head in range(2):
            for i in range(alone.n_blocks):
                a = head * alone.n_blocks + i
                p = head * packed.n_blocks + packed.cu_blocks[s] + i
                np.testing.assert_array_equal(
                    alone.keys[alone.row_starts[a] : alone.row_starts[a + 1]],
                    packed.keys[starts[p] : starts[p + 1]] - packed.cu_blocks[s],
                )
    assert packed.valid.sum() == sum(lengths)


def test_a_short_sequence_has_full_attention():
    layout = BlockLayout.pack(Pattern("bigbird"), [8 * 64], heads=2)
    assert layout.density == 1.0


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


def test_the_released_codes_pattern_is_full_up_to_eleven_blocks():
    assert BlockLayout.pack(Pattern("google"), [11 * 64]).is_full
    assert not BlockLayout.pack(Pattern("google"), [12 * 64]).is_full


def test_the_released_codes_plan_wants_enough_blocks():
    with pytest.raises(ValueError, match="finds 1 blocks of 256 tokens for row 1, not 3"):
        sequence_lists(Pattern("google", block_size=256), 16, 0, 1)


@pytest.mark.parametrize("kind", ["bigbird", "longformer"])
def test_extra_global_tokens_stand_before_each_sequence(kind):
    pattern = Pattern(kind, block_size=16, global_tokens="extra")
    layout = BlockLayout.pack(pattern, [300, 20], heads=2)
    assert list(layout.cu_blocks) == [0, 2 + 19, 21 + 2 + 2]
    assert layout.extra_tokens().tolist() == [list(range(32)), list(range(336, 368))]
    both = torch.cat([layout.extra_tokens().flatten(), layout.own_tokens()])
    assert both.sort().values.tolist() == list(range(25 * 16))
    assert layout.own_tokens().diff().min() == 1
    assert layout.valid.sum() == 300 + 20 + 2 * 32
    assert layout.padding == ((332, 336), (388, 400))
    seen = layout.token_mask()[0]
    assert (seen[:32, :332] == 1).all()
    assert (seen[:336, :32] == 1).all()


def test_without_extra_tokens_all_are_the_sequences_own():
    layout = BlockLayout.pack(Pattern(block_size=16), [300, 20])
    assert layout.extra_tokens().shape == (2, 0)
    assert layout.own_tokens().tolist() == list(range(21 * 16))


def test_a_layout_knows_its_work():
    layout = BlockLayout.pack(Pattern("bigbird"), [4096], heads=12)
    assert layout.density == pytest.approx(0.152, abs=1e-3)
    assert layout.flops(64) == 4 * 64**3 * layout.counts.sum()
    assert layout.bytes(64, torch.bfloat16) == 4096 * 12 * (4 * 64 * 2 + 4)
    full = BlockLayout.pack(Pattern("full"), [4096], heads=12)
    assert full.flops(64) == 4 * 4096 * 4096 * 768
    assert full.is_full
    assert not layout.is_full


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_layout_draws_itself(kind):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    layout = BlockLayout.pack(Pattern(kind, block_size=16), [40, 300], heads=2)
    ax = layout.plot(head=1, sequence=1)
    picture = np.asarray(ax.images[0].get_array())
    seen = layout.token_mask()[1].numpy()[48::16, 48::16] > 0
    np.testing.assert_array_equal(picture > 0, seen)
    names = {text.get_text() for text in ax.get_legend().get_texts()}
    wanted = {"bigbird": {"global", "window", "random"}, "full": {"seen"}, "window": {"window"}}
    assert names == wanted.get(kind, names)
    assert layout.plot(ax=ax) is ax
    matplotlib.pyplot.close("all")


def test_nonsense_is_refused_at_birth():
    with pytest.raises(ValueError, match="global_tokens 'more' is not one of extra, internal"):
        Pattern(global_tokens="more")
    with pytest.raises(ValueError, match="'extra' wants pattern bigbird or longformer, not 'win"):
        Pattern("window", global_tokens="extra")
    with pytest.raises(ValueError, match="'extra' wants global_blocks of 1 or more, not 0"):
        Pattern(global_blocks=0, global_tokens="extra")
    with pytest.raises(ValueError, match="'google' has global_blocks 2 and window_blocks 3"):
        Pattern("google", window_blocks=5)
    with pytest.raises(ValueError, match="not one of bigbird, full"):
        Pattern("bigbrid")
    with pytest.raises(ValueError, match="window_blocks is 2; it must be odd"):
        Pattern(window_blocks=2)
    with pytest.raises(ValueError, match="each sequence needs a token"):
        BlockLayout.pack(Pattern(), [64, 0])


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


def test_global_seeds_have_no_say():
    state = np.random.get_state()
    try:
        found = []
        for seed in (1, 2):
            np.random.seed(seed)
            sequence_lists.cache_clear()
            found.append(rows(Pattern("bigbird"), 60))
        assert found[0] == found[1]
        assert np.random.get_state()[2] == np.random.RandomState(2).get_state()[2]
    finally:
        np.random.set_state(state)


def test_the_token_mask_spells_out_the_lists():
    layout = BlockLayout.pack(Pattern("window", block_size=4), [6, 17, 4], layer=0, heads=2)
    mask = layout.token_mask()
    starts, lengths = [0, 8, 28], [6, 17, 4]
    for s, (first, length) in enumerate(zip(starts, lengths, strict=True)):
        for q in range(-(-length // 4) * 4):
            row = mask[:, first + q]
            seen = {k for k in range(length) if abs(k // 4 - q // 4) <= 1}
            expected = np.zeros(mask.shape[-1])
            expected[[first + k for k in seen]] = 1
            np.testing.assert_array_equal(row.numpy(), np.stack([expected] * 2), err_msg=str(s))
