"""The attention of a `BlockLayout` in Triton: forward, dq, dk and dv. Nothing else needs Triton.

A program owns the tile of one work item (`plan.py`): BM rows of a query block, or BN rows of a key
block, of one head. It walks over the other side's blocks, BN or BM tokens at a time, with the
online softmax in base 2. Scores exist in registers only. A row cut into chunks leaves float32
partial sums, which a second kernel merges in their order; nothing is added atomically, so the same
inputs give the same bits.

Names: `i_` index of the program or block, `o_` offsets, `p_` pointer, `b_` tile in registers, `m_`
mask, `s_` stride; `B` tokens per block, `BM`, `BN` tile sizes, `D` head width.

Padding: a sequence's last block comes last in each list, and it alone is masked. Query rows that
are padding give zeros; their lse is infinite, which leaves them out of dk and dv. Padding may hold
anything finite.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from genobird.attention.plan import ITEM_FIELDS, LaunchPlan, WorkList

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HEAD_WIDTHS = (32, 64, 128)
BLOCK_SIZES = (16, 32, 64, 128)
LOG2_E = math.log2(math.e)
MERGE_ROWS = 32
# Multiply and add in one instruction; Triton 3.10 stops doing so by itself.
FUSION = {"enable_fp_fusion": True}
MERGE = {"num_warps": 4, **FUSION}


class Config(NamedTuple):
    """Tile sizes and compiler options of a kernel."""

    tile_m: int
    tile_n: int
    warps: int
    stages: int
    registers: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told."""
        options = {"num_warps": self.warps, "num_stages": self.stages, **FUSION}
        return options if self.registers is None else {**options, "maxnreg": self.registers}


# By kernel, bytes of the dtype and head width, for blocks of 64 and more. Stages are as few as let
# the loop go on while copies are on their way: list entries of dk/dv are copied ahead of what they
# point to, which takes two more. Tiles and four warps leave room for three to five programs on a
# multiprocessor of compute capability 9.0, which hide each other's latencies; float32 products take
# no tensor cores and many registers.
CONFIGS = {
    ("fwd", 2, 32): Config(64, 64, 4, 3),
    ("fwd", 2, 64): Config(64, 64, 4, 3),
    ("fwd", 2, 128): Config(64, 32, 4, 3),
    ("dq", 2, 32): Config(64, 64, 4, 3),
    ("dq", 2, 64): Config(64, 32, 4, 3),
    ("dq", 2, 128): Config(64, 32, 4, 3),
    ("dkdv", 2, 32): Config(32, 64, 4, 5),
    ("dkdv", 2, 64): Config(32, 64, 4, 5),
    ("dkdv", 2, 128): Config(32, 64, 4, 5),
    ("fwd", 4, 32): Config(32, 32, 8, 1),
    ("fwd", 4, 64): Config(32, 32, 8, 1),
    ("fwd", 4, 128): Config(32, 32, 8, 1),
    ("dq", 4, 32): Config(32, 32, 4, 1),
    ("dq", 4, 64): Config(32, 32, 8, 1),
    ("dq", 4, 128): Config(16, 16, 8, 1),
    ("dkdv", 4, 32): Config(32, 32, 4, 1),
    ("dkdv", 4, 64): Config(16, 16, 4, 1),
    ("dkdv", 4, 128): Config(16, 16, 4, 1),
}


def config(
    kind: str, dtype: torch.dtype, width: int, block_size: int, capability: int = 90
) -> Config:
    """Return the configuration of a kernel, `fwd`, `dq` or `dkdv`, for a compute capability."""
    found = CONFIGS[kind, dtype.itemsize, width]
    if capability < 90 or block_size > 64:  # more operands in registers: a limit would spill
        found = found._replace(registers=None)
    if block_size >= max(found.tile_m, found.tile_n):
        return found
    m, n = min(found.tile_m, block_size), min(found.tile_n, block_size)
    warps = 4 if dtype.itemsize == 4 or width == 128 else block_size // 16
    return found._replace(tile_m=m, tile_n=n, warps=warps)


@lru_cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return 10 * major + minor


def interpreted() -> bool:
    """Return whether the kernels run in Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    return not isinstance(sparse_fwd_kernel, triton.JITFunction)


@triton.jit
def _dot(a, b, INTERPRET: tl.constexpr):
    # The interpreter multiplies the bit patterns of bfloat16.
    if INTERPRET:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _dot_add(a, b, acc, INTERPRET: tl.constexpr):
    if INTERPRET:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _entry(p_entries, i, B: tl.constexpr, TILE: tl.constexpr):
    """Return the first token of tile i of a list, and that token's offset in its block."""
    i_block = tl.load(p_entries + i // (B // TILE)).to(tl.int64)
    i_offset = (i % (B // TILE)) * TILE
    return i_block, i_offset


@triton.jit
def _fwd_tile(
    b_q, b_acc, b_m, b_l, k, v, valid, p_entries, i, n_full, s_kt, scale_log2,
    D: tl.constexpr, B: tl.constexpr, BN: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Attend to one tile of keys."""
    o_n = tl.arange(0, BN)
    o_d = tl.arange(0, D)
    i_block, i_offset = _entry(p_entries, i, B, BN)
    i_token = i_block * B + i_offset
    o_k = i_token * s_kt + (o_n[:, None] * s_kt + o_d[None, :])
    b_k = tl.load(k + o_k)  # [BN, D]
    b_v = tl.load(v + o_k)
    b_s = _dot(b_q, tl.trans(b_k), INTERPRET)  # [BM, BN]
    if i >= n_full:  # the branch is the same for the whole program, and rarely taken
        m_n = i_offset + o_n < tl.load(valid + i_block)
        b_s = tl.where(m_n[None, :], b_s, -float("inf"))
    # The running maximum starts finite, so a tile of -inf alone gives no NaN.
    b_m_new = tl.maximum(b_m, tl.max(b_s, 1) * scale_log2)
    b_p = tl.exp2(b_s * scale_log2 - b_m_new[:, None])
    b_alpha = tl.exp2(b_m - b_m_new)
    b_l = b_l * b_alpha + tl.sum(b_p, 1)
    b_acc = _dot_add(b_p.to(b_v.dtype), b_v, b_acc * b_alpha[:, None], INTERPRET)
    return b_acc, b_m_new, b_l


@triton.jit(do_not_specialize=["n_slots"])
def sparse_fwd_kernel(
    q, k, v, o, lse, part_o, part_ml, items, entries, valid, scale_log2, n_tokens,
    s_qt, s_qh, s_kt, s_kh, s_ot, s_oh, n_slots,
    FIELDS: tl.constexpr, D: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Attend from BM rows of a query block to the key blocks of a work item."""
    p_item = items + tl.program_id(0) * FIELDS
    i_h = tl.load(p_item).to(tl.int64)
    i_block = tl.load(p_item + 1).to(tl.int64)
    p_entries = entries + tl.load(p_item + 2)
    n_full = tl.load(p_item + 3) * (B // BN)
    n_all = tl.load(p_item + 4) * (B // BN)
    i_slot = tl.load(p_item + 5).to(tl.int64)
    o_m = tl.program_id(1) * BM + tl.arange(0, BM)
    o_d = tl.arange(0, D)
    m_m = o_m < tl.load(valid + i_block)
    i_token = i_block * B
    k += i_h * s_kh
    v += i_h * s_kh
    p_q = q + i_h * s_qh + i_token * s_qt + (o_m[:, None] * s_qt + o_d[None, :])
    b_q = tl.load(p_q, mask=m_m[:, None], other=0.0)  # [BM, D]

    b_m = tl.full([BM], -1e30, tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, D], tl.float32)
    for i in tl.range(0, n_all):
        b_acc, b_m, b_l = _fwd_tile(
            b_q, b_acc, b_m, b_l, k, v, valid, p_entries, i, n_full, s_kt, scale_log2,
            D, B, BN, INTERPRET,
        )  # fmt: skip

    if i_slot < 0:
        b_l = tl.where(b_l > 0, b_l, 1.0)  # a row without keys gives zeros
        b_o = tl.where(m_m[:, None], b_acc / b_l[:, None], 0.0)
        p_o = o + i_h * s_oh + i_token * s_ot + (o_m[:, None] * s_ot + o_d[None, :])
        tl.store(p_o, b_o.to(o.dtype.element_ty))
        b_lse = tl.where(m_m, b_m + tl.log2(b_l), float("inf"))
        tl.store(lse + i_h * n_tokens + i_token + o_m, b_lse)
    else:
        tl.store(part_o + i_slot * (B * D) + (o_m[:, None] * D + o_d[None, :]), b_acc)
        tl.store(part_ml + i_slot * B + o_m, b_m)
        tl.store(part_ml + (n_slots + i_slot) * B + o_m, b_l)


@triton.jit(do_not_specialize=["n_slots"])
def sparse_fwd_merge_kernel(
    o, lse, part_o, part_ml, merges, valid, n_tokens, s_ot, s_oh, n_slots,
    D: tl.constexpr, B: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Merge the chunks of a long row."""
    p_merge = merges + tl.program_id(0) * 4
    i_h = tl.load(p_merge).to(tl.int64)
    i_block = tl.load(p_merge + 1).to(tl.int64)
    i_first = tl.load(p_merge + 2).to(tl.int64)
    n_parts = tl.load(p_merge + 3)
    o_m = tl.program_id(1) * BM + tl.arange(0, BM)
    o_d = tl.arange(0, D)
    m_m = o_m < tl.load(valid + i_block)

    b_m = tl.full([BM], -1e30, tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, D], tl.float32)
    for i in tl.range(0, n_parts):
        i_slot = i_first + i
        b_m_part = tl.load(part_ml + i_slot * B + o_m)
        b_l_part = tl.load(part_ml + (n_slots + i_slot) * B + o_m)
        b_part = tl.load(part_o + i_slot * (B * D) + (o_m[:, None] * D + o_d[None, :]))
        b_m_new = tl.maximum(b_m, b_m_part)
        b_alpha = tl.exp2(b_m - b_m_new)
        b_beta = tl.exp2(b_m_part - b_m_new)
        b_acc = b_acc * b_alpha[:, None] + b_part * b_beta[:, None]
        b_l = b_l * b_alpha + b_l_part * b_beta
        b_m = b_m_new
    i_token = i_block * B
    b_o = tl.where(m_m[:, None], b_acc / b_l[:, None], 0.0)
    p_o = o + i_h * s_oh + i_token * s_ot + (o_m[:, None] * s_ot + o_d[None, :])
    tl.store(p_o, b_o.to(o.dtype.element_ty))
    b_lse = tl.where(m_m, b_m + tl.log2(b_l), float("inf"))
    tl.store(lse + i_h * n_tokens + i_token + o_m, b_lse)


@triton.jit
def _dq_tile(
    b_q, b_do, b_lse, b_delta, b_dq, k, v, valid, p_entries, i, n_full, s_kt, scale_log2,
    D: tl.constexpr, B: tl.constexpr, BN: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Add what one tile of keys gives to dq."""
    o_n = tl.arange(0, BN)
    o_d = tl.arange(0, D)
    i_block, i_offset = _entry(p_entries, i, B, BN)
    i_token = i_block * B + i_offset
    o_k = i_token * s_kt + (o_n[:, None] * s_kt + o_d[None, :])
    b_k = tl.load(k + o_k)  # [BN, D]
    b_v = tl.load(v + o_k)
    b_s = _dot(b_q, tl.trans(b_k), INTERPRET)  # [BM, BN]
    b_dp = _dot(b_do, tl.trans(b_v), INTERPRET)
    if i >= n_full:
        m_n = i_offset + o_n < tl.load(valid + i_block)
        b_s = tl.where(m_n[None, :], b_s, -float("inf"))
        b_dp = tl.where(m_n[None, :], b_dp, 0.0)
    b_p = tl.exp2(b_s * scale_log2 - b_lse[:, None])
    b_ds = b_p * (b_dp - b_delta[:, None])
    return _dot_add(b_ds.to(b_k.dtype), b_k, b_dq, INTERPRET)


@triton.jit
def sparse_bwd_kernel_dq(
    q, k, v, o, do, dq, lse, delta, part, items, entries, valid, scale, scale_log2, n_tokens,
    s_qt, s_qh, s_kt, s_kh, s_ot, s_oh, s_dot, s_doh, s_dqt, s_dqh,
    FIELDS: tl.constexpr, D: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Compute delta = rowsum(do * o) and dq of BM rows of a query block."""
    p_item = items + tl.program_id(0) * FIELDS
    i_h = tl.load(p_item).to(tl.int64)
    i_block = tl.load(p_item + 1).to(tl.int64)
    p_entries = entries + tl.load(p_item + 2)
    n_full = tl.load(p_item + 3) * (B // BN)
    n_all = tl.load(p_item + 4) * (B // BN)
    i_slot = tl.load(p_item + 5).to(tl.int64)
    o_m = tl.program_id(1) * BM + tl.arange(0, BM)
    o_d = tl.arange(0, D)
    m_m = o_m < tl.load(valid + i_block)
    i_token = i_block * B
    k += i_h * s_kh
    v += i_h * s_kh
    p_q = q + i_h * s_qh + i_token * s_qt + (o_m[:, None] * s_qt + o_d[None, :])
    p_o = o + i_h * s_oh + i_token * s_ot + (o_m[:, None] * s_ot + o_d[None, :])
    p_do = do + i_h * s_doh + i_token * s_dot + (o_m[:, None] * s_dot + o_d[None, :])
    b_q = tl.load(p_q, mask=m_m[:, None], other=0.0)  # [BM, D]
    b_o = tl.load(p_o, mask=m_m[:, None], other=0.0)
    b_do = tl.load(p_do, mask=m_m[:, None], other=0.0)
    b_lse = tl.load(lse + i_h * n_tokens + i_token + o_m)
    b_delta = tl.sum(b_do.to(tl.float32) * b_o.to(tl.float32), 1)  # [BM]
    if tl.load(p_item + 6) > 0:  # the first chunk of its row
        tl.store(delta + i_h * n_tokens + i_token + o_m, b_delta)

    b_dq = tl.zeros([BM, D], tl.float32)
    for i in tl.range(0, n_all):
        b_dq = _dq_tile(
            b_q, b_do, b_lse, b_delta, b_dq, k, v, valid, p_entries, i, n_full, s_kt, scale_log2,
            D, B, BN, INTERPRET,
        )  # fmt: skip

    b_dq = tl.where(m_m[:, None], b_dq * scale, 0.0)
    if i_slot < 0:
        p_dq = dq + i_h * s_dqh + i_token * s_dqt + (o_m[:, None] * s_dqt + o_d[None, :])
        tl.store(p_dq, b_dq.to(dq.dtype.element_ty))
    else:
        tl.store(part + i_slot * (B * D) + (o_m[:, None] * D + o_d[None, :]), b_dq)


@triton.jit
def _dkdv_tile(
    b_k, b_v, b_dk, b_dv, q, do, lse, delta, p_entries, i, s_qt, s_dot, scale_log2,
    D: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Add what one tile of queries gives to dk and dv."""
    o_m = tl.arange(0, BM)
    o_d = tl.arange(0, D)
    i_block, i_offset = _entry(p_entries, i, B, BM)
    i_token = i_block * B + i_offset
    p_q = q + i_token * s_qt + (o_m[:, None] * s_qt + o_d[None, :])
    p_do = do + i_token * s_dot + (o_m[:, None] * s_dot + o_d[None, :])
    b_q = tl.load(p_q)
    b_do = tl.load(p_do)
    b_lse = tl.load(lse + i_token + o_m)
    b_delta = tl.load(delta + i_token + o_m)
    b_s = _dot(b_k, tl.trans(b_q), INTERPRET)  # [BN, BM]
    b_p = tl.exp2(b_s * scale_log2 - b_lse[None, :])
    b_dv = _dot_add(b_p.to(b_do.dtype), b_do, b_dv, INTERPRET)
    b_dp = _dot(b_v, tl.trans(b_do), INTERPRET)
    b_ds = b_p * (b_dp - b_delta[None, :])
    b_dk = _dot_add(b_ds.to(b_q.dtype), b_q, b_dk, INTERPRET)
    return b_dk, b_dv


@triton.jit(do_not_specialize=["n_slots"])
def sparse_bwd_kernel_dkdv(
    q, k, v, do, dk, dv, lse, delta, part, items, entries, valid, scale, scale_log2, n_tokens,
    s_qt, s_qh, s_kt, s_kh, s_dot, s_doh, s_dkt, s_dkh, n_slots,
    FIELDS: tl.constexpr, D: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Compute dk and dv of BN rows of a key block; they share the strides of dk."""
    p_item = items + tl.program_id(0) * FIELDS
    i_h = tl.load(p_item).to(tl.int64)
    i_block = tl.load(p_item + 1).to(tl.int64)
    p_entries = entries + tl.load(p_item + 2)
    n_all = tl.load(p_item + 4)
    i_slot = tl.load(p_item + 5).to(tl.int64)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    o_d = tl.arange(0, D)
    m_n = o_n < tl.load(valid + i_block)
    i_token = i_block * B
    q += i_h * s_qh
    do += i_h * s_doh
    lse += i_h * n_tokens
    delta += i_h * n_tokens
    o_k = i_h * s_kh + i_token * s_kt + (o_n[:, None] * s_kt + o_d[None, :])
    b_k = tl.load(k + o_k, mask=m_n[:, None], other=0.0)  # [BN, D]
    b_v = tl.load(v + o_k, mask=m_n[:, None], other=0.0)

    b_dk = tl.zeros([BN, D], tl.float32)
    b_dv = tl.zeros([BN, D], tl.float32)
    for i in tl.range(0, n_all * (B // BM)):
        b_dk, b_dv = _dkdv_tile(
            b_k, b_v, b_dk, b_dv, q, do, lse, delta, p_entries, i, s_qt, s_dot, scale_log2,
            D, B, BM, INTERPRET,
        )  # fmt: skip

    # A row of dk and dv comes from its own key alone: what padding gathered is dropped here.
    b_dk = tl.where(m_n[:, None], b_dk * scale, 0.0)
    b_dv = tl.where(m_n[:, None], b_dv, 0.0)
    if i_slot < 0:
        o_dk = i_h * s_dkh + i_token * s_dkt + (o_n[:, None] * s_dkt + o_d[None, :])
        tl.store(dk + o_dk, b_dk.to(dk.dtype.element_ty))
        tl.store(dv + o_dk, b_dv.to(dv.dtype.element_ty))
    else:
        o_part = o_n[:, None] * D + o_d[None, :]
        tl.store(part + i_slot * (B * D) + o_part, b_dk)
        tl.store(part + (n_slots + i_slot) * (B * D) + o_part, b_dv)


@triton.jit
def sparse_bwd_merge_kernel(
    grad, part, merges, s_gt, s_gh, D: tl.constexpr, B: tl.constexpr, BM: tl.constexpr
):  # fmt: skip
    """Add up the chunks of a long row of dq, or of a long column of dk or dv."""
    p_merge = merges + tl.program_id(0) * 4
    i_h = tl.load(p_merge).to(tl.int64)
    i_block = tl.load(p_merge + 1).to(tl.int64)
    i_first = tl.load(p_merge + 2).to(tl.int64)
    n_parts = tl.load(p_merge + 3)
    o_m = tl.program_id(1) * BM + tl.arange(0, BM)
    o_d = tl.arange(0, D)
    b_sum = tl.zeros([BM, D], tl.float32)
    for i in tl.range(0, n_parts):
        b_sum += tl.load(part + (i_first + i) * (B * D) + (o_m[:, None] * D + o_d[None, :]))
    p_grad = grad + i_h * s_gh + i_block * B * s_gt + (o_m[:, None] * s_gt + o_d[None, :])
    tl.store(p_grad, b_sum.to(grad.dtype.element_ty))


def refuse(dtype: torch.dtype, width: int, block_size: int) -> str | None:
    """Return what the kernels cannot take, or None where they can."""
    if dtype not in DTYPES:
        return f"{dtype}, only {', '.join(str(dtype) for dtype in DTYPES)}"
    if width not in HEAD_WIDTHS:
        return f"head width {width}, only {', '.join(map(str, HEAD_WIDTHS))}"
    if block_size not in BLOCK_SIZES:
        return f"block size {block_size}, only {', '.join(map(str, BLOCK_SIZES))}"
    return None


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _same_strides(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values share their offsets, which saves registers; views of one projection do."""
    k, v = _rows_contiguous(k), _rows_contiguous(v)
    return (k, v) if k.stride() == v.stride() else (k.contiguous(), v.contiguous())


def _partial_sums(work: WorkList, shape: tuple[int, ...], unused: Tensor) -> Tensor:
    """Float32 memory for the chunks; any float32 tensor where no row is cut."""
    if not work.slots:
        return unused
    return torch.empty(shape, dtype=torch.float32, device=unused.device)


def _strides(*tensors: Tensor) -> list[int]:
    """Return how far apart tokens and heads of each tensor [T, H, D] are."""
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _constants(width: int, block_size: int, chosen: Config) -> dict[str, Any]:
    """Return what a kernel over tiles is compiled for."""
    sizes = {"D": width, "B": block_size, "BM": chosen.tile_m, "BN": chosen.tile_n}
    return {"FIELDS": ITEM_FIELDS, **sizes, "INTERPRET": interpreted(), **chosen.options}


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: LaunchPlan, block_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend by a plan.

    Args:
        q: queries [T, H, D].
        k: keys [T, H, D].
        v: values [T, H, D].
        plan: of the layout, on the device of `q`.
        block_size: tokens per block, B.
        scale: factor on the scores, positive.

    Returns:
        The output [T, H, D], contiguous, and log2 of the softmax sums, float32 [H, T].
    """
    tokens, heads, width = q.shape
    q, (k, v) = _rows_contiguous(q), _same_strides(k, v)
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    work, c = plan.rows, config("fwd", q.dtype, width, block_size, _capability(q.device))
    part_o = _partial_sums(work, (work.slots, block_size, width), lse)
    part_ml = _partial_sums(work, (2, work.slots, block_size), lse)
    with torch.cuda.device_of(q):
        sparse_fwd_kernel[len(work.items), block_size // c.tile_m](
            q,
            k,
            v,
            o,
            lse,
            part_o,
            part_ml,
            work.items,
            work.entries,
            plan.valid,
            scale * LOG2_E,
            tokens,
            *_strides(q, k, o),
            work.slots,
            **_constants(width, block_size, c),
        )
        if work.slots:
            tile = min(block_size, MERGE_ROWS)
            sparse_fwd_merge_kernel[len(work.merges), block_size // tile](
                o,
                lse,
                part_o,
                part_ml,
                work.merges,
                plan.valid,
                tokens,
                *_strides(o),
                work.slots,
                **{"D": width, "B": block_size, "BM": tile, **MERGE},
            )
    return o, lse


def backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    plan: LaunchPlan,
    block_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk and dv, contiguous [T, H, D], from the gradient of the output and `forward`."""
    tokens, heads, width = q.shape
    q, o, do = (_rows_contiguous(x) for x in (q, o, do))
    k, v = _same_strides(k, v)
    dq, dk, dv = (
        torch.empty((tokens, heads, width), dtype=q.dtype, device=q.device) for _ in "qkv"
    )
    delta = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    rows, columns = plan.rows, plan.columns
    part_rows = _partial_sums(rows, (rows.slots, block_size, width), delta)
    part_columns = _partial_sums(columns, (2, columns.slots, block_size, width), delta)
    c_rows, c_columns = (
        config(kind, q.dtype, width, block_size, _capability(q.device)) for kind in ("dq", "dkdv")
    )
    merge = min(block_size, MERGE_ROWS)
    with torch.cuda.device_of(q):
        sparse_bwd_kernel_dq[len(rows.items), block_size // c_rows.tile_m](
            q,
            k,
            v,
            o,
            do,
            dq,
            lse,
            delta,
            part_rows,
            rows.items,
            rows.entries,
            plan.valid,
            scale,
            scale * LOG2_E,
            tokens,
            *_strides(q, k, o, do, dq),
            **_constants(width, block_size, c_rows),
        )
        sparse_bwd_kernel_dkdv[len(columns.items), block_size // c_columns.tile_n](
            q,
            k,
            v,
            do,
            dk,
            dv,
            lse,
            delta,
            part_columns,
            columns.items,
            columns.entries,
            plan.valid,
            scale,
            scale * LOG2_E,
            tokens,
            *_strides(q, k, do, dk),
            columns.slots,
            **_constants(width, block_size, c_columns),
        )
        part_k, part_v = part_columns[:1], part_columns[1:]
        for work, part, grad in (
            (rows, part_rows, dq),
            (columns, part_k, dk),
            (columns, part_v, dv),
        ):
            if work.slots:
                sparse_bwd_merge_kernel[len(work.merges), block_size // merge](
                    *(grad, part, work.merges, *_strides(grad)),
                    **{"D": width, "B": block_size, "BM": merge, **MERGE},
                )
    return dq, dk, dv
