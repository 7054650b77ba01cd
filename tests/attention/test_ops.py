import copy
import gc
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from genobird.attention import BACKENDS, PATTERNS, BlockLayout, Pattern, block_sparse_attention
from genobird.attention.ops import choose_backend
from tests.assertions import assert_close
from tests.attention.cases import check_against_reference, gradient, inputs, run

LENGTHS = [[1], [16], [37], [160], [5, 130, 16, 77], [300, 1]]
EXACT = ["blocked", "reference", "triton"]


def packed(kind="bigbird", lengths=(37, 130), heads=2, **settings) -> BlockLayout:
    pattern = Pattern(kind, block_size=16, **settings)
    return BlockLayout.pack(pattern, lengths, layer=1, heads=heads)


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_blocked_equals_the_dense_reference(kind, lengths, dtype):
    check_against_reference("blocked", packed(kind, lengths, heads=3), 8, dtype)


@pytest.mark.parametrize(
    ("backend", "dtype"), [("blocked", torch.float32), ("triton", torch.float16)]
)
def test_a_block_named_twice_counts_twice_even_with_padding(backend, dtype):
    layout = BlockLayout.pack(Pattern("google"), [1000], layer=0, heads=1)
    rows = np.split(layout.keys, layout.row_starts[1:-1])
    assert any(list(row).count(15) == 2 for row in rows)  # the last block, which has padding
    check_against_reference(backend, layout, 32, dtype)


@pytest.mark.parametrize("backend", EXACT)
def test_a_row_that_sees_nothing_gives_zeros(backend):
    layout = packed("random", [40], random_blocks=0)
    qkv = inputs(layout, 32, torch.float32)
    for x in run(backend, layout, qkv, gradient(qkv[0])):
        assert (x == 0).all()


@pytest.mark.parametrize("backend", EXACT)
def test_some_blocks_alone_see_what_they_see_among_all(backend):
    layout = packed(lengths=(130, 37), random_blocks=1)
    qkv = inputs(layout, 32, torch.float32)
    wanted = torch.tensor([70, 71, 64, 150])
    some, tokens = layout.only(wanted)
    assert tokens.tolist() == [*range(64, 80), *range(144, 160)]
    every = block_sparse_attention(*qkv, layout, backend=backend)
    out = block_sparse_attention(*qkv, some, backend=backend)
    torch.testing.assert_close(out[tokens], every[tokens])
    others = torch.ones(len(out), dtype=bool)
    others[tokens] = False
    assert (out[others] == 0).all()
    check_against_reference(backend, some, 32, torch.float32)


@pytest.mark.parametrize("backend", ["blocked", "triton"])
def test_extra_global_tokens_are_attended_to_and_attend(backend):
    layout = packed(lengths=(100, 5), global_tokens="extra", random_blocks=1)
    check_against_reference(backend, layout, 32, torch.float32)


@pytest.mark.parametrize("lengths", [[96], [90], [90, 90], [5, 64]], ids=str)
def test_dense_equals_the_reference_where_attention_is_full(lengths):
    check_against_reference("dense", packed("full", lengths), 8, torch.float32)
    extra = packed("bigbird", lengths, global_blocks=6, global_tokens="extra")  # all are short
    check_against_reference("dense", extra, 8, torch.float32)


def test_the_full_pattern_is_plain_attention():
    layout = packed("full", [96])
    q, k, v = inputs(layout, 32, torch.float32)
    expected = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)))
    for backend in BACKENDS:
        out = block_sparse_attention(q, k, v, layout, backend=backend)
        assert_close("o", out, expected[0].transpose(0, 1), torch.float32)


def test_a_scale_is_a_factor_on_the_scores():
    layout = packed()
    q, k, v = inputs(layout, 32, torch.float32)
    for backend in EXACT:
        out = block_sparse_attention(q, k, v, layout, scale=0.7, backend=backend)
        ready = block_sparse_attention(q * 0.7 * 32**0.5, k, v, layout, backend="reference")
        assert_close("o", out, ready, torch.float32)


def assert_alone_equals_packed(backend, lengths, kind, width, seed=0):
    pattern = Pattern(kind, block_size=16, random_blocks=1, seed=seed)
    together = BlockLayout.pack(pattern, lengths, layer=1, heads=2)
    qkv = inputs(together, width, torch.float32, seed)
    out_grad = gradient(qkv[0])
    expected = run(backend, together, qkv, out_grad)
    for s, length in enumerate(lengths):
        part = slice(together.cu_blocks[s] * 16, together.cu_blocks[s + 1] * 16)
        alone = BlockLayout.pack(pattern, [length], layer=1, heads=2)
        actual = run(backend, alone, [x[part] for x in qkv], out_grad[part])
        for name, a, e in zip(("o", "dq", "dk", "dv"), actual, expected, strict=True):
            if backend == "reference":  # matrix products of other shapes round differently
                assert_close(name, a, e[part], torch.float32, gradient=True)
            else:
                assert torch.equal(a, e[part]), (name, s, length)


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=5),
    st.sampled_from(PATTERNS),
    st.integers(0, 9),
)
def test_a_sequence_has_the_same_bits_in_any_batch(lengths, kind, seed):
    assert_alone_equals_packed("blocked", lengths, kind, 8, seed)
    assert_alone_equals_packed("blocked", lengths, kind, 32, seed)


@settings(max_examples=3)  # the interpreter takes its time
@given(st.lists(st.integers(1, 60), min_size=2, max_size=2), st.sampled_from(PATTERNS))
def test_a_sequence_has_the_same_bits_in_any_batch_of_the_kernels(lengths, kind):
    assert_alone_equals_packed("triton", lengths, kind, 32)


@pytest.mark.parametrize("lengths", [[100, 100, 100], [300, 300], [5, 64, 33]], ids=str)
def test_a_sequence_has_the_same_bits_in_any_batch_of_dense_attention(lengths):
    assert_alone_equals_packed("dense", lengths, "full", 32)


@pytest.mark.parametrize(
    ("backend", "dtype", "length", "block_size"),
    [("blocked", torch.float32, 262_144, 64), ("triton", torch.float16, 65_536, 128)],
)
def test_the_end_of_a_long_sequence_is_as_exact_as_its_beginning(
    backend, dtype, length, block_size
):
    pattern = Pattern(block_size=block_size)
    layout = BlockLayout.pack(pattern, [length - 3], layer=2)
    end, tokens = layout.only(torch.tensor([length - 200, length - 10]))
    qkv = [x.detach() for x in inputs(layout, 32, dtype)]
    out = block_sparse_attention(*qkv, end, backend=backend)
    for places in tokens.view(-1, block_size):
        block = places[0] // block_size
        row = layout.row_starts[block : block + 2]
        blocks = torch.from_numpy(layout.keys[slice(*row)])
        seen = (blocks[:, None] * block_size + torch.arange(block_size)).flatten()
        seen = seen[seen < length - 3]
        q, k, v = qkv[0][places, 0], qkv[1][seen, 0], qkv[2][seen, 0]
        expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
        expected[places >= length - 3] = 0
        assert_close("o", out[places, 0], expected, dtype)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_sequence_does_not_see_its_neighbours(backend, monkeypatch):
    monkeypatch.setattr("genobird.attention.plan.CHUNK_TOKENS", 48)
    assert_alone_equals_packed(backend, [20, 190, 33], "bigbird", 32)


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_padding_tokens_do_not_matter(backend):
    layout = packed()
    qkv = inputs(layout, 8, torch.float32)
    out_grad = gradient(qkv[0])
    padding = ~layout.valid_tokens()
    changed = [x.detach().clone() for x in (*qkv, out_grad)]
    for x in changed:
        x[padding] = 1e4
    expected = run(backend, layout, qkv, out_grad)
    for a, e in zip(run(backend, layout, changed[:3], changed[3]), expected, strict=True):
        torch.testing.assert_close(a, e)
        assert (a[padding] == 0).all()


def test_strided_views_of_a_fused_projection_are_accepted():
    layout = packed(lengths=[90])
    fused = torch.randn(96, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = fused.unbind(1)
    expected = block_sparse_attention(q.clone(), k.clone(), v.clone(), layout)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout), expected)


@pytest.mark.parametrize("name", ["sparse_attention", "blocked_attention"])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it tests
def test_the_operators_pass_torchs_own_checks(name):
    layout = packed(lengths=[20])
    q, k, v = inputs(layout, 32, torch.float32)
    results = torch.library.opcheck(
        getattr(torch.ops.genobird, name).default, (q, k, v, layout.handle, 0.3)
    )
    assert set(results.values()) == {"SUCCESS"}
    lse = torch.zeros(2, 32)
    rest = (q, lse) if name == "sparse_attention" else (q,)
    torch.library.opcheck(
        getattr(torch.ops.genobird, name + "_backward").default,
        (*(x.detach() for x in (q, q, k, v, *rest)), layout.handle, 0.3),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", ["auto", "blocked", "triton"])
def test_one_graph_holds_the_whole_function(backend):
    def attend(q, k, v, layout):
        return block_sparse_attention(q * 2, k, v, layout, backend=backend).square()

    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for lengths in ([20], [20], [33], [16, 5]):
        layout = packed(lengths=lengths)
        qkv = inputs(layout, 32, torch.float32)
        expected, actual = attend(*qkv, layout), compiled(*qkv, layout)
        assert torch.equal(actual, expected)
        for a, e in zip(
            torch.autograd.grad(actual.sum(), qkv),
            torch.autograd.grad(expected.sum(), qkv),
            strict=True,
        ):
            assert torch.equal(a, e)


def test_inference_goes_past_the_operator_with_the_same_bits(monkeypatch):
    def refuse(*_):
        raise AssertionError("the operator was called")

    layout = packed()
    qkv = [x.detach() for x in inputs(layout, 8, torch.float32)]
    expected = block_sparse_attention(*qkv, layout, backend="blocked")
    # Its first call imports torch's compiler.
    monkeypatch.setattr(torch.ops.genobird, "blocked_attention", refuse)
    with pytest.raises(AssertionError, match="the operator was called"):
        block_sparse_attention(*qkv, layout, backend="blocked")
    with torch.inference_mode():
        assert torch.equal(block_sparse_attention(*qkv, layout, backend="blocked"), expected)


def test_a_model_is_compiled_once_more_when_lengths_change_and_then_no_more():
    def attend(x, layouts):
        for layout in layouts:
            x = x + block_sparse_attention(*x.unbind(1), layout)[:, None]
        return x

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    for lengths, graphs in (([20], 1), ([90, 37], 2), ([150], 2), ([33, 5], 2)):
        layouts = [packed(lengths=lengths, random_blocks=layer % 2) for layer in range(12)]
        x = torch.randn(layouts[0].n_blocks * 16, 3, 2, 8, requires_grad=True)
        expected, actual = attend(x, layouts), compiled(x, layouts)
        assert torch.equal(actual, expected)
        (e,), (a,) = (torch.autograd.grad(out.sum(), x) for out in (expected, actual))
        assert torch.equal(a, e)
        assert counter.frame_count == graphs, lengths


@pytest.mark.parametrize("backend", ["blocked", "triton"])
@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
def test_the_backward_pass_needs_no_reference_to_the_layout(backend, compiles):
    attend = partial(block_sparse_attention, backend=backend)
    if compiles:
        torch.compiler.reset()
        attend = torch.compile(attend, fullgraph=True, backend="aot_eager")
    layout = BlockLayout(*packed(lengths=(20,)).__reduce__()[1])
    qkv = inputs(layout, 32, torch.float32)
    out = attend(*qkv, layout)
    handle = layout.handle
    del layout
    gc.collect()
    assert BlockLayout.of_handle(handle).lengths == (20,)
    out.sum().backward()
    assert qkv[0].grad is not None
    del out
    gc.collect()
    with pytest.raises(RuntimeError, match="is gone"):
        BlockLayout.of_handle(handle)


def test_a_layout_that_is_gone_is_named():
    layout = packed()
    duplicate = copy.deepcopy(layout)
    assert duplicate.handle != layout.handle
    assert BlockLayout.of_handle(duplicate.handle) is duplicate
    np.testing.assert_array_equal(duplicate.keys, layout.keys)
    handle = duplicate.handle
    del duplicate
    gc.collect()
    with pytest.raises(RuntimeError, match=f"the layout with handle {handle} is gone; keep a ref"):
        BlockLayout.of_handle(handle)


def test_auto_is_blocked_on_a_cpu_and_dense_or_triton_on_a_gpu():
    q = torch.zeros(1, 2, 64)
    assert choose_backend(q, packed()) == "blocked"
    cuda = torch.zeros(1, 2, 64, device="meta")

    class OnGpu:
        device = torch.device("cuda")
        dtype, shape = cuda.dtype, cuda.shape

    assert choose_backend(OnGpu(), packed()) == "triton"
    assert choose_backend(OnGpu(), packed("full", [64, 64])) == "dense"
    assert choose_backend(OnGpu(), packed("full", [64, 50])) == "triton"
    OnGpu.dtype = torch.float64
    assert choose_backend(OnGpu(), packed()) == "blocked"


def test_wrong_arguments_are_named():
    layout = packed(lengths=[90])
    q, k, v = inputs(layout, 8, torch.float32)
    with pytest.raises(ValueError, match=r"k is \[80, 2, 8\]; the layout wants \[96, 2, D\]"):
        block_sparse_attention(q, k[:80], v, layout)
    with pytest.raises(ValueError, match=r"v is torch.float64 on cpu, but q torch.float32 on cpu"):
        block_sparse_attention(q, k, v.double(), layout)
    with pytest.raises(ValueError, match="scale is 0; it must be positive"):
        block_sparse_attention(q, k, v, layout, scale=0)
    with pytest.raises(ValueError, match="backend 'cuda' is not one of auto"):
        block_sparse_attention(q, k, v, layout, backend="cuda")
    with pytest.raises(ValueError, match="'dense' wants full attention; this layout computes "):
        block_sparse_attention(q, k, v, packed(lengths=[90], random_blocks=0), backend="dense")


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_a_block_that_is_not_seen_gets_no_gradient(backend):
    layout = packed("window", [160])
    q, k, v = inputs(layout, 8, torch.float32)
    out = block_sparse_attention(q, k, v, layout, backend=backend)
    for x in torch.autograd.grad((out[:16] ** 2).sum(), (k, v)):
        assert (x[32:] == 0).all()
        assert x[16:32].abs().max() > 0


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_the_scale_is_one_over_the_root_of_the_width_unless_given(backend):
    layout = packed(lengths=[90])
    qkv = inputs(layout, 8, torch.float32)
    plain = block_sparse_attention(*qkv, layout, backend=backend)
    same = block_sparse_attention(*qkv, layout, scale=8**-0.5, backend=backend)
    other = block_sparse_attention(*qkv, layout, scale=1.0, backend=backend)
    torch.testing.assert_close(plain, same)
    assert not torch.allclose(plain, other)
