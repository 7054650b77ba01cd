"""Which tokens attend to which: the attention of one layer, by the plain reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import PackedBatch, add_specials, pack
from genobird.errors import UsageError, quoted
from genobird.genome.sequence import normalise
from genobird.inference import Floats
from genobird.scoring.inputs import named_sequences

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

MOST_TOKENS = 4_096
"""Longest sequence: memory grows with the square of its tokens."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention of one layer over the T tokens of a sequence, [CLS] and [SEP] among them."""

    weights: Floats
    """[H, T, T], how much of what a token (row) reads comes from each token; rows sum to 1, but for
    what goes to learned global tokens, where the model has these."""
    spans: NDArray[np.int32]
    """int32 [T, 2], bases of each token, 0-based half-open; empty for [CLS] and [SEP]."""


def attention_map(scorer: Scorer, sequence: str, layer: int = -1) -> AttentionMap:
    """Return the attention of a layer.

    Args:
        scorer: the model.
        sequence: DNA, at most `MOST_TOKENS` tokens.
        layer: its number, from 0 on, or from the last one back.

    Raises:
        SequenceError: letters that are no DNA.
        UsageError: it is no sequence or too long, or the model has no such layer.
    """
    [(_, given)] = named_sequences([sequence])
    encoder, text = scorer.checkpoint.encoder, normalise(given, "the sequence")
    layers = encoder.config.layers
    if not isinstance(layer, int) or not -layers <= layer < layers:
        raise UsageError(
            f"layer {quoted(layer)} found, and the model has {layers}; they count from 0"
        )
    encoding = scorer.checkpoint.tokenizer.encode(text)
    length = len(encoding) + 2
    if length > MOST_TOKENS:
        raise UsageError(f"{length:,} tokens found, up to {MOST_TOKENS:,} are allowed; cut it")
    batch = pack([add_specials(encoding.ids)], encoder.config.block_size)
    seen: list[Tensor] = []

    def keep(module: Any, given: tuple[Any, ...]) -> None:
        x, layout, rope = given[:3]
        own = layout.own_tokens()[:length].to(x.device)
        seen.append(module.weights(x, layout, rope)[:, own][:, :, own])

    def compute(batch: PackedBatch) -> Tensor:
        hook = encoder.blocks[layer].attention.register_forward_pre_hook(keep)  # type: ignore[union-attr]
        try:
            scorer.inference.encode(batch.to(scorer.device))
        finally:
            hook.remove()
        return seen.pop()

    weights = scorer.inference.passes.run([len(text)], lambda _: batch, compute)
    ends = np.array([[0, 0], [len(text)] * 2], np.int32)
    return AttentionMap(weights, np.concatenate([ends[:1], encoding.spans, ends[1:]]))
