"""Ways to compute one layer's attention: ours, and what people would use instead.

Each takes q, k, v as views [T, H, D] of one projection, sequences of equal length end to end, and
gives back [T, H, D].

Not among them: flash-linear-attention's NSA. It is causal, chooses blocks for each token, and wants
16 query heads for each head of keys; this attention has one, looks both ways and chooses for each
block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from genobird.attention import BlockLayout, Pattern, block_sparse_attention

HEADS, WIDTH, BLOCK = 12, 64, 64
# They plan on the host in each pass, which no CUDA graph can hold.
WITHOUT_GRAPH = {"transformers", "MIT blocks"}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def views(x: Tensor, batch: int) -> Tensor:
    """[T, H, D] -> [S, H, T / S, D], a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def back(out: Tensor) -> Tensor:
    """[S, H, n, D] -> [T, H, D]."""
    return out.transpose(1, 2).flatten(0, 1)


def ours(layout: BlockLayout, backend: str) -> Attend:
    return lambda q, k, v: block_sparse_attention(q, k, v, layout, backend=backend)


def dense(batch: int, backends: list[SDPBackend] | None, contiguous: bool = False) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [views(x, batch) for x in (q, k, v)]
        if contiguous:
            parts = [x.contiguous() for x in parts]
        if backends is None:
            return back(F.scaled_dot_product_attention(*parts))
        with sdpa_kernel(backends):
            return back(F.scaled_dot_product_attention(*parts))

    return attend


def seen_blocks(layout: BlockLayout, fold: int = 1) -> Tensor:
    """Which key blocks each query block sees, bool [H, N / fold, fold, N / fold, fold]."""
    rows = np.repeat(np.arange(HEADS * layout.n_blocks), layout.counts.reshape(-1))
    seen = np.zeros((HEADS, layout.n_blocks, layout.n_blocks), dtype=bool)
    seen.reshape(-1, layout.n_blocks)[rows, layout.keys] = True
    return torch.from_numpy(seen).unflatten(2, (-1, fold)).unflatten(1, (-1, fold))


def lists(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Counts int32 [1, H, N], and int32 [1, H, N, N] with what is seen first in each row."""
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1)[None].int(), order[None].int()


def flex(
    length: int, batch: int, block: int, device: torch.device, pattern: Pattern, flash: bool = False
) -> Attend:
    """Compiled FlexAttention with our pattern, in blocks of 64 or 128; `flash`: by its kernels."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    if flash:
        import flash_attn.cute  # noqa: F401  # what torch needs, and misses too late
    layout = BlockLayout.pack(pattern, [length], heads=HEADS)
    tiles = seen_blocks(layout, block // BLOCK).to(device)
    table = tiles.flatten(3).flatten(1, 2)
    full, some = tiles.all(4).all(2), tiles.any(4).any(2)

    def mask(_b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return table[h, q // BLOCK, k // BLOCK]

    block_mask = BlockMask.from_kv_blocks(*lists(some & ~full), *lists(full), block, mask)
    options: dict[str, Any] | None = {"BACKEND": "FLASH"} if flash else None
    if block == 64 and device.type == "cuda":
        names = (
            "BLOCK_M",
            "BLOCK_N",
            "bwd_BLOCK_M1",
            "bwd_BLOCK_N1",
            "bwd_BLOCK_M2",
            "bwd_BLOCK_N2",
        )
        options = dict.fromkeys(names, 64)
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [views(x, batch) for x in (q, k, v)]
        return back(compiled(*parts, block_mask=block_mask, kernel_options=options))

    return attend


def cudnn_blocks(length: int, batch: int, device: torch.device, pattern: Pattern) -> Attend:
    """The block-sparse attention of cuDNN's frontend; forward alone, at width 64."""
    from cudnn import BSA

    layout = BlockLayout.pack(pattern, [length], heads=HEADS)
    counts, order = lists(seen_blocks(layout).flatten(3).flatten(1, 2).to(device))
    index = order[..., : int(counts.max())]
    counts, index = (x.expand(batch, *x.shape[1:]).contiguous() for x in (counts, index))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [x.unflatten(0, (batch, -1)) for x in (q, k, v)]
        out = BSA.block_sparse_attention_forward(
            *parts, index, q2k_block_nums=counts, sparse_block_size=BLOCK, layout="bshd"
        )
        return out["o_tensor"].flatten(0, 1)

    return attend


def mit_blocks(length: int, batch: int, device: torch.device, pattern: Pattern) -> Attend:
    """MIT's Block-Sparse-Attention: all blocks of 128 tokens that hold one of ours."""
    from block_sparse_attn import block_sparse_attn_func

    layout = BlockLayout.pack(pattern, [length], heads=HEADS)
    tiles = seen_blocks(layout, 128 // BLOCK).any(4).any(2).to(device)
    tiles = tiles.expand(batch, *tiles.shape).contiguous()
    starts = torch.arange(batch + 1, dtype=torch.int32, device=device) * length
    sparse = torch.ones(HEADS, dtype=torch.int32, device=device)  # every head is block-sparse

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return block_sparse_attn_func(
            q, k, v, starts, starts, sparse, None, tiles, length, length, 0.0
        )

    return attend


def transformers_bigbird(length: int, batch: int, device: torch.device) -> Attend:
    """The core of transformers' BigBird in train mode: its own pattern, of the same density.

    It does not run in bfloat16, so products are in float32, or in TF32 on a GPU.
    """
    from transformers import BigBirdConfig
    from transformers.models.big_bird import modeling_big_bird as theirs

    config = BigBirdConfig(hidden_size=HEADS * WIDTH, num_attention_heads=HEADS)
    module = theirs.BigBirdBlockSparseAttention(config, seed=0).train().to(device)
    masks = theirs.BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(batch, length, device=device), BLOCK
    )
    blocked, band, from_mask, to_mask = masks
    shape = (HEADS, 3, WIDTH, BLOCK, BLOCK, batch, length, length)

    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [views(x.float(), batch) for x in (q, k, v)]
        out, _ = module.bigbird_block_sparse_attention(
            *parts, band, from_mask, to_mask, blocked, blocked, *shape,
            seed=0, plan_from_length=None, plan_num_rand_blocks=None,
        )  # fmt: skip
        return out.flatten(0, 1).to(q.dtype)

    return attend


def ways(
    length: int,
    batch: int,
    device: torch.device,
    asked: set[str] | None,
    flex_on_cpu: bool,
    pattern: Pattern | None = None,
) -> Iterator[tuple[str, Callable[[], Attend]]]:
    """Yield the name of each way and what builds it."""
    pattern = pattern or Pattern()
    layout = BlockLayout.pack(pattern, [length] * batch, heads=HEADS)
    found: dict[str, Callable[[], Attend]]
    if device.type == "cuda":
        found = {
            "ours": lambda: ours(layout, "triton"),
            "dense flash": lambda: dense(batch, [SDPBackend.FLASH_ATTENTION]),
            "dense cuDNN": lambda: dense(batch, [SDPBackend.CUDNN_ATTENTION]),
            "flex 64": lambda: flex(length, batch, 64, device, pattern),
            "flex 128": lambda: flex(length, batch, 128, device, pattern),
            "flex flash": lambda: flex(length, batch, 128, device, pattern, flash=True),
            "cuDNN blocks": lambda: cudnn_blocks(length, batch, device, pattern),
            "MIT blocks": lambda: mit_blocks(length, batch, device, pattern),
        }
    else:
        found = {
            "ours": lambda: ours(layout, "blocked"),
            "dense": lambda: dense(batch, None),
            "dense contiguous": lambda: dense(batch, None, contiguous=True),
        }
        if flex_on_cpu:
            found["flex 64"] = lambda: flex(length, batch, 64, device, pattern)
    # transformers attends fully below, and its backward pass takes tens of gigabytes above.
    if 768 <= length <= (16384 if device.type == "cuda" else 4096):
        found["transformers"] = lambda: transformers_bigbird(length, batch, device)
    for name, build in found.items():
        if asked is None or name in asked:
            yield name, build
