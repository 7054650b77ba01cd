"""The Triton kernels, in Triton's interpreter where there is no GPU (conftest.py)."""

import pytest
import torch

from genobird.attention import PATTERNS, BlockLayout, Pattern, block_sparse_attention, plan
from tests.attention.cases import check_against_reference, gradient, inputs, run

pytest.importorskip("triton")


def packed(kind="bigbird", lengths=(1, 37, 130), block_size=16, heads=2) -> BlockLayout:
    pattern = Pattern(kind, block_size=block_size, random_blocks=1)
    return BlockLayout.pack(pattern, lengths, layer=1, heads=heads)


@pytest.fixture
def tiny_chunks(monkeypatch):
    """Cut rows of more than three blocks of 16 tokens, so that merging is exercised."""
    monkeypatch.setattr(plan, "CHUNK_TOKENS", 48)


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_kernels_equal_the_dense_reference(kind, dtype, device, tiny_chunks):
    lengths = (5, 150) if kind == "full" else (1, 37, 190)
    check_against_reference("triton", packed(kind, lengths), 32, dtype, device)


@pytest.mark.parametrize("lengths", [(1,), (16,), (17, 1, 48), (63,)], ids=str)
def test_odd_and_mixed_lengths_are_exact(lengths, device):
    check_against_reference("triton", packed(lengths=lengths), 32, torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_block_sizes_and_head_widths(block_size, width, dtype, device):
    layout = packed("window", (block_size + 5,), block_size, heads=1)
    check_against_reference("triton", layout, width, dtype, device)


def test_bfloat16_survives_the_interpreter(device):
    """The interpreter multiplies the bit patterns of bfloat16; the kernels upcast there."""
    check_against_reference("triton", packed(lengths=(40,)), 32, torch.bfloat16, device)


def test_long_rows_and_columns_are_cut_and_merged(tiny_chunks, device):
    layout = packed(lengths=(190, 16))
    lists = plan.launch_plan(layout, device)
    for work in (lists.rows, lists.columns):
        assert len(work.merges) == 2 * 2  # two global blocks, two heads
        assert work.slots == 2 * 2 * 4  # twelve blocks in chunks of three
        assert int(work.items[:, 4].sum()) == layout.counts.sum()
    assert plan.launch_plan(layout, device) is lists


def test_full_attention_is_never_cut(monkeypatch):
    monkeypatch.setattr(plan, "CHUNK_TOKENS", 16)
    lists = plan.launch_plan(packed("full", (500,)), torch.device("cpu"))
    assert lists.rows.slots == lists.columns.slots == 0


def test_the_same_inputs_give_the_same_bits(tiny_chunks, device):
    layout = packed(lengths=(37, 190))
    qkv = inputs(layout, 32, torch.float16, device=device)
    first = run("triton", layout, qkv, gradient(qkv[0]))
    again = run("triton", layout, qkv, gradient(qkv[0]))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_strided_views_of_a_fused_projection_are_not_copied(device, monkeypatch):
    layout = packed(lengths=(37,), heads=2)
    fused = torch.randn(48, 3, 2, 32, generator=torch.Generator().manual_seed(0)).to(device)
    q, k, v = fused.unbind(1)
    apart = block_sparse_attention(*(x.contiguous() for x in (q, k, v)), layout, backend="triton")
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda x: pytest.fail("copied"))
    assert torch.equal(block_sparse_attention(q, k, v, layout, backend="triton"), apart)


def test_keys_and_values_of_different_strides_are_accepted(device):
    layout = packed(lengths=(37,), heads=2)
    q, k, v = inputs(layout, 32, torch.float32, device=device)
    other = v.detach().transpose(0, 1).contiguous().transpose(0, 1)
    expected = block_sparse_attention(q, k, v, layout, backend="triton")
    assert torch.equal(block_sparse_attention(q, k, other, layout, backend="triton"), expected)


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_padding_tokens_do_not_matter(value, device, tiny_chunks):
    layout = packed(lengths=(37, 182))
    qkv = inputs(layout, 32, torch.float32, device=device)
    out_grad = gradient(qkv[0])
    padding = ~layout.valid_tokens().to(device)
    changed = [x.detach().clone() for x in (*qkv, out_grad)]
    for x in changed:
        x[padding] = value
    expected = run("triton", layout, qkv, out_grad)
    actual = run("triton", layout, changed[:3], changed[3])
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)
        assert (a[padding] == 0).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # in rows of dk and dv that are dropped
def test_scores_far_below_zero_do_not_meet_the_zeros_of_padding(device):
    """exp2(0 - lse) overflows for masked keys where all true scores are very negative."""
    layout = packed(lengths=(20,), heads=1)
    q, k, v = inputs(layout, 32, torch.float32, device=device)
    with torch.no_grad():
        q.fill_(10.0)
        k.mul_(0.01).sub_(10.0)
    out_grad = gradient(q)
    for x in run("triton", layout, [q, k, v], out_grad):
        assert x.isfinite().all()


def test_what_the_kernels_cannot_take_is_named():
    layout = packed(lengths=(20,))
    with pytest.raises(ValueError, match=r"'triton' does not take torch.float64, only torch.bf"):
        block_sparse_attention(*inputs(layout, 32, torch.float64), layout, backend="triton")
    with pytest.raises(ValueError, match="does not take head width 40, only 32, 64, 128"):
        block_sparse_attention(*inputs(layout, 40, torch.float32), layout, backend="triton")
    layout = packed(lengths=(20,), block_size=24)
    with pytest.raises(ValueError, match="does not take block size 24, only 16, 32, 64, 128"):
        block_sparse_attention(*inputs(layout, 32, torch.float32), layout, backend="triton")
