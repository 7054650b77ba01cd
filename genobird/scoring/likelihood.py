"""Masked-language-model score of a variant: how likely each allele is, given what is around it.

A variant moves token boundaries, so the two alleles are segmented differently near it. Masked are
the tokens from the nearest boundary before the variant that both segmentations have to the nearest
behind it: at least every token that touches the variant, and the same bases of the genome in both.
The score of an allele is the sum of log p (natural) of its masked tokens, strands averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import add_specials, pack
from genobird.errors import UsageError
from genobird.genome.sequence import reverse_complement
from genobird.scoring.scorer import Floats, Scorer
from genobird.tokenizer import MASK, Encoding


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


def log_likelihoods(scorer: Scorer, pairs: Sequence[AllelePair]) -> Floats:
    """Return the log-likelihood of each allele in nats, REF then ALT, [P, 2].

    Raises:
        UsageError: the model has no masked-language-model head.
    """
    mlm, encoder = scorer.checkpoint.mlm, scorer.checkpoint.encoder
    if mlm is None:
        raise UsageError("the model has no masked-language-model head; choose another model")
    if not pairs:
        return np.zeros((0, 2), np.float32)
    stranded = [turned for pair in pairs for turned in (pair, pair.reversed())]
    texts = [text for pair in stranded for text in (pair.ref, pair.alt)]
    encodings = scorer.checkpoint.tokenizer.encode_many(texts)
    runs = [
        run
        for pair, ref, alt in zip(stranded, encodings[::2], encodings[1::2], strict=True)
        for run in masked_runs(ref, alt, pair.ref_span, pair.alt_span)
    ]

    def work(part: slice) -> Tensor:
        ids = [add_specials(encoding.ids) for encoding in encodings[part]]
        batch = pack(ids, encoder.config.block_size).to(scorer.device)
        first = batch.starts.tolist()
        places = torch.cat(
            [  # after [CLS]
                torch.arange(start + 1 + low, start + 1 + high)
                for start, (low, high) in zip(first, runs[part], strict=True)
            ]
        ).to(scorer.device)
        hidden = encoder(batch.with_ids(batch.ids.index_fill(0, places, MASK)))
        logits: Tensor = mlm(hidden[places], encoder.embedding.weight)  # [masked, V]
        true = batch.ids[places]
        log_p = logits.log_softmax(-1).gather(1, true[:, None])[:, 0]
        sums = log_p.new_zeros(len(ids))
        return sums.index_add(0, batch.sequence[places], log_p)

    sums = scorer.in_passes([len(text) for text in texts], work)  # ref, alt of each strand
    averaged: Floats = sums.reshape(len(pairs), 2, 2).mean(axis=1)
    return averaged


def masked_runs(
    ref: Encoding, alt: Encoding, ref_span: tuple[int, int], alt_span: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the tokens to mask in REF and in ALT, half-open.

    Args:
        ref: tokens of the REF sequence.
        alt: tokens of the ALT sequence.
        ref_span: bases of the allele in the REF sequence.
        alt_span: bases of the allele in the ALT sequence.
    """
    ref_edges, alt_edges = _edges(ref), _edges(alt)
    before = np.intersect1d(
        _at_most(ref_edges - ref_span[0], 0), _at_most(alt_edges - alt_span[0], 0)
    )
    behind = np.intersect1d(
        _at_least(ref_edges - ref_span[1], 0), _at_least(alt_edges - alt_span[1], 0)
    )

    def run(edges: NDArray[np.int64], span: tuple[int, int]) -> tuple[int, int]:
        # Without a common boundary, as may happen at the end of a contig, everything is masked.
        low = np.searchsorted(edges, before[-1] + span[0]) if len(before) else 0
        high = np.searchsorted(edges, behind[0] + span[1]) if len(behind) else len(edges) - 1
        return int(low), int(high)

    return run(ref_edges, ref_span), run(alt_edges, alt_span)


def _edges(encoding: Encoding) -> NDArray[np.int64]:
    """Return the boundaries of T tokens, [T + 1]."""
    return np.concatenate([[0], encoding.spans[:, 1]]).astype(np.int64)


def _at_most(values: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    return values[values <= limit]


def _at_least(values: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    return values[values >= limit]
