"""Masked-language-model score of a variant: how likely each allele is, given what is around it.

A variant moves token boundaries, so the two alleles are segmented differently near it. Masked are
the tokens from the nearest boundary before the variant that both segmentations have to the nearest
behind it: at least every token that touches the variant, and the same bases of the genome in both.
The score of an allele is the sum of log p (natural) of its masked tokens, strands averaged.

How a sequence falls into tokens is one of many ways, and the score depends on it. So it is averaged
over several: the tokenizer's own, and others in which a token is made to begin some bases before
the variant and some behind it. These distances are drawn once, from a seed, and are the same for
all variants; the rest of the sequence is the tokenizer's own work. (SentencePiece's sampling is no
way here: it would cut the two alleles differently everywhere, not at the variant alone.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import PackedBatch, add_specials, pack
from genobird.errors import UsageError
from genobird.genome.sequence import reverse_complement
from genobird.inference import Floats
from genobird.scoring.scorer import Scorer
from genobird.scoring.windows import Queries
from genobird.tokenizer import MASK, Encoding, Tokenizer

Doubles = NDArray[np.float64]
Cut = tuple[int, int]
"""Bases between a forced boundary and the allele, before and behind it."""


@dataclass(frozen=True, slots=True)
class AllelePair:
    """Two sequences that differ in one allele; its span is 0-based half-open in each."""

    ref: str
    alt: str
    ref_span: tuple[int, int]
    alt_span: tuple[int, int]

    def reversed(self) -> AllelePair:
        """Return the other strand."""
        spans = [
            (len(text) - end, len(text) - start)
            for text, (start, end) in ((self.ref, self.ref_span), (self.alt, self.alt_span))
        ]
        return AllelePair(reverse_complement(self.ref), reverse_complement(self.alt), *spans)

    def swapped(self) -> AllelePair:
        """Return the pair with REF and ALT exchanged."""
        return AllelePair(self.alt, self.ref, self.alt_span, self.ref_span)


def log_likelihoods(
    scorer: Scorer, pairs: Sequence[AllelePair], segmentations: int = 1, seed: int = 0
) -> tuple[Floats, Floats]:
    """Score alleles.

    Args:
        scorer: the model.
        pairs: P pairs of alleles.
        segmentations: ways to cut the sequences into tokens that are averaged, K.
        seed: key of the draw of all but the first.

    Returns:
        Log-likelihood of each allele in nats, REF then ALT, [P, 2]; and the standard error of
        their difference, from how it differs between segmentations, [P], NaN for K = 1.

    Raises:
        UsageError: the model has no masked-language-model head.
    """
    if scorer.checkpoint.mlm is None:
        raise UsageError("the model has no masked-language-model head; choose another model")
    if not pairs:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    tokenizer = scorer.checkpoint.tokenizer
    cuts = [None, *draw_cuts(int(tokenizer.lengths.max()), segmentations - 1, seed)]
    # In one order whichever of the two is REF: exchanged alleles give the same passes and bits.
    is_swapped = np.array([pair.alt < pair.ref for pair in pairs])
    ordered = [pair.swapped() if pair.alt < pair.ref else pair for pair in pairs]
    # Alleles share REF, and cuts often coincide; where REF and ALT differ in masked tokens alone
    # they are one input with two answers.
    queries = Queries(partial(_log_p, scorer))
    rows = [
        queries.add(*_masked(encoding, run))
        for pair in ordered
        for strand in (pair, pair.reversed())
        for cut in cuts
        for encoding, run in _segmented(tokenizer, strand, cut)
    ]
    sums = queries.answers()[rows].astype(np.float64)
    by_cut = sums.reshape(len(pairs), 2, segmentations, 2)  # [P, strand, K, allele]
    means: Floats = by_cut.mean(axis=(1, 2)).astype(np.float32)
    means[is_swapped] = means[is_swapped, ::-1]
    return means, _standard_errors(by_cut[..., 1] - by_cut[..., 0])


def draw_cuts(longest: int, count: int, seed: int) -> list[Cut]:
    """Draw forced boundaries, up to the bases of the longest piece away; distances repeat as late
    as possible.
    """
    random = np.random.Generator(np.random.Philox(seed))
    rounds = range(-(-count // longest))
    sides = [
        np.concatenate([np.zeros(0, np.int64), *(random.permutation(longest) for _ in rounds)])
        for _ in range(2)
    ]
    return [(int(before), int(behind)) for before, behind in zip(*sides, strict=True)][:count]


def masked_runs(
    ref: Encoding, alt: Encoding, ref_span: tuple[int, int], alt_span: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the tokens to mask, half-open, for an allele at a span of bases in REF and in ALT."""
    ref_edges, alt_edges = _edges(ref), _edges(alt)
    before = np.intersect1d(ref_edges - ref_span[0], alt_edges - alt_span[0])
    behind = np.intersect1d(ref_edges - ref_span[1], alt_edges - alt_span[1])
    before, behind = before[before <= 0], behind[behind >= 0]

    def run(edges: NDArray[np.int64], span: tuple[int, int]) -> tuple[int, int]:
        # Without a common boundary, as may happen at the end of a contig, everything is masked.
        low = np.searchsorted(edges, before[-1] + span[0]) if len(before) else 0
        high = np.searchsorted(edges, behind[0] + span[1]) if len(behind) else len(edges) - 1
        return int(low), int(high)

    return run(ref_edges, ref_span), run(alt_edges, alt_span)


class _Input(NamedTuple):
    """A sequence with a run of masked tokens."""

    ids: bytes
    """Of uint16, with specials."""
    first: int
    stop: int
    """The masked tokens, half-open."""
    bases: int


def _masked(encoding: Encoding, run: tuple[int, int]) -> tuple[_Input, bytes]:
    """Return a sequence whose run of tokens is masked, and the ids that were there."""
    ids = add_specials(encoding.ids)
    first, stop = run[0] + 1, run[1] + 1  # after [CLS]
    there = ids[first:stop].tobytes()
    ids[first:stop] = MASK
    return _Input(ids.tobytes(), first, stop, int(encoding.spans[-1, 1])), there


def _log_p(scorer: Scorer, inputs: list[_Input], asked: list[list[bytes]]) -> Floats:
    """Return the sum of log p of the tokens of each run of ids that is asked for."""
    inference, block_size = scorer.inference, scorer.checkpoint.encoder.config.block_size

    def prepare(part: slice) -> _Questions:
        return _Questions.of(inputs[part], asked[part], block_size)

    def compute(questions: _Questions) -> Tensor:
        logits = inference.masked_logits(questions.batch, questions.places)
        log_p = logits.log_softmax(-1).cpu()[questions.rows, questions.ids]
        return torch.stack([run.sum() for run in torch.split(log_p.double(), questions.lengths)])

    return inference.passes.run([one.bases for one in inputs], prepare, compute)


@dataclass(frozen=True, slots=True)
class _Questions:
    """Some inputs, packed; Q runs of tokens that are asked for there, R tokens in all."""

    batch: PackedBatch
    places: Tensor
    """Masked tokens in the batch, int64 [M]."""
    rows: Tensor
    """Of each token that is asked for, its place among the masked ones, int64 [R]."""
    ids: Tensor
    """The tokens themselves, int64 [R]."""
    lengths: list[int]
    """Tokens of each run, [Q]."""

    @classmethod
    def of(
        cls, inputs: Sequence[_Input], asked: Sequence[Sequence[bytes]], block_size: int
    ) -> _Questions:
        batch = pack([np.frombuffer(one.ids, np.uint16) for one in inputs], block_size)
        places = [
            torch.arange(start + one.first, start + one.stop)
            for start, one in zip(batch.starts.tolist(), inputs, strict=True)
        ]
        ends = np.cumsum([len(run) for run in places]).tolist()
        rows = [
            torch.arange(end - len(run), end)
            for end, run, runs in zip(ends, places, asked, strict=True)
            for _ in runs
        ]
        ids = np.frombuffer(b"".join([ids for runs in asked for ids in runs]), np.uint16)
        return cls(
            batch,
            torch.cat(places),
            torch.cat(rows),
            torch.from_numpy(ids.astype(np.int64)),
            [len(run) for run in rows],
        )


def _segmented(
    tokenizer: Tokenizer, pair: AllelePair, cut: Cut | None
) -> list[tuple[Encoding, tuple[int, int]]]:
    """Return the tokens of REF and of ALT, and which of them are masked."""
    alleles = ((pair.ref, pair.ref_span), (pair.alt, pair.alt_span))
    ref, alt = (_encode(tokenizer, text, span, cut) for text, span in alleles)
    runs = masked_runs(ref, alt, pair.ref_span, pair.alt_span)
    return list(zip((ref, alt), runs, strict=True))


def _encode(tokenizer: Tokenizer, text: str, span: tuple[int, int], cut: Cut | None) -> Encoding:
    if cut is None:
        return tokenizer.encode(text)
    edges = [0, max(0, span[0] - cut[0]), min(len(text), span[1] + cut[1]), len(text)]
    ids, _ = tokenizer.encode_flat([text[first:end] for first, end in pairwise(edges)])
    ends = np.cumsum(tokenizer.lengths[ids], dtype=np.int32)
    return Encoding(ids, np.stack([ends - tokenizer.lengths[ids], ends], axis=1))


def _standard_errors(ratios: Doubles) -> Floats:
    """Return the standard error of the mean of [P, strand, K] over strands and segmentations.

    NaN where nothing varies: near the end of a contig all segmentations may be the same.
    """
    count = ratios.shape[2]
    if count == 1:
        return np.full(len(ratios), np.nan, np.float32)
    variances = ratios.var(axis=2, ddof=1) / count  # of each strand's mean
    errors: Floats = (np.sqrt(variances.sum(axis=1)) / 2).astype(np.float32)
    return np.where(errors == 0, np.float32(np.nan), errors)


def _edges(encoding: Encoding) -> NDArray[np.int64]:
    """Return the boundaries of T tokens, [T + 1]."""
    return np.concatenate([[0], encoding.spans[:, 1]]).astype(np.int64)
