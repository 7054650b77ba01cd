"""What a model says of variants: REF and ALT of each output.

Windows are centred on the variant, as long for ALT as for REF. Outputs:

    promoter   logit with the variant taken as transcription start, on the strand on which either
               allele has the larger logit, the same for both: REF and ALT swapped, only the sign
               of the delta changes
    llr        log-likelihood of each allele under the masked language model, in nats
    features   chromatin logits of the 200 bp around the variant, both strands averaged
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, windows
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import (
    CHROMATIN_FLANK,
    PROMOTER_AFTER,
    PROMOTER_BEFORE,
    Floats,
    Scorer,
)

PROMOTER, LLR = "promoter", "llr"
LLR_FLANK = 2_000
"""Bases on each side of the variant that the masked language model sees; a longer allele has no
`llr`."""


def effects(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, chosen: Sequence[int]
) -> tuple[list[str], Floats]:
    """Return names and values [n, outputs, 2] (REF, ALT) of all outputs of the model.

    Args:
        scorer: the model.
        variants: trimmed and left-aligned; REF is the genome's.
        genome: their genome.
        chosen: places of the chromatin features that are wanted.
    """
    names: list[str] = []
    blocks: list[Floats] = []
    if scorer.checkpoint.promoter is not None:
        names.append(PROMOTER)
        blocks.append(_promoter(scorer, variants, genome)[:, None])
    if scorer.checkpoint.mlm is not None:
        names.append(LLR)
        blocks.append(_likelihoods(scorer, variants, genome)[:, None])
    if chosen:
        names += [scorer.features[place] for place in chosen]
        blocks.append(_chromatin(scorer, variants, genome)[:, chosen])
    if not blocks:
        return names, np.zeros((len(variants), 0, 2), np.float32)
    return names, np.concatenate(blocks, axis=1)


class _Queries:
    """Windows to predict, each once: ALTs of one site share REF, and duplicates share both."""

    def __init__(self) -> None:
        self._index: dict[tuple[str, int], int] = {}

    def add(self, sequence: str, place: int) -> int:
        return self._index.setdefault((sequence, place), len(self._index))

    def ask(self, predict: Callable[[list[str], list[int]], Floats]) -> Floats:
        return predict([text for text, _ in self._index], [place for _, place in self._index])


def _chromatin(scorer: Scorer, variants: Sequence[Variant], genome: Genome) -> Floats:
    """Return logits [n, F, 2]."""
    queries = _Queries()
    asked: list[tuple[int, int]] = []
    for variant in variants:
        window = windows(variant, genome, CHROMATIN_FLANK, CHROMATIN_FLANK)
        ref = queries.add(window.ref, window.ref_anchor)
        asked.append((ref, queries.add(window.alt, window.alt_anchor)))
    logits = queries.ask(scorer.chromatin_logits)
    return logits[_pairs(asked)].transpose(0, 2, 1)  # [n, 2, F] -> [n, F, 2]


def _promoter(scorer: Scorer, variants: Sequence[Variant], genome: Genome) -> Floats:
    """Return logits [n, 2] on the strand where the larger of both is largest."""
    queries = _Queries()
    asked: list[tuple[int, int]] = []
    for variant in variants:
        plus = windows(variant, genome, PROMOTER_BEFORE, PROMOTER_AFTER)
        ref = queries.add(plus.ref, plus.ref_anchor)
        asked.append((ref, queries.add(plus.alt, plus.alt_anchor)))
        minus = windows(variant, genome, PROMOTER_AFTER - 1, PROMOTER_BEFORE + 1)
        ref = queries.add(*_turned(minus.ref, minus.ref_anchor))
        asked.append((ref, queries.add(*_turned(minus.alt, minus.alt_anchor))))
    logits = queries.ask(scorer.promoter_logits)[_pairs(asked)]
    by_strand = logits.reshape(len(variants), 2, 2)  # [n, strand, allele]
    strand = by_strand.max(axis=2).argmax(axis=1)
    best: Floats = by_strand[np.arange(len(variants)), strand]
    return best


def _likelihoods(scorer: Scorer, variants: Sequence[Variant], genome: Genome) -> Floats:
    """Return log-likelihoods [n, 2], NaN for long alleles."""
    index: dict[AllelePair, int] = {}
    rows: list[int] = []
    asked: list[int] = []
    for row, variant in enumerate(variants):
        if max(len(variant.ref), len(variant.alt)) > LLR_FLANK:
            continue
        window = windows(variant, genome, LLR_FLANK, LLR_FLANK)
        pair = AllelePair(
            window.ref,
            window.alt,
            (window.ref_anchor, window.ref_anchor + len(variant.ref)),
            (window.alt_anchor, window.alt_anchor + len(variant.alt)),
        )
        rows.append(row)
        asked.append(index.setdefault(pair, len(index)))
    values = np.full((len(variants), 2), np.nan, np.float32)
    values[rows] = log_likelihoods(scorer, list(index))[asked]
    return values


def _pairs(asked: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(asked, dtype=np.int64).reshape(len(asked), 2)


def _turned(sequence: str, place: int) -> tuple[str, int]:
    return reverse_complement(sequence), len(sequence) - 1 - place
