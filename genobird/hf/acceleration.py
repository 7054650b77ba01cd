"""Put our attention into a model of transformers, and take it out again.

Each self-attention of an encoder is replaced by a module that holds the same projections, so names
and weights stay as they are. The encoder is told that its attention is full: it then neither pads
nor switches anything by length, and hands each layer the mask that it was given. That mask, with
four dimensions, is left alone by transformers and stays as long as the batch, not its square.

Batches are padded, [B, L, H, D], and the pattern is that of transformers: `google`, applied to the
length of the batch, so that the last global block is the batch's last one; what a sequence's mask
hides is left out of its lists. A mask that only ends a sequence early costs nothing. One with
holes, or with padding at the left, becomes one more feature: 1 in the queries, a large negative
number in hidden keys.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from inspect import signature
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.attention import BlockLayout, Pattern, block_sparse_attention, google
from genobird.attention.pattern import IntArray, SequenceLists
from genobird.errors import UsageError

Blocks = Literal["trained", "evaluation"]
Model = TypeVar("Model", bound=nn.Module)

_FAMILY = ("transformers.models.big_bird.", "transformers.models.bigbird_pegasus.")
_ENCODERS = {"BigBirdModel", "BigBirdPegasusEncoder"}
_ATTENTIONS = {"BigBirdAttention", "BigBirdPegasusEncoderAttention"}
_THEIR_GELU = "NewGELUActivation"
_LENGTHS = "genobird_lengths"
_UNKNOWN: Any = object()
# The lengths for which transformers uses the plan of the paper's experiments.
PAPER_LENGTHS = (1024, 3072, 4096)


def accelerate(model: Model, blocks: Blocks = "trained") -> Model:
    """Replace the attention of every BigBird encoder in a model, in place.

    Works on `BigBirdModel` and `BigBirdPegasusEncoder` under any head; decoders stay as they are.
    The tanh form of GELU is computed in one pass. Weights, their names, the config and what
    `save_pretrained` writes do not change, no random state is read or set, and results equal those
    of transformers to rounding. Where `config.attention_type` is `block_sparse`, a batch of at most
    `2 * num_random_blocks + 5` blocks gets full attention, for this call alone; any longer one is
    attended to by blocks.

    Args:
        model: the model; whether it was accelerated before does not matter.
        blocks: `trained`: the random blocks that transformers uses in train mode, in both modes.
            `evaluation`: those that it uses in evaluation, the first block again and again.

    Returns:
        The same model.

    Raises:
        UsageError: no BigBird, an unknown `blocks`, or BigBirdPegasus in transformers before 4.53.
    """
    if blocks not in get_args(Blocks):
        raise UsageError(f"blocks {blocks!r} found; choose {' or '.join(get_args(Blocks))}")
    parts = model.modules() if isinstance(model, nn.Module) else ()
    if not any(type(part).__module__.startswith(_FAMILY) for part in parts):
        raise UsageError(
            f"{type(model).__name__} holds no BigBird of transformers; give a BigBird or "
            "BigBirdPegasus model, with any head"
        )
    restore(model)
    _refuse_what_gets_no_mask(model)
    for encoder in list(_encoders(model)):
        is_sparse = encoder.config.attention_type == "block_sparse"
        for attention in _attentions(encoder):
            rule = _rule(attention, blocks) if is_sparse else None
            attention.self = _SelfAttention(attention.self, rule, attention.attention_type)
        for owner, name in _activations(encoder, _THEIR_GELU):
            setattr(owner, name, _Gelu(getattr(owner, name)))
        _set_type(encoder, "original_full")
        encoder.set_attention_type = _refuse_type
        encoder.register_forward_pre_hook(_refuse_probabilities, with_kwargs=True)
        if _leaves_masks_be(encoder):
            encoder.register_forward_pre_hook(_hand_down_mask, with_kwargs=True)
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`, in place; a model that was not accelerated stays as it is.

    Projections that were replaced meanwhile, by adapters say, are kept.
    """
    for encoder in _encoders(model):
        hooks = encoder._forward_pre_hooks
        ours = (_refuse_probabilities, _hand_down_mask)
        for key in [key for key, hook in hooks.items() if hook in ours]:
            del hooks[key], encoder._forward_pre_hooks_with_kwargs[key]
            encoder.__dict__.pop("set_attention_type", None)
        for attention in _attentions(encoder):
            made = attention.self
            if isinstance(made, _SelfAttention):
                (theirs,) = made.replaced
                theirs.query, theirs.key, theirs.value = made.query, made.key, made.value
                attention.self = theirs.train(made.training)
                _set_type(encoder, made.their_type)
        for owner, name in _activations(encoder, _Gelu.__name__):
            (activation,) = getattr(owner, name).replaced
            setattr(owner, name, activation.train(owner.training))
    return model


class _Gelu(nn.GELU):
    """GELU by tanh in one pass over memory; `gelu_new` of transformers takes eight."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__("tanh")
        self.replaced = (theirs,)


class _SelfAttention(nn.Module):
    """Attention with the projections of the module that it replaces.

    Attributes:
        replaced: that module, in a tuple: it must not show among the parts.
        rule: which blocks are seen; None is all.
        their_type: the `attention_type` of that module.
    """

    def __init__(self, theirs: Any, rule: Rule | None, their_type: str) -> None:
        super().__init__()
        self.query, self.key, self.value = theirs.query, theirs.key, theirs.value
        self.heads: int = theirs.num_attention_heads
        self.rule = rule
        self.replaced = (theirs,)
        self.their_type = their_type
        dropout = getattr(theirs, "dropout", None)
        self.dropout = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
        self.train(theirs.training)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """[B, L, D] -> [B, L, D], and no probabilities: they are never all there."""
        q, k, v = (
            linear(hidden_states).unflatten(-1, (self.heads, -1))
            for linear in (self.query, self.key, self.value)
        )  # [B, L, H, D / H] each
        lengths = kwargs.get(_LENGTHS, _UNKNOWN)
        mask = None if lengths is None else attention_mask
        if self.rule is None or self.rule.sees_all(q.shape[1]):
            return self._full(q, k, v, mask).flatten(2), None
        seen = None if mask is None else _seen(mask)
        if seen is not None and lengths is _UNKNOWN:
            lengths = lengths_of(seen)
        return padded_attention(q, k, v, seen, lengths, self.rule).flatten(2), None

    def _full(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend to everything, [B, L, H, D]; an integer mask is 1 where a key is seen."""
        if mask is not None and not mask.is_floating_point():
            # As transformers does it: a sequence that is all padding sees all of it.
            hidden = torch.finfo(q.dtype).min
            mask = torch.where(mask != 0, 0.0, hidden).to(q.dtype)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return out.transpose(1, 2)


def _seen(mask: Tensor) -> Tensor:
    """Return which tokens a mask [B, 1, 1 or L, L] lets see, bool [B, L]."""
    seen = mask > -1e4 if mask.is_floating_point() else mask != 0
    if seen.shape[2] > 1 and not bool((seen[:, :1, :1] == seen).all()):
        raise UsageError(
            "block-sparse attention takes an attention_mask [batch, tokens], not one for pairs"
        )
    return seen[:, 0, 0]


def _refuse_what_gets_no_mask(model: nn.Module) -> None:
    """Refuse the editions whose full attention over a block-sparse Pegasus ignores padding."""
    found = version("transformers")
    is_early = tuple(int(number) for number in found.split(".")[:2]) < (4, 53)
    if is_early and any(_is_one_of(part, {"BigBirdPegasusEncoder"}) for part in _encoders(model)):
        raise UsageError(
            f"transformers {found} found, whose BigBirdPegasus hands no mask to full attention; "
            "install transformers 4.53 or later"
        )


def _refuse_probabilities(encoder: Any, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    wanted = kwargs.get("output_attentions")
    if encoder.config.output_attentions if wanted is None else wanted:
        raise UsageError(
            "output_attentions was asked for, but an accelerated model has no probabilities; "
            "call genobird.hf.restore(model) first"
        )


def _hand_down_mask(
    _encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give an encoder's mask four dimensions, and its layers the length of each sequence."""
    args = (*args, None, None)[: max(2, len(args))]  # input_ids, attention_mask, ...
    ids, mask = (
        given if given is not None else kwargs.pop(name, None)
        for given, name in zip(args[:2], ("input_ids", "attention_mask"), strict=True)
    )
    embedded = (x for x in args[2:] if isinstance(x, Tensor) and x.dim() == 3)
    like = ids if ids is not None else kwargs.get("inputs_embeds", next(embedded, None))
    if like is not None and (mask is None or mask.dim() == 2):
        kwargs[_LENGTHS] = None if mask is None else lengths_of(mask != 0)
        mask = torch.ones(like.shape[:2], device=like.device) if mask is None else mask
        mask = (mask != 0).long()[:, None, None]
    return (ids, mask, *args[2:]), kwargs


def _refuse_type(value: str) -> None:
    raise UsageError(
        f"set_attention_type({value!r}) on an accelerated model; call genobird.hf.restore(model) "
        "first, or load the model with this attention_type and accelerate it"
    )


def _encoders(model: nn.Module) -> Iterator[Any]:
    for part in model.modules():
        if _is_one_of(part, _ENCODERS) and not getattr(part.config, "is_decoder", False):
            yield part


def _attentions(encoder: nn.Module) -> Iterator[Any]:
    return (part for part in encoder.modules() if _is_one_of(part, _ATTENTIONS))


def _activations(encoder: nn.Module, kind: str) -> list[tuple[nn.Module, str]]:
    """Return the owner and the name of each part whose class is called `kind`."""
    return [
        (owner, name)
        for owner in encoder.modules()
        for name, part in owner.named_children()
        if type(part).__name__ == kind
    ]


def _leaves_masks_be(encoder: nn.Module) -> bool:
    """Whether the code of an encoder passes on masks of four dimensions and unknown arguments.

    Earlier editions do not; their layers get a mask that is added to scores.
    """
    attention = signature(type(next(_attentions(encoder))).forward)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in attention.parameters.values())
    code = sys.modules[next(c for c in type(encoder).mro() if c.__name__ in _ENCODERS).__module__]
    return takes_any and hasattr(code, "create_bidirectional_mask")


def _is_one_of(part: nn.Module, names: set[str]) -> bool:
    """Whether a part is of one of transformers' classes, which need not be imported for that."""
    return any(
        base.__name__ in names and base.__module__.startswith(_FAMILY) for base in type(part).mro()
    )


def _rule(attention: Any, blocks: Blocks) -> Rule:
    config = attention.config
    return Rule(
        config.block_size,
        config.num_random_blocks,
        attention.seed,
        config.max_position_embeddings,
        blocks == "trained",
    )


def _set_type(encoder: Any, value: str) -> None:
    for part in encoder.modules():
        if hasattr(part, "attention_type"):
            part.attention_type = value


class Rule(NamedTuple):
    """Which blocks a layer sees."""

    block_size: int
    """Tokens per block."""
    random_blocks: int
    """Random blocks per query block, r."""
    seed: int
    """Of the layer's random blocks."""
    longest: int
    """Tokens for which the plan of `PAPER_LENGTHS` is drawn."""
    is_trained: bool
    """Whether random blocks are those of training; in evaluation, transformers takes the first
    block each time."""

    def sees_all(self, tokens: int) -> bool:
        """Return whether so short a batch gets full attention."""
        return google.is_full(-(-tokens // self.block_size), self.random_blocks)


def lengths_of(seen: Tensor) -> Tensor:
    """Return the tokens of each sequence, int64 [B] on the CPU; -1 where a mask has holes.

    Args:
        seen: bool [B, L], which tokens are no padding.
    """
    lengths = seen.sum(1)
    places = torch.arange(seen.shape[1], device=seen.device)
    ends_early = ((places < lengths[:, None]) == seen).all(1) & (lengths > 0)
    return torch.where(ends_early, lengths, -1).cpu()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # lists depend on the mask, which is not known while tracing
def padded_attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, lengths: Tensor | None, rule: Rule
) -> Tensor:
    """Attend as transformers' block-sparse attention does.

    Args:
        q: queries [B, L, H, D].
        k: keys [B, L, H, D].
        v: values [B, L, H, D].
        seen: bool [B, L], which tokens are no padding; None is all.
        lengths: `lengths_of(seen)`; None is all L.
        rule: which blocks the layer sees.

    Returns:
        [B, L, H, D], zero where `seen` is False.
    """
    batch, tokens, heads, width = q.shape
    sizes = [tokens] * batch if seen is None or lengths is None else lengths.tolist()
    scale, has_holes = width**-0.5, min(sizes) < 0
    if has_holes:
        assert seen is not None
        sizes = [tokens] * batch
        hidden = max(-1e4 / scale, torch.finfo(k.dtype).min / 2)
        bias = torch.where(seen, 0.0, hidden).to(k.dtype)[:, :, None, None]
        last = bias.expand(-1, -1, heads, 1)
        q, k, v = (
            torch.cat([x, feature], dim=-1)
            for x, feature in ((q, torch.ones_like(last)), (k, last), (v, torch.zeros_like(last)))
        )
    missing = -tokens % rule.block_size
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)).flatten(0, 1) for x in (q, k, v))
    layout = _layout(rule, heads, (tokens + missing) // rule.block_size, tuple(sizes))
    out = block_sparse_attention(q, k, v, layout, scale=scale)
    out = out.view(batch, -1, *out.shape[1:])[:, :tokens, :, :width]
    return out * seen[:, :, None, None] if has_holes and seen is not None else out


@lru_cache(maxsize=128)
def _layout(rule: Rule, heads: int, n_blocks: int, lengths: tuple[int, ...]) -> BlockLayout:
    """Lay out sequences of 1 to N blocks, each with what follows it up to N, which sees nothing."""
    size = rule.block_size
    lists, tokens = list[SequenceLists](), list[int]()
    for length in lengths:
        own = -(-length // size)
        lists.append(_lists(rule, heads, n_blocks, own))
        tokens.append(length)
        if own < n_blocks:
            nothing: IntArray = np.zeros((heads, n_blocks - own), dtype=np.int64)
            lists.append(SequenceLists(nothing, nothing[:0].reshape(-1)))
            tokens.append((n_blocks - own) * size)
    pattern = Pattern("google", block_size=size, random_blocks=rule.random_blocks)
    return BlockLayout(pattern, tuple(tokens), tuple(lists))


@lru_cache(maxsize=512)
def _lists(rule: Rule, heads: int, n_blocks: int, own: int) -> SequenceLists:
    """Return the lists of the first blocks of a sequence of N, its own, which see one another."""
    size, r = rule.block_size, rule.random_blocks
    random: IntArray = np.zeros((heads, n_blocks - 2, r), dtype=np.int64)
    if rule.is_trained:
        random = google.draw_random_blocks(
            n_blocks, size, r, heads, rule.seed, PAPER_LENGTHS, rule.longest
        )
    counts, keys = google.joined_lists(random)
    row = np.repeat(np.arange(heads * n_blocks), counts.reshape(-1))
    kept = (row % n_blocks < own) & (keys < own)
    kept_counts = np.bincount(row[kept], minlength=heads * n_blocks).reshape(heads, n_blocks)
    return SequenceLists(kept_counts[:, :own], keys[kept])
