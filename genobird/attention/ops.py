"""The entry point of sparse attention: check the arguments, choose the backend."""

from __future__ import annotations

from torch import Tensor

from genobird.attention.blocked import blocked_attention
from genobird.attention.layout import BlockLayout
from genobird.attention.reference import reference_attention

BACKENDS = ("auto", "blocked", "reference")


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
        layout: which key blocks each query block of each head sees.
        scale: factor on the scores; default D ** -0.5.
        backend: `blocked` (torch), `reference` (dense mask, for tests) or `auto` (blocked).

    Returns:
        [T, H, D] in the dtype of `q`; zero at padding tokens. What padding tokens hold in q, k and
        v does not matter, as long as it is finite.

    Raises:
        ValueError: shapes that do not fit the layout, or an unknown backend.
    """
    tokens = layout.n_blocks * layout.block_size
    expected = (tokens, layout.heads)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 3 or tuple(x.shape[:2]) != expected or x.shape != q.shape:
            raise ValueError(
                f"{name} is {list(x.shape)}; the layout wants [{tokens}, {layout.heads}, D], "
                "the same D for q, k and v"
            )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "reference":
        return reference_attention(q, k, v, layout, scale)
    if backend in ("auto", "blocked"):
        return blocked_attention(q, k, v, layout, scale)
    raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
