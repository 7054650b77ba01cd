"""Inputs of attention tests, and one way to run a backend forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from genobird.attention import BlockLayout, block_sparse_attention
from tests.assertions import assert_close

NAMES = ("o", "dq", "dk", "dv")


def inputs(
    layout: BlockLayout,
    width: int,
    dtype: torch.dtype,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Random q, k, v [T, H, D] that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layout.n_blocks * layout.block_size, layout.heads, width)
    draws = [torch.randn(shape, generator=generator) for _ in range(3)]
    return [x.to(device, dtype).requires_grad_() for x in draws]


def gradient(q: Tensor) -> Tensor:
    """A random gradient of the output."""
    return torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(q.device, q.dtype)


def run(backend: str, layout: BlockLayout, qkv: list[Tensor], out_grad: Tensor) -> list[Tensor]:
    """Return o, dq, dk, dv."""
    leaves = [x.detach().clone().requires_grad_() for x in qkv]
    out = block_sparse_attention(*leaves, layout, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, out_grad)]


def check_against_reference(
    backend: str,
    layout: BlockLayout,
    width: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> None:
    """Compare a backend with the dense reference in float64, outputs and gradients."""
    qkv = inputs(layout, width, dtype, seed, device)
    out_grad = gradient(qkv[0])
    wide = [x.detach().double() for x in qkv]
    expected = run("reference", layout, wide, out_grad.double())
    actual = run(backend, layout, qkv, out_grad)
    if max(layout.lengths) == 1:  # one key: dq and dk are zero, so only a common scale can be met
        actual, expected = [torch.stack(actual)], [torch.stack(expected)]
    for name, a, e in zip(NAMES, actual, expected, strict=False):
        assert_close(name, a, e, dtype)
