"""Block-sparse attention beside dense attention, in one run on the same data.

    python tests/benchmarks/bench_attention.py [--threads 1] [--lengths 1024 4096 16384]

Prints, for each length and dtype, milliseconds of one layer's attention core (12 heads of 64, batch
1), forward and forward + backward, and the ratio of dense to ours. Refuses to time what is wrong:
at the shortest length ours is compared with the dense reference first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention import BlockLayout, Pattern, block_sparse_attention

HEADS, WIDTH = 12, 64


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Return the best of `repeats` runs after one to warm up."""
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def inputs(length: int, dtype: torch.dtype) -> list[Tensor]:
    """Return q, k, v [T, H, D] of fixed random numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (length, HEADS, WIDTH)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def sparse(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Tensor:
    """Attend by the layout."""
    return block_sparse_attention(q, k, v, layout, backend="blocked")


def dense(q: Tensor, k: Tensor, v: Tensor, _layout: BlockLayout) -> Tensor:
    """Attend to everything with torch's SDPA."""
    out = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)))
    return out[0].transpose(0, 1)


def check() -> None:
    """Compare ours with the reference, outputs and gradients."""
    layout = BlockLayout.pack(Pattern(), [1000], heads=HEADS)
    q, k, v = inputs(1024, torch.float32)
    results = []
    for backend in ("blocked", "reference"):
        out = block_sparse_attention(q, k, v, layout, backend=backend)
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def main() -> None:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    check()
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), 12 heads x 64, batch 1")
    print("tokens  dtype     pass     ours ms  dense ms  dense/ours")
    for length in arguments.lengths:
        layout = BlockLayout.pack(Pattern(), [length], heads=HEADS)
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = inputs(length, dtype)
            for name, backward in (("forward", False), ("fwd+bwd", True)):
                times = []
                for attend in (sparse, dense):

                    def run(attend: Callable[..., Tensor] = attend, back: bool = backward) -> None:
                        with torch.set_grad_enabled(back):
                            out = attend(q, k, v, layout)  # noqa: B023
                        if back:
                            torch.autograd.grad(out.sum(), (q, k, v))  # noqa: B023

                    times.append(milliseconds(run, arguments.repeats))
                ours, full = times
                label = str(dtype).removeprefix("torch.")
                print(
                    f"{length:6d}  {label:8s}  {name}  {ours:8.1f}  {full:8.1f}  {full / ours:6.2f}"
                )


if __name__ == "__main__":
    main()
