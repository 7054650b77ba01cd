"""The released code's pattern, against the port of it in `transformers`."""

import warnings

import numpy as np
import pytest
import torch

from genobird.attention import BlockLayout, Pattern, block_sparse_attention
from tests.assertions import assert_close

transformers = pytest.importorskip("transformers")

HEADS, WIDTH = 2, 8


def their_attention(length: int, layer: int, block_size: int):
    """BigBird's attention in train mode: in eval mode its random blocks are all block 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.big_bird import modeling_big_bird as theirs
    config = transformers.BigBirdConfig(
        hidden_size=HEADS * WIDTH,
        num_attention_heads=HEADS,
        block_size=block_size,
        num_random_blocks=3,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(layer)
    attention = theirs.BigBirdBlockSparseAttention(config, seed=layer).train()
    masks = theirs.BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(1, length), block_size
    )
    blocked, band, from_mask, to_mask = masks
    state = np.random.get_state()

    def run(x):
        out = attention(x, band, from_mask, to_mask, blocked, blocked)[0]
        np.random.set_state(state)  # theirs reseeds numpy's global generator
        return out

    return attention, run


@pytest.mark.parametrize("length", [1024, 3072, 4096, 1536])
@pytest.mark.parametrize("layer", [0, 5])
def test_the_google_pattern_equals_transformers_in_train_mode(length, layer):
    attention, theirs = their_attention(length, layer, 64)
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(1, length, HEADS * WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(1, length, HEADS * WIDTH, generator=generator)
    layout = BlockLayout.pack(Pattern("google"), [length], layer=layer, heads=HEADS)
    projections = [attention.query, attention.key, attention.value]
    q, k, v = (linear(x)[0].view(length, HEADS, WIDTH) for linear in projections)
    ours = block_sparse_attention(q, k, v, layout).flatten(1)[None]
    expected = theirs(x)
    assert_close("o", ours, expected, torch.float32)
    (actual_dx,) = torch.autograd.grad((ours * weight).sum(), x)
    (expected_dx,) = torch.autograd.grad((expected * weight).sum(), x)
    assert_close("dx", actual_dx, expected_dx, torch.float32, gradient=True)


@pytest.mark.parametrize("block_size", [16, 128])
def test_other_block_sizes_are_drawn_as_transformers_draws_them(block_size):
    attention, theirs = their_attention(1024 if block_size == 16 else 3072, 2, block_size)
    length = 1024 if block_size == 16 else 3072
    x = torch.randn(1, length, HEADS * WIDTH, generator=torch.Generator().manual_seed(0))
    pattern = Pattern("google", block_size=block_size)
    layout = BlockLayout.pack(pattern, [length], layer=2, heads=HEADS)
    with torch.no_grad():
        projections = [attention.query, attention.key, attention.value]
        q, k, v = (linear(x)[0].view(length, HEADS, WIDTH) for linear in projections)
        ours = block_sparse_attention(q, k, v, layout).flatten(1)[None]
        assert_close("o", ours, theirs(x), torch.float32)
