"""What `blocked` needs, counted: memory and products grow with the length, not with its square."""

import pytest
import torch

from genobird.attention import BlockLayout, Pattern, blocked
from tests.attention.cases import gradient, inputs
from tests.memory import PeakMemory

WIDTH, HEADS = 32, 2


def peak_bytes(length, kind="bigbird"):
    """The most bytes alive at once in a forward and a backward pass, inputs aside."""
    layout = BlockLayout.pack(Pattern(kind, block_size=16), [length], heads=HEADS)
    q, k, v = (x.detach() for x in inputs(layout, WIDTH, torch.float32))
    blocked.forward(q, k, v, layout, 1.0)  # the lists that are kept with the layout
    with PeakMemory() as forward:
        out = blocked.forward(q, k, v, layout, 1.0)
    with PeakMemory() as backward:
        blocked.backward(gradient(q), q, k, v, out, layout, 1.0)
    return forward, backward


@pytest.mark.parametrize("kind", ["bigbird", "longformer", "google", "window"])
def test_memory_is_linear_in_the_length(kind):
    short, long = peak_bytes(1600, kind), peak_bytes(6400, kind)
    for before, after in zip(short, long, strict=True):
        assert after.peak <= 4.05 * before.peak
        assert after.largest <= 4.05 * before.largest


def test_memory_is_a_few_times_that_of_the_inputs():
    forward, backward = peak_bytes(6400)
    one = 6400 * HEADS * WIDTH * 4
    assert forward.peak < 4 * one
    assert backward.peak < 16 * one


def test_what_is_kept_with_a_layout_is_linear_too():
    kept = []
    for length in (1600, 6400):
        layout = BlockLayout.pack(Pattern(block_size=16), [length], heads=HEADS)
        q, k, v = (x.detach() for x in inputs(layout, WIDTH, torch.float32))
        blocked.forward(q, k, v, layout, 1.0)
        (runs,) = layout.cache.values()
        lists = [part.keys for head in runs.sparse for part in head]
        masks = [part.mask for head in runs.sparse for part in head if part.mask is not None]
        assert sum(x.nbytes for x in lists) <= layout.keys.nbytes
        kept.append(sum(x.nbytes for x in lists + masks))
    assert kept[1] <= 4.3 * kept[0]
