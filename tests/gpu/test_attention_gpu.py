"""The Triton kernels on a GPU, against float64 on fresh random data; prints what it measured.

    python -m pytest -q -s tests/gpu

On a machine with nothing but torch, Triton and pytest, from the root of the checkout:

    PYTHONPATH=. python -m pytest -q -s -c /dev/null --rootdir . tests/gpu
"""

from __future__ import annotations

import secrets
import sys

import pytest
import torch
from torch import Tensor

from genobird.attention import PATTERNS, BlockLayout, Pattern, block_sparse_attention
from tests.assertions import TOLERANCES, assert_close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
NAMES = ("o", "dq", "dk", "dv")
SEED = secrets.randbits(32)  # fresh data on each run; printed, so that a failure can be repeated


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def draw(layout: BlockLayout, width: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v as views of one projection, and the gradient of the output."""
    generator = torch.Generator("cuda").manual_seed(SEED)
    tokens = layout.n_blocks * layout.block_size
    shape = (tokens, 4, layout.heads, width)
    return list(torch.randn(shape, generator=generator, device="cuda").to(dtype).unbind(1))


def run(backend: str, layout: BlockLayout, tensors: list[Tensor]) -> list[Tensor]:
    """o, dq, dk, dv."""
    leaves = [x.detach().requires_grad_() for x in tensors[:3]]
    out = block_sparse_attention(*leaves, layout, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def check(layout: BlockLayout, width: int, dtype: torch.dtype, oracle: str, label: str) -> None:
    tensors = draw(layout, width, dtype)
    actual = run("triton", layout, tensors)
    expected = run(oracle, layout, [x.double() for x in tensors])
    errors = [
        float((a.double() - e).square().mean().sqrt() / e.square().mean().sqrt().clamp(min=1e-30))
        for a, e in zip(actual, expected, strict=True)
    ]
    shown = "  ".join(f"{name} {error:.1e}" for name, error in zip(NAMES, errors, strict=True))
    limit = TOLERANCES[str(dtype).removeprefix("torch.")]
    say(f"{label:44s} {str(dtype)[6:]:9s} {shown}  (limits {limit.output:g}, {limit.gradient:g})")
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_close(name, a, e, dtype)


@pytest.fixture(scope="module", autouse=True)
def _say_where():
    say(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, seed {SEED}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", PATTERNS)
def test_every_pattern_equals_float64(kind, dtype):
    lengths = [1000] if kind == "google" else [1, 64, 777, 1500]
    layout = BlockLayout.pack(Pattern(kind), lengths, layer=3, heads=4)
    check(layout, 64, dtype, "reference", f"{kind} {lengths}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_every_shape_equals_float64(block_size, width, dtype):
    lengths = [40 * block_size + 5 if block_size < 128 else 2600, 3]
    pattern = Pattern(block_size=block_size, random_blocks=2)
    layout = BlockLayout.pack(pattern, lengths, heads=3)
    check(layout, width, dtype, "reference", f"blocks of {block_size}, width {width} {lengths}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [4096, 16384, 65536, 262144])
def test_long_sequences_equal_float64(length, dtype):
    layout = BlockLayout.pack(Pattern(), [length, 301], layer=1, heads=4)
    check(layout, 64, dtype, "blocked", f"bigbird [{length}, 301]")


def test_addresses_beyond_two_to_the_31():
    """Three million tokens of a fused projection are 2.4 G elements; far rows are checked alone."""
    tokens, heads, width = 3 << 20, 4, 64
    pattern = Pattern("window")
    layout = BlockLayout.pack(pattern, [tokens], heads=heads)
    fused = torch.empty(tokens, 3, heads, width, dtype=torch.bfloat16, device="cuda").normal_()
    assert fused.numel() > 2**31
    out = block_sparse_attention(*fused.unbind(1), layout, backend="triton")
    tail = fused[-256:].double()
    end = BlockLayout.pack(pattern, [256], heads=heads)
    expected = block_sparse_attention(*tail.unbind(1), end, backend="reference")
    assert_close("o", out[-192:], expected[-192:], torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_give_the_same_bits(dtype):
    layout = BlockLayout.pack(Pattern(), [16384, 777, 4096], heads=12)
    tensors = draw(layout, 64, dtype)
    first = run("triton", layout, tensors)
    for _ in range(10):
        for name, a, b in zip(NAMES, first, run("triton", layout, tensors), strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sequence_has_the_same_bits_in_any_batch(dtype):
    lengths = [5000, 64, 1, 2222, 333]
    layout = BlockLayout.pack(Pattern(), lengths, heads=4)
    tensors = draw(layout, 64, dtype)
    together = run("triton", layout, tensors)
    for s, length in enumerate(lengths):
        part = slice(*(layout.cu_blocks[s : s + 2] * 64))
        alone = BlockLayout.pack(Pattern(), [length], heads=4)
        for a, b in zip(run("triton", alone, [x[part] for x in tensors]), together, strict=True):
            assert torch.equal(a, b[part])


def test_a_step_does_not_wait_for_the_device_and_fits_a_cuda_graph():
    layout = BlockLayout.pack(Pattern(), [4096, 500], heads=12)
    tensors = draw(layout, 64, torch.bfloat16)
    expected = run("triton", layout, tensors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run("triton", layout, tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run("triton", layout, tensors)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run("triton", layout, tensors)
    for x in captured:
        x.fill_(float("nan"))
    graph.replay()
    for a, b in zip(captured, expected, strict=True):
        assert torch.equal(a, b)


def test_one_graph_of_torch_compile_holds_it():
    layout = BlockLayout.pack(Pattern(), [1000], heads=4)
    q, k, v, _ = draw(layout, 64, torch.bfloat16)

    def attend(q, k, v):
        return block_sparse_attention(q, k, v, layout).float().sum()

    compiled = torch.compile(attend, fullgraph=True)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    for a, b in zip(
        torch.autograd.grad(compiled(*leaves), leaves),
        torch.autograd.grad(attend(*leaves), leaves),
        strict=True,
    ):
        assert_close("dq", a, b, torch.bfloat16)


def test_dense_full_attention_equals_float64():
    layout = BlockLayout.pack(Pattern("full"), [700, 700], heads=4)
    q, k, v, _ = draw(layout, 64, torch.bfloat16)
    out = block_sparse_attention(q, k, v, layout)
    wide = [x.double() for x in (q, k, v)]
    expected = block_sparse_attention(*wide, layout, backend="reference")
    assert_close("o", out, expected, torch.bfloat16)
