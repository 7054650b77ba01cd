"""What `blocked` needs, counted: memory and products grow with the length, not with its square."""

import pytest
import torch

from genobird.attention import BlockLayout, Pattern, blocked
from tests.attention.cases import check_against_reference, gradient, inputs
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


def test_what_is_kept_with_the_lists_is_linear_too():
    for length in (1600, 6400):
        layout = BlockLayout.pack(Pattern(block_size=16), [length], heads=HEADS)
        q, k, v = (x.detach() for x in inputs(layout, WIDTH, torch.float32))
        blocked.forward(q, k, v, layout, 1.0)
        (runs,) = (x for x in layout.lists[0].cache.values() if isinstance(x, blocked._Runs))
        every = [run for head in runs.sparse for run in head]
        assert sum(run.keys.nbytes for run in every) <= layout.keys.nbytes
        assert sum(run.last.nbytes for run in every if run.last is not None) <= layout.keys.nbytes
        assert not layout.cache


def test_other_lengths_of_as_many_blocks_need_no_new_runs(monkeypatch):
    pattern = Pattern(block_size=16)
    first = BlockLayout.pack(pattern, [300, 1600], heads=HEADS)
    blocked.forward(*(x.detach() for x in inputs(first, WIDTH, torch.float32)), first, 1.0)
    monkeypatch.setattr(blocked, "_find_runs", lambda *_: pytest.fail("found again"))
    check_against_reference(
        "blocked", BlockLayout.pack(pattern, [1590, 290, 1585], heads=HEADS), WIDTH, torch.float32
    )


@pytest.mark.parametrize("has_units", [False, True])
def test_bfloat16_is_exact_enough_with_and_without_units(monkeypatch, has_units):
    monkeypatch.setattr(blocked, "_multiplies_bfloat16", lambda: has_units)
    layout = BlockLayout.pack(Pattern(block_size=16), [37, 250], heads=HEADS)
    check_against_reference("blocked", layout, WIDTH, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_without_units_gradients_are_those_of_float32_rounded_at_the_end(monkeypatch, dtype):
    monkeypatch.setattr(blocked, "_multiplies_bfloat16", lambda: False)
    layout = BlockLayout.pack(Pattern(block_size=16), [37, 250], heads=HEADS)
    short = [x.detach() for x in inputs(layout, WIDTH, dtype)]
    out, grad = blocked.forward(*short, layout, 1.0), gradient(short[0])
    actual = blocked.backward(grad, *short, out, layout, 1.0)
    wide = (x.float() for x in (grad, *short, out))
    for a, e in zip(actual, blocked.backward(*wide, layout, 1.0), strict=True):
        assert torch.equal(a, e.to(dtype))
