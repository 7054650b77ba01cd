import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genobird.attention import PATTERNS, BlockLayout, Pattern


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


def test_the_released_codes_pattern_is_full_up_to_eleven_blocks():
    assert BlockLayout.pack(Pattern("google"), [11 * 64]).is_full
    assert not BlockLayout.pack(Pattern("google"), [12 * 64]).is_full


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
