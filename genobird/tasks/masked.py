"""What masked language models predict for held-out tokens, beside n-gram models on the same tokens.

The windows and the masks depend on shards, settings and seed alone. Models with one tokenizer are
therefore asked for the same tokens, also those that see a part of a window at a time (`context`),
and their answers can be compared token by token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genobird.batch import PackedBatch, add_specials, pack
from genobird.bits_per_base import BaseBits, TokenSpans, token_spans
from genobird.checkpoint import Checkpoint
from genobird.datasets import read_arrays, write_arrays
from genobird.draws import generator, visiting_order
from genobird.errors import InputError, UsageError
from genobird.genome.interval import read_bed
from genobird.inference import Inference
from genobird.peaks import Cover
from genobird.shards import Shards
from genobird.tasks.data import PretrainBatches, PretrainDataSettings, mask_tokens
from genobird.tokenizer import Tokenizer

Sums = NDArray[np.float64]

EVERY, NO_N, REPEATS, UNIQUE = "all", "no_n", "repeats", "unique"
"""Parts of the masked tokens."""
LEAST_CONTEXT = 3
"""Tokens that a model sees at the least: [CLS], [SEP] and one between them."""
_FIELDS = ("groups", "bits", "bases", "tokens", "hits", "pieces", "lengths")


@dataclass(frozen=True, eq=False)
class MaskedTokens:
    """Answers for the tokens that were asked for, summed by sequence and by part of the tokens.

    Attributes:
        parts: names of K parts of the tokens: `all`, `no_n` (without N), and where repeats are
            known `repeats` and `unique` (in no repeat).
        groups: stretch of the genome of each sequence, str [S].
        bits: sum of -log2 p(true token), float64 [S, K].
        bases: bases in these tokens, int64 [S, K].
        tokens: their number, int64 [S, K].
        hits: tokens whose most probable piece is the true one, int64 [S].
        pieces: how often each piece was asked for, int64 [V].
        lengths: bases of each piece, int64 [V].
        tracks: bits of the same tokens under other models, by name, float64 [S, K].
    """

    parts: tuple[str, ...]
    groups: NDArray[np.str_]
    bits: Sums
    bases: NDArray[np.int64]
    tokens: NDArray[np.int64]
    hits: NDArray[np.int64]
    pieces: NDArray[np.int64]
    lengths: NDArray[np.int64]
    tracks: Mapping[str, Sums] = field(default_factory=dict)

    def frequency_bits_per_base(self) -> float:
        """Bits per base of the masked pieces' own frequencies: the best without any context."""
        seen = self.pieces[self.pieces > 0]
        bits = -(seen * np.log2(seen / seen.sum())).sum()
        return float(bits / (self.pieces @ self.lengths))

    def same_tokens(self, other: MaskedTokens) -> bool:
        """Say whether both were asked for the same tokens."""
        mine, others = ((x.groups, x.bases, x.tokens, x.pieces, x.lengths) for x in (self, other))
        return self.parts == other.parts and all(
            np.array_equal(a, b) for a, b in zip(mine, others, strict=True)
        )

    def save(self, path: Path) -> None:
        """Write a `.npz` file, without `tracks`."""
        values = {name: getattr(self, name) for name in _FIELDS}
        write_arrays(path, parts=np.array(self.parts), **values)

    @classmethod
    def load(cls, path: Path) -> MaskedTokens:
        """Read a `.npz` file.

        Raises:
            InputError: it cannot be read as one.
        """
        wanted = ("parts", *_FIELDS)
        found = read_arrays(path, wanted, "holds no masked tokens; evaluate its model again")
        parts = tuple(str(name) for name in found["parts"])
        return cls(parts, *(found[name] for name in _FIELDS))


class Repeats:
    """Intervals of repeats, of one or more BED files."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._cover = Cover(interval for file in files for interval in read_bed(file))

    def hold(self, spans: TokenSpans) -> NDArray[np.bool_]:
        """Say which tokens have their middle base in a repeat, [T].

        Raises:
            InputError: nothing is known of the contig.
        """
        known = self._cover.unions
        if spans.contig not in known:
            raise InputError(
                f"no repeats on {spans.contig} in the BED files, which have "
                f"{', '.join(known) or 'none'}; give those of the measured contigs"
            )
        middle = (spans.starts + spans.ends - 1) // 2
        return self._cover.touches(spans.contig, middle, middle + 1)


@torch.inference_mode()
def predict_masked(
    inference: Inference,
    shards: Shards,
    settings: PretrainDataSettings,
    batches: int,
    *,
    context: int = 0,
    repeats: Repeats | None = None,
    tracks: Mapping[str, BaseBits] | None = None,
    seed: int = 0,
    group_bp: int = 250_000,
) -> MaskedTokens:
    """Ask for masked tokens in windows drawn from shards without replacement.

    All of them are hidden, unlike in training (`mask_tokens`).

    Args:
        inference: runs a model with a masked-language-model head.
        shards: made with the model's tokenizer.
        settings: length and number of sequences, mask rate.
        batches: at most so many batches are read.
        context: most tokens that the model sees at once, specials included; longer windows are cut
            after they are masked. 0 shows them whole, else at least `LEAST_CONTEXT`.
        repeats: tells tokens in repeats from others.
        tracks: bits of every base of the shards under other models, by name.
        seed: key of the windows and masks.
        group_bp: width of the stretches in `groups`.

    Raises:
        UsageError: the model has no masked-language-model head, or a context is too short.
        ShardError: the shards were made with another tokenizer.
        InputError: repeats or other models do not cover the shards.
    """
    checkpoint = inference.checkpoint
    _refuse(checkpoint, shards, context)
    data = PretrainBatches(
        shards,
        settings,
        vocab_size=checkpoint.tokenizer.vocab_size,
        block_size=checkpoint.encoder.config.block_size,
        seed=seed,
    )
    order = visiting_order(len(data.windows), seed, 0)[: batches * settings.sequences]
    tally = _Tally(checkpoint.tokenizer, repeats, tracks or {})
    for step, first in enumerate(range(0, len(order), settings.sequences)):
        chosen = order[first : first + settings.sequences]
        windows = [data.window(int(i)) for i in chosen]
        batch = pack([add_specials(ids) for ids in windows], data.block_size)
        masked, targets, labels = mask_tokens(
            batch.ids, settings.mask_rate, data.vocab_size, generator(seed, 1, step), hide_all=True
        )
        owner, inside = batch.sequence[targets].numpy(), batch.positions[targets].numpy() - 1
        batch = batch.with_ids(masked)
        if context:
            batch, targets = _cut(batch, targets, context)
        logits = inference.masked_logits(batch, targets).cpu()
        asked = _asked(shards, data, chosen, owner, inside, tally.lengths)
        tally.add(asked, owner, labels, logits)
    places = (shards.positions(int(data.windows[i, 0])) for i in order)
    return tally.complete([f"{contig}:{start // group_bp}" for contig, start in places])


def _refuse(checkpoint: Checkpoint, shards: Shards, context: int) -> None:
    """Refuse a model that cannot be asked, or shards of another tokenizer."""
    if checkpoint.mlm is None:
        raise UsageError("the model has no masked-language-model head; leave out the shards")
    if context and context < LEAST_CONTEXT:
        raise UsageError(
            f"a masked context of {context} tokens holds none beside [CLS] and [SEP]; give at "
            f"least {LEAST_CONTEXT}, or 0 to show windows whole"
        )
    shards.require(checkpoint.tokenizer)


class _Tally:
    """Sums up answers, by sequence and by part of the tokens."""

    def __init__(
        self, tokenizer: Tokenizer, repeats: Repeats | None, tracks: Mapping[str, BaseBits]
    ) -> None:
        self.lengths = tokenizer.lengths.astype(np.int64)
        self._has_n = (tokenizer.bases == 4).any(axis=1)
        self._repeats, self._tracks = repeats, tracks
        self._parts = (EVERY, NO_N) if repeats is None else (EVERY, NO_N, REPEATS, UNIQUE)
        self._pieces = np.zeros(len(self.lengths), dtype=np.int64)
        self._sums: list[Sums] = []

    def add(
        self, asked: Sequence[TokenSpans], owner: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """Add the answers of a batch of W windows.

        Of the T tokens that were asked for, `owner` are the windows and `labels` the true pieces,
        [T]; logits are [T, V].
        """
        true = labels.numpy()
        members = [np.ones(len(true), dtype=bool), ~self._has_n[true]]
        if self._repeats is not None:
            in_repeat = np.concatenate([self._repeats.hold(spans) for spans in asked])
            members += [in_repeat, ~in_repeat]
        bits = F.cross_entropy(logits, labels, reduction="none").double().numpy() / math.log(2)
        hits = (logits.argmax(-1) == labels).numpy()
        others = [
            np.concatenate([track.of(spans) for spans in asked]) for track in self._tracks.values()
        ]
        figures = [bits, self.lengths[true], np.ones(len(true)), hits, *others]
        sums = [
            np.bincount(owner, weights=figure * mask, minlength=len(asked))
            for figure in figures
            for mask in members
        ]
        shape = (len(asked), len(figures), len(members))
        self._sums.append(np.stack(sums, axis=1).reshape(shape).astype(np.float64))
        self._pieces += np.bincount(true, minlength=len(self._pieces))

    def complete(self, groups: Sequence[str]) -> MaskedTokens:
        """Return the sums; `groups` has the stretch of each window that was added."""
        found: Sums = np.concatenate(self._sums)
        return MaskedTokens(
            parts=self._parts,
            groups=np.array(groups),
            bits=found[:, 0],
            bases=found[:, 1].astype(np.int64),
            tokens=found[:, 2].astype(np.int64),
            hits=found[:, 3, 0].astype(np.int64),
            pieces=self._pieces,
            lengths=self.lengths,
            tracks={name: found[:, 4 + place] for place, name in enumerate(self._tracks)},
        )


def _cut(batch: PackedBatch, targets: Tensor, context: int) -> tuple[PackedBatch, Tensor]:
    """Cut sequences into pieces of at most `context` tokens; find the targets in these.

    Returns:
        The batch of pieces, each with its own [CLS] and [SEP], and the targets' tokens in it.
    """
    room = context - 2
    ids = batch.ids.numpy()
    pieces, sources = [], []
    for start, length in zip(batch.starts.tolist(), batch.lengths, strict=True):
        first, last = start + 1, start + length - 1  # between [CLS] and [SEP]
        for begin in range(first, last, room):
            end = min(begin + room, last)
            pieces.append(add_specials(ids[begin:end].astype(np.uint16)))
            sources.append(np.arange(begin, end))
    shorter = pack(pieces, batch.block_size)
    moved = np.full(len(ids), -1)
    for start, source in zip(shorter.starts.tolist(), sources, strict=True):
        moved[source] = start + 1 + np.arange(len(source))
    return shorter, torch.from_numpy(moved[targets.numpy()])


def _asked(
    shards: Shards,
    data: PretrainBatches,
    chosen: NDArray[np.int64],
    owner: NDArray[np.int64],
    inside: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> list[TokenSpans]:
    """Find the bases of the tokens that are asked for, a `TokenSpans` for each chosen window."""
    found = []
    for slot, window in enumerate(chosen):
        document, offset = (int(x) for x in data.windows[window])
        spans = token_spans(shards, document, lengths)
        tokens = offset + inside[owner == slot]
        found.append(TokenSpans(spans.contig, spans.starts[tokens], spans.ends[tokens]))
    return found
