import pytest
import torch
from torch.nn import functional as F

from genobird.attention import PATTERNS, BlockLayout, Pattern, block_sparse_attention
from tests.assertions import assert_close

LENGTHS = [[1], [16], [37], [160], [5, 130, 16, 77], [300, 1]]


def inputs(
    layout: BlockLayout, width: int, dtype: torch.dtype, seed: int = 0
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (layout.n_blocks * layout.block_size, layout.heads, width)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def run(backend, layout, qkv, out_grad):
    leaves = [x.detach().clone().requires_grad_() for x in qkv]
    out = block_sparse_attention(*leaves, layout, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, out_grad)]


@pytest.fixture(autouse=True)
def _poison_uninitialised_memory(monkeypatch):
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(x):
        return x.fill_(float("nan")) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poisoned(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_blocked_equals_the_dense_reference(kind, lengths, dtype):
    layout = BlockLayout.pack(Pattern(kind, block_size=16), lengths, layer=1, heads=3)
    qkv = inputs(layout, 8, dtype)
    out_grad = torch.randn(qkv[0].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = [x.detach().double() for x in qkv]
    expected = run("reference", layout, wide, out_grad.double())
    actual = run("blocked", layout, qkv, out_grad)
    if lengths == [1]:  # one key: dq and dk are exactly zero, so only a common scale can be met
        actual, expected = [torch.stack(actual)], [torch.stack(expected)]
    for name, a, e in zip(("o", "dq", "dk", "dv"), actual, expected, strict=False):
        assert_close(name, a, e, dtype)


def test_the_full_pattern_is_plain_attention():
    layout = BlockLayout.pack(Pattern("full", block_size=16), [96], heads=2)
    q, k, v = inputs(layout, 8, torch.float32)
    expected = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)))
    for backend in ("reference", "blocked"):
        out = block_sparse_attention(q, k, v, layout, backend=backend)
        assert_close("o", out, expected[0].transpose(0, 1), torch.float32)


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_a_sequence_does_not_see_its_neighbours(backend):
    pattern = Pattern("bigbird", block_size=16)
    packed = BlockLayout.pack(pattern, [50, 200, 33], heads=2)
    q, k, v = inputs(packed, 8, torch.float32)
    together = block_sparse_attention(q, k, v, packed, backend=backend)
    for s, length in enumerate([50, 200, 33]):
        part = slice(packed.cu_blocks[s] * 16, packed.cu_blocks[s + 1] * 16)
        alone = block_sparse_attention(
            q[part], k[part], v[part], BlockLayout.pack(pattern, [length], heads=2), backend=backend
        )
        assert_close("o", together[part], alone, torch.float32)


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_padding_tokens_do_not_matter(backend):
    layout = BlockLayout.pack(Pattern("bigbird", block_size=16), [37, 130], heads=2)
    qkv = inputs(layout, 8, torch.float32)
    padding = ~layout.valid_tokens()
    changed = [x.detach().clone() for x in qkv]
    for x in changed:
        x[padding] = 1e4
    out = block_sparse_attention(*qkv, layout, backend=backend)
    torch.testing.assert_close(block_sparse_attention(*changed, layout, backend=backend), out)
    assert (out[padding] == 0).all()


def test_strided_views_of_a_fused_projection_are_accepted():
    layout = BlockLayout.pack(Pattern("bigbird", block_size=16), [90], heads=2)
    fused = torch.randn(96, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = fused.unbind(1)
    expected = block_sparse_attention(q.clone(), k.clone(), v.clone(), layout)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout), expected)


def test_wrong_shapes_and_backends_are_named():
    layout = BlockLayout.pack(Pattern("bigbird", block_size=16), [90], heads=2)
    q, k, v = inputs(layout, 8, torch.float32)
    with pytest.raises(ValueError, match=r"k is \[80, 2, 8\]; the layout wants \[96, 2, D\]"):
        block_sparse_attention(q, k[:80], v, layout)
    with pytest.raises(ValueError, match="backend 'cuda' is not one of auto"):
        block_sparse_attention(q, k, v, layout, backend="cuda")


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_padding_tokens_get_no_gradient(backend):
    layout = BlockLayout.pack(Pattern("bigbird", block_size=16), [37, 130], heads=2)
    qkv = inputs(layout, 8, torch.float32)
    out = block_sparse_attention(*qkv, layout, backend=backend)
    for x in torch.autograd.grad(out.sum() + (out**2).sum(), qkv):
        assert (x[~layout.valid_tokens()] == 0).all()
        assert x.isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_a_block_that_is_not_seen_gets_no_gradient(backend):
    layout = BlockLayout.pack(Pattern("window", block_size=16), [160], heads=2)
    q, k, v = inputs(layout, 8, torch.float32)
    out = block_sparse_attention(q, k, v, layout, backend=backend)
    for x in torch.autograd.grad((out[:16] ** 2).sum(), (k, v)):
        assert (x[32:] == 0).all()
        assert x[16:32].abs().max() > 0


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_the_scale_is_one_over_the_root_of_the_width_unless_given(backend):
    layout = BlockLayout.pack(Pattern("bigbird", block_size=16), [90], heads=2)
    qkv = inputs(layout, 8, torch.float32)
    plain = block_sparse_attention(*qkv, layout, backend=backend)
    same = block_sparse_attention(*qkv, layout, scale=8**-0.5, backend=backend)
    other = block_sparse_attention(*qkv, layout, scale=1.0, backend=backend)
    torch.testing.assert_close(plain, same)
    assert not torch.allclose(plain, other)
