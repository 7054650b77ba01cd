"""The entry point of sparse attention: check the arguments, choose the backend.

The fast backends are operators of torch (`torch.library`), with shapes for tracing and with their
derivatives, so that `torch.compile(fullgraph=True)` takes them as they are. An operator is given
the layout by its handle, a number that a graph leaves open, so that one graph serves all layouts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genobird.attention import blocked
from genobird.attention.layout import BlockLayout
from genobird.attention.plan import launch_plan
from genobird.attention.reference import reference_attention

BACKENDS = ("auto", "blocked", "dense", "reference", "triton")


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attend to the key blocks that a layout names (BigBird paper, section 2 and appendix D).

    Args:
        q: queries [T, H, D], sequences end to end, each padded to whole blocks; T =
            layout.n_blocks * layout.block_size. May be a strided view of a fused projection.
        k: keys [T, H, D].
        v: values [T, H, D].
        layout: which key blocks each query block of each head sees. What is saved for the backward
            pass keeps it; in a CUDA graph, keep it as long as the graph.
        scale: factor on the scores, positive; default D ** -0.5.
        backend: `triton` (bfloat16, float16, float32; head widths 32, 64, 128), `blocked` (torch,
            any device and shape), `dense` (torch's SDPA, for full layouts), `reference` (dense
            mask, for tests) or `auto`: on a GPU `dense` where it can and pays, else `triton` where
            it can, else `blocked`.

    Returns:
        [T, H, D] in the dtype of `q`; zero at padding tokens. What padding tokens hold in q, k and
        v does not matter, as long as it is finite. On `triton` and `blocked` the bits of a
        sequence's result do not depend on the rest of the batch.

    Raises:
        ValueError: tensors that do not fit the layout, each other or the backend, a scale that is
            not positive, or an unknown backend.
    """
    tokens = layout.n_blocks * layout.pattern.block_size
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 3 or x.shape[0] != tokens or x.shape[1] != layout.heads or x.shape != q.shape:
            raise ValueError(
                f"{name} is {list(x.shape)}; the layout wants [{tokens}, {layout.heads}, D], "
                "the same D for q, k and v"
            )
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name} is {x.dtype} on {x.device}, but q {q.dtype} on {q.device}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be positive")
    if backend == "auto":
        backend = choose_backend(q, layout)
    if backend == "triton":
        out: Tensor = torch.ops.genobird.sparse_attention(q, k, v, layout.handle, scale)[0]
        return out
    if backend == "blocked":
        # Only derivatives and tracing need the operator, whose first call imports torch's compiler:
        # as much time and memory as the rest of torch.
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            return blocked.forward(q, k, v, layout, scale)
        out = torch.ops.genobird.blocked_attention(q, k, v, layout.handle, scale)
        return out
    if backend == "dense":
        return dense_attention(q, k, v, layout, scale)
    if backend == "reference":
        return reference_attention(q, k, v, layout, scale)
    raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")


def choose_backend(q: Tensor, layout: BlockLayout) -> str:
    """Return what `auto` stands for. On a CPU `blocked` treats full sequences densely itself."""
    if q.device.type != "cuda":
        return "blocked"
    if layout.is_full and layout.is_even:
        return "dense"
    return (
        "triton" if kernels_refuse(q.dtype, q.shape[-1], layout.block_size) is None else "blocked"
    )


def dense_attention(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float) -> Tensor:
    """Attend with torch's SDPA, one call where the sequences are equally long.

    Raises:
        ValueError: a layout in which some token does not see its whole sequence.
    """
    if not layout.is_full:
        raise ValueError(
            f"backend 'dense' wants full attention; this layout computes {layout.density:.0%} of "
            "it: use 'auto'"
        )
    groups = [(0, len(layout.lengths))] if layout.is_even else []
    groups = groups or [(s, s + 1) for s in range(len(layout.lengths))]
    outs = []
    for first, last in groups:
        start, stop = (int(layout.cu_blocks[s]) * layout.block_size for s in (first, last))
        length = layout.pattern.extra_blocks * layout.block_size + layout.lengths[first]
        shape = (last - first, (stop - start) // (last - first), *q.shape[1:])
        parts = [x[start:stop].view(shape)[:, :length].transpose(1, 2) for x in (q, k, v)]
        out = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], scale=scale)
        out = out.transpose(1, 2)
        outs.append(F.pad(out, (0, 0, 0, 0, 0, shape[1] - length)).flatten(0, 1))
    return torch.cat(outs) if len(outs) > 1 else outs[0]


def _kernels() -> Any:
    """Return the Triton kernels, which only some machines can import."""
    from genobird.attention import kernels

    return kernels


def kernels_refuse(dtype: torch.dtype, width: int, block_size: int) -> str | None:
    """Return why the Triton kernels cannot be used, or None where they can."""
    try:
        kernels = _kernels()
    except ImportError as error:
        return f"Triton cannot be imported ({error}); install genobird[gpu]"
    refusal: str | None = kernels.refuse(dtype, width, block_size)
    return refusal


def _keep(layout: BlockLayout, saved: Tensor) -> None:
    """Let a layout live as long as the memory of a tensor that the backward pass reads.

    The handle keeps nothing alive, and a compiled graph saves nothing but tensors and numbers.
    """
    saved.untyped_storage().layout = layout  # type: ignore[attr-defined]


@torch.library.custom_op(
    "genobird::sparse_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, SymInt layout, float scale) -> (Tensor, Tensor)",
)
def _triton_forward(
    q: Tensor, k: Tensor, v: Tensor, layout: int, scale: float
) -> tuple[Tensor, Tensor]:
    lists = BlockLayout.of_handle(layout)
    refusal = kernels_refuse(q.dtype, q.shape[-1], lists.block_size)
    if refusal is not None:
        raise ValueError(f"backend 'triton' does not take {refusal}")
    plan = launch_plan(lists, q.device)
    out, lse = _kernels().forward(q, k, v, plan, lists.block_size, scale)
    _keep(lists, lse)
    return out, lse


@torch.library.custom_op(
    "genobird::sparse_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, SymInt layout, "
    "float scale) -> (Tensor, Tensor, Tensor)",
)
def _triton_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    layout: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    lists = BlockLayout.of_handle(layout)
    plan = launch_plan(lists, q.device)
    grads: tuple[Tensor, Tensor, Tensor] = _kernels().backward(
        grad, q, k, v, out, lse, plan, lists.block_size, scale
    )
    return grads


@torch.library.custom_op(
    "genobird::blocked_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, SymInt layout, float scale) -> Tensor",
)
def _blocked_forward(q: Tensor, k: Tensor, v: Tensor, layout: int, scale: float) -> Tensor:
    lists = BlockLayout.of_handle(layout)
    out = blocked.forward(q, k, v, lists, scale)
    _keep(lists, out)
    return out


@torch.library.custom_op(
    "genobird::blocked_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, SymInt layout, float scale) "
    "-> (Tensor, Tensor, Tensor)",
)
def _blocked_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, layout: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return blocked.backward(grad, q, k, v, out, BlockLayout.of_handle(layout), scale)


@_triton_forward.register_fake
def _triton_forward_fake(
    q: Tensor, k: Tensor, v: Tensor, layout: int, scale: float
) -> tuple[Tensor, Tensor]:
    tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((heads, tokens), dtype=torch.float32)


@_blocked_forward.register_fake
def _blocked_forward_fake(q: Tensor, k: Tensor, v: Tensor, layout: int, scale: float) -> Tensor:
    return q.new_empty(q.shape)


@_triton_backward.register_fake
@_blocked_backward.register_fake
def _backward_fake(grad: Tensor, q: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.layout, ctx.scale = inputs
    outputs = (output,) if isinstance(output, Tensor) else output
    ctx.save_for_backward(q, k, v, *outputs)
    ctx.mark_non_differentiable(*outputs[1:])


def _triton_differentiate(ctx: Any, grad: Tensor, _grad_lse: Tensor | None) -> tuple[Any, ...]:
    return *_triton_backward(grad, *ctx.saved_tensors, ctx.layout, ctx.scale), None, None


def _blocked_differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *_blocked_backward(grad, *ctx.saved_tensors, ctx.layout, ctx.scale), None, None


_triton_forward.register_autograd(_triton_differentiate, setup_context=_save)
_blocked_forward.register_autograd(_blocked_differentiate, setup_context=_save)
