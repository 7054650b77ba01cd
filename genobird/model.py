"""The BigBird encoder on packed batches, and its masked-language-model head.

What differs from the textbook encoder:

- Sequences lie end to end (`batch.py`), attention is block-sparse (`attention/`).
- `stem = "tower"` adds to each token's embedding what convolutions see around it at base resolution
  (`stem.py`), so that a single-base change is visible even where it moves token boundaries
  (`stem = "none"`: the paper).
- `position = "rope"` rotates queries and keys instead of adding learned positions; no length limit.
- `norm = "pre"` is the default; `"post"` is the paper's; `"bert"` is that of released checkpoints:
  the norm of the whole stands after the embedding, not at the end.
- `global_tokens = "extra"` puts learned tokens before each sequence, which see all and are seen by
  all (BigBird-ETC); they are gone from what comes out. `"internal"` (BigBird-ITC) makes a
  sequence's own first blocks global.
- The decoder shares its weights with the embedding; logits exist only where they are asked for.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genobird.attention import BlockLayout, Pattern, block_sparse_attention
from genobird.attention.reference import reference_weights
from genobird.batch import PackedBatch
from genobird.config import MOST_SEED, Strict
from genobird.errors import InputError
from genobird.pair_log_odds import PairLogOdds
from genobird.stem import Tower


class BigBirdConfig(Strict):
    """Shape of an encoder. Defaults are BigBird-base as in the paper (tables 8 and 21)."""

    vocab_size: int = Field(32_000, ge=10, le=65_535, description="Pieces, specials included.")
    width: int = Field(768, ge=8, le=1 << 16, description="Hidden width, D.")
    layers: int = Field(
        12, ge=0, le=1024, description="Transformer layers; 0 leaves the stem alone."
    )
    heads: int = Field(12, ge=1, le=1024, description="Attention heads, H.")
    mlp_width: int = Field(3072, ge=8, le=1 << 18, description="Width of the feed-forward layer.")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout after each sublayer and embedding."
    )
    norm: Literal["pre", "post", "bert"] = Field(
        "pre", description="Layer norm before or after a sublayer; bert: also after the embedding."
    )
    norm_epsilon: float = Field(1e-5, gt=0, description="Added to variances in layer norms.")
    activation: Literal["gelu", "gelu_tanh"] = Field(
        "gelu", description="GELU, or its approximation by tanh."
    )
    position: Literal["rope", "absolute"] = Field("absolute", description="Position encoding.")
    max_tokens: int = Field(
        4096, ge=64, le=1 << 24, description="Longest sequence under absolute positions."
    )
    pattern: Literal[
        "bigbird", "full", "google", "longformer", "random", "random+window", "window"
    ] = Field("bigbird", description="Attention pattern.")
    block_size: int = Field(64, ge=1, le=1 << 16, description="Tokens per block.")
    window_blocks: int = Field(3, ge=1, le=1 << 12, description="Blocks of the sliding window.")
    global_blocks: int = Field(
        2, ge=0, le=1 << 12, description="Global blocks at the start of a sequence."
    )
    global_tokens: Literal["internal", "extra"] = Field(
        "internal", description="Whether global blocks are a sequence's first ones, or learned."
    )
    random_blocks: int = Field(
        3, ge=0, le=1 << 12, description="Random blocks per head and query block."
    )
    pattern_seed: int = Field(0, ge=0, le=MOST_SEED, description="Key of the random blocks.")
    stem: Literal["none", "tower"] = Field("none", description="Base-resolution stem.")
    stem_width: int = Field(
        256, ge=4, le=1 << 16, description="Channels of the stem's convolutions."
    )
    stem_kernel: int = Field(
        17, ge=3, lt=1 << 12, description="Bases the first convolution sees; odd."
    )
    stem_pool: int = Field(4, ge=1, le=1 << 12, description="Bases of a cell of the tower.")
    stem_blocks: int = Field(4, ge=0, le=16, description="Residual blocks of the tower.")
    neighbours: int = Field(
        0, ge=0, le=8, description="Pieces on each side whose counted pairs the MLM head reads."
    )
    nsp: bool = Field(False, description="Next-sentence-prediction head on [CLS].")

    @model_validator(mode="after")
    def _consistent(self) -> BigBirdConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.position == "rope" and (self.width // self.heads) % 2:
            raise ValueError(f"rope wants an even head width, not {self.width // self.heads}")
        if self.stem_kernel % 2 == 0:
            raise ValueError(f"stem_kernel is {self.stem_kernel}; it must be odd")
        self.attention_pattern()  # refuses what it cannot draw
        return self

    @property
    def gelu(self) -> str:
        """How torch calls the activation."""
        return "tanh" if self.activation == "gelu_tanh" else "none"

    def attention_pattern(self) -> Pattern:
        """Return the rule of sparsity."""
        return Pattern(
            self.pattern,
            self.block_size,
            self.window_blocks,
            self.global_blocks,
            self.random_blocks,
            self.pattern_seed,
            self.global_tokens,
        )


PRESETS: dict[str, dict[str, object]] = {
    "base": {},
    "mini": {
        "vocab_size": 4096,
        "width": 256,
        "layers": 4,
        "heads": 4,
        "mlp_width": 1024,
        "position": "rope",
        "stem": "tower",
    },
    "tiny": {
        "vocab_size": 64,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "mlp_width": 64,
        "dropout": 0.0,
        "position": "rope",
        "stem": "tower",
        "stem_width": 8,
        "stem_kernel": 15,
        "stem_blocks": 2,
        "block_size": 16,
    },
}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of features by the token's position: x [T, H, D]; cos, sin [T, 1, D / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Multi-head attention over the blocks that the layout names."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self,
        x: Tensor,
        layout: BlockLayout,
        rope: tuple[Tensor, Tensor] | None,
        backend: str,
        rows: Tensor | None = None,
    ) -> Tensor:
        """[T, D] -> [T, D], or [M, D] at the tokens `rows`."""
        q, k, v = self._projected(x, rope, rows)
        out = block_sparse_attention(q, k, v, layout, backend=backend)
        out = out if rows is None else out[rows]
        return self.out(out.reshape(len(out), -1))  # type: ignore[no-any-return]

    def weights(self, x: Tensor, layout: BlockLayout, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """[T, D] -> how much each token takes of each, [H, T, T], by the plain reference."""
        q, k, _ = self._projected(x, rope)
        return reference_weights(q, k, layout, q.shape[-1] ** -0.5)

    def _projected(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[T, D] -> queries, keys and values, [T, H, D / H] each; without queries but at `rows`."""
        if rows is None:
            q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
        else:
            weight, bias, width = self.qkv.weight, self.qkv.bias, x.shape[1]
            both = F.linear(x, weight[width:], bias[width:])
            k, v = both.view(len(x), 2, self.heads, -1).unbind(1)
            asked = F.linear(x[rows], weight[:width], bias[:width])
            q = torch.zeros_like(k).index_copy(0, rows, asked.view(len(rows), *k.shape[1:]))
        if rope is not None:
            q, k = (rotate(part, *rope).to(v.dtype) for part in (q, k))
        return q, k, v


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, each with a residual."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(config.gelu),
            nn.Linear(config.mlp_width, config.width),
        )
        self.mlp_norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        layout: BlockLayout,
        rope: tuple[Tensor, Tensor] | None,
        backend: str,
        rows: Tensor | None = None,
    ) -> Tensor:
        """[T, D] -> [T, D], or [M, D] at the tokens `rows`."""
        before = x if rows is None else x[rows]
        if self.pre:
            seen = self.attention(self.attention_norm(x), layout, rope, backend, rows)
            x = before + self.dropout(seen)
            return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]
        seen = self.attention(x, layout, rope, backend, rows)
        x = self.attention_norm(before + self.dropout(seen))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class BigBird(nn.Module):
    """The encoder: packed token ids to hidden states.

    Initialisation (as the released BigBird code): weights normal(0, 0.02), biases 0, layer norms 1
    and 0; the second linear of each sublayer is divided by sqrt(2 layers). The stem keeps torch's
    own.

    Args:
        config: the shape.
        bases: uint8 [V, P], the bases of each piece (`Tokenizer.bases`); a stem needs them.

    Attributes:
        activation_checkpointing: keep the input of each layer alone for the backward pass, which
            computes the rest again: less memory, more time, the same gradients to the bit.
    """

    def __init__(self, config: BigBirdConfig, bases: np.ndarray | None = None) -> None:
        super().__init__()
        self.config = config
        self.pattern = config.attention_pattern()
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position = (
            nn.Embedding(config.max_tokens, config.width) if config.position == "absolute" else None
        )
        extra = self.pattern.extra_blocks * config.block_size
        self.global_tokens = nn.Embedding(extra, config.width) if extra else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()
        self.stem: Tower | None = None
        if config.stem != "none":
            if bases is None or len(bases) != config.vocab_size:
                found = "none" if bases is None else f"a table of {len(bases)} pieces"
                raise ValueError(
                    f"stem {config.stem!r} wants the bases of {config.vocab_size} pieces, "
                    f"got {found}; pass the tokenizer's `bases`"
                )
            self.stem = _tower(config, bases)

    def deepen(self, layers: int) -> None:
        """Append layers that change nothing until they are trained: what they add is zero.

        Raises:
            ValueError: norms stand behind the sublayers; such layers always change something.
        """
        if self.config.norm != "pre":
            raise ValueError("only an encoder with norm = 'pre' can be deepened")
        self.config = self.config.model_copy(update={"layers": self.config.layers + layers})
        for _ in range(layers):
            block = Block(self.config)
            _draw_weights(block)
            for linear in (block.attention.out, block.mlp[2]):
                nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
            self.blocks.append(block)

    def _initialise(self) -> None:
        _draw_weights(self)
        for block in self.blocks:
            for linear in (block.attention.out, block.mlp[2]):  # type: ignore[union-attr, index]
                linear.weight.data /= (2 * self.config.layers) ** 0.5  # type: ignore[union-attr]

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of each position and frequency, [T, 1, D / H / 2]."""
        half = self.config.width // self.config.heads // 2
        inverse = 10_000.0 ** (-torch.arange(half, device=positions.device) / half)
        angle = positions[:, None, None] * inverse
        return angle.cos(), angle.sin()

    def _with_global_tokens(
        self, x: Tensor, positions: Tensor, layout: BlockLayout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put the learned tokens before each sequence; also return where x has gone, [T].

        They have no learned position, and under rope all stand at position 0: what tells them apart
        is their embedding.
        """
        assert self.global_tokens is not None
        extra = layout.extra_tokens().to(x.device)
        own = layout.own_tokens().to(x.device)
        order = torch.cat([extra.flatten(), own]).argsort()
        x = torch.cat([self.global_tokens.weight.repeat(len(extra), 1), x])[order]
        return x, torch.cat([extra.flatten() * 0, positions])[order], own

    def forward(
        self, batch: PackedBatch, backend: str = "auto", wanted: Tensor | None = None
    ) -> Tensor:
        """Encode.

        Args:
            batch: S sequences of T tokens in all.
            backend: of the attention, see `block_sparse_attention`.
            wanted: int64 [M], the tokens whose states are read; the last layer is computed for
                their blocks alone. None is all tokens.

        Returns:
            Hidden states [T, D]; those of padding tokens, and of tokens not wanted, mean nothing.

        Raises:
            InputError: a sequence longer than `max_tokens` under absolute positions.
        """
        x = self.embedding(batch.ids)
        if self.stem is not None:
            x = x + self.stem(batch)
        positions = batch.positions
        if self.position is not None:
            if max(batch.lengths) > self.config.max_tokens:
                raise InputError(
                    f"a sequence of {max(batch.lengths)} tokens is longer than max_tokens "
                    f"{self.config.max_tokens}; cut it, or use position = 'rope'"
                )
            x = x + self.position(positions % self.config.max_tokens)
        layouts = [
            BlockLayout.pack(self.pattern, batch.lengths, layer=layer, heads=self.config.heads)
            for layer in range(self.config.layers)
        ]
        own = None
        if self.global_tokens is not None and layouts:
            x, positions, own = self._with_global_tokens(x, positions, layouts[0])
        rope = self._rope(positions) if self.position is None else None
        x = self.dropout(x)
        x = self.norm(x) if self.config.norm == "bert" else x
        rows = None
        if wanted is not None and layouts:
            layouts[-1], rows = layouts[-1].only(wanted if own is None else own[wanted])
        for block, layout in zip(self.blocks, layouts, strict=True):
            asked = rows if layout is layouts[-1] else None
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, layout, rope, backend, asked, use_reentrant=False)
            else:
                x = block(x, layout, rope, backend, asked)
        if rows is not None:
            tokens = layouts[-1].n_blocks * self.config.block_size
            x = x.new_zeros((tokens, x.shape[1])).index_copy(0, rows, x)
        x = x if own is None else x[own]
        hidden: Tensor = x if self.config.norm == "bert" else self.norm(x)
        return hidden


def _tower(config: BigBirdConfig, bases: np.ndarray) -> Tower:
    return Tower(
        bases,
        width=config.stem_width,
        kernel=config.stem_kernel,
        pool=config.stem_pool,
        blocks=config.stem_blocks,
        out=config.width,
    )


def _draw_weights(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class MaskedLMHead(nn.Module):
    """Logits of the pieces at chosen tokens; the decoder is the embedding, transposed.

    With `config.neighbours`, what counting says of the pieces around a token is added.
    """

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__()
        self.gelu = config.gelu
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.neighbours = (
            PairLogOdds(config.vocab_size, config.neighbours) if config.neighbours else None
        )

    @property
    def reach(self) -> int:
        """Pieces on each side of a token that are read, R."""
        return self.neighbours.reach if self.neighbours is not None else 0

    def forward(self, hidden: Tensor, embedding: Tensor, around: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            hidden: states of M tokens, [M, D].
            embedding: of the pieces, [V, D].
            around: pieces before and after each token, int64 [M, R, 2] (`PackedBatch.around`); a
                head that knows no neighbours needs none.

        Returns:
            Logits [M, V].
        """
        hidden = F.gelu(self.dense(hidden), approximate=self.gelu)
        logits = F.linear(self.norm(hidden), embedding, self.bias)
        if self.neighbours is None:
            return logits
        if around is None:
            raise ValueError("this head reads neighbours; pass `batch.around(targets, reach)`")
        return logits + self.neighbours(around)  # type: ignore[no-any-return]
