"""What a model says of variants: REF and ALT of each output.

Windows are as long for ALT as for REF, and centred on the variant or, with `EffectSettings.grid`
and `shifts`, near it. Outputs:

    promoter   logit with the variant taken as transcription start, on the strand on which either
               allele has the larger logit, the same for both: REF and ALT swapped, only the sign
               of the delta changes
    llr        log-likelihood of each allele under the masked language model, in nats
    features   chromatin logits of the 200 bp around the variant, both strands averaged
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genobird.errors import UsageError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, windows
from genobird.heads import POSITIVE_WEIGHT
from genobird.inference import Floats
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import (
    CHROMATIN_FLANK,
    PROMOTER_AFTER,
    PROMOTER_BEFORE,
    Scorer,
)
from genobird.scoring.settings import EffectSettings

PROMOTER, LLR = "promoter", "llr"
LLR_SE, DISTANCE = "llr|se", "embedding|distance"
LLR_FLANK = 2_000
"""Bases on each side of the variant that the masked language model sees; a longer allele has no
`llr`."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Outputs of n variants.

    Attributes:
        names: of the O outputs.
        weights: weight of a positive in the training of each; None where the output is no logit of
            a probability.
        values: REF and ALT of each output, [n, O, 2].
        single: columns with one value a variant, [n], by name: `LLR_SE` and `DISTANCE`.
    """

    names: list[str]
    weights: list[float | None]
    values: Floats
    single: dict[str, Floats]


def effects(
    scorer: Scorer,
    variants: Sequence[Variant],
    genome: Genome,
    chosen: Sequence[int],
    settings: EffectSettings,
) -> Effects:
    """Compute all outputs of the model.

    Args:
        scorer: the model.
        variants: trimmed and left-aligned; REF is the genome's.
        genome: their genome.
        chosen: places of the chromatin features that are wanted.
        settings: how.

    Raises:
        UsageError: windows that are not centred on the variant, with a head that reads [CLS] and
            so knows no other place.
    """
    heads = scorer.checkpoint
    asked = [heads.promoter, heads.chromatin if chosen else None]
    is_centred = settings.shifts == 1 and settings.grid == 0
    if not is_centred and any(head and head.config.pool == "cls" for head in asked):
        raise UsageError(
            "a head of this model reads [CLS], whatever the place, so every window has to be "
            f"centred on its variant: shifts {settings.shifts} and grid {settings.grid} found, "
            "1 and 0 are allowed"
        )
    names: list[str] = []
    weights: list[float | None] = []
    blocks: list[Floats] = [np.zeros((len(variants), 0, 2), np.float32)]
    single: dict[str, Floats] = {}
    if heads.promoter is not None:
        names.append(PROMOTER)
        weights.append(1.0)
        blocks.append(_promoter(scorer, variants, genome, settings)[:, None])
    if heads.mlm is not None:
        likelihoods, errors = _likelihoods(scorer, variants, genome, settings)
        names.append(LLR)
        weights.append(None)
        blocks.append(likelihoods[:, None])
        if settings.segmentations > 1:
            single[LLR_SE] = errors
    if chosen or settings.embedding:
        logits, distances = _chromatin(scorer, variants, genome, settings)
        names += [scorer.features[place] for place in chosen]
        weights += [POSITIVE_WEIGHT] * len(chosen)
        blocks.append(logits[:, chosen])
        if settings.embedding:
            single[DISTANCE] = distances
    return Effects(names, weights, np.concatenate(blocks, axis=1), single)


class _Queries:
    """Windows to predict, each once: ALTs of one site share REF, and duplicates share both.

    Several places in one window are asked about together.
    """

    def __init__(self) -> None:
        self._places: dict[str, dict[int, None]] = {}
        self._asked: list[tuple[tuple[str, int], tuple[str, int]]] = []

    def add(self, ref: tuple[str, int], alt: tuple[str, int]) -> None:
        """Ask about a place in the window of REF and one in that of ALT."""
        # In one order whichever of the two is REF: exchanged alleles give the same passes and bits.
        for sequence, place in sorted([ref, alt]):
            self._places.setdefault(sequence, {})[place] = None
        self._asked.append((ref, alt))

    @property
    def sequences(self) -> list[str]:
        """Each window once."""
        return list(self._places)

    @property
    def places(self) -> list[NDArray[np.int64]]:
        """The places in each window."""
        return [np.array(list(places), dtype=np.int64) for places in self._places.values()]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Where the answers to each pair are among those to all windows and places, [pairs, 2]."""
        keys = [(sequence, place) for sequence, here in self._places.items() for place in here]
        row = {key: number for number, key in enumerate(keys)}
        found = [(row[ref], row[alt]) for ref, alt in self._asked]
        return np.array(found, dtype=np.int64).reshape(len(found), 2)


def _chromatin(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, settings: EffectSettings
) -> tuple[Floats, Floats]:
    """Return logits [n, F, 2] and, if wanted, distances of hidden states [n]."""
    queries = _Queries()
    for variant in variants:
        for offset in settings.offsets(variant.position):
            pair = windows(variant, genome, CHROMATIN_FLANK + offset, CHROMATIN_FLANK - offset)
            queries.add((pair.ref, pair.ref_anchor), (pair.alt, pair.alt_anchor))
    answers = scorer.profiles(queries.sequences, queries.places, settings.embedding)
    shape = (len(variants), settings.shifts, 2)
    logits, states = (x[queries.rows].reshape(*shape, x.shape[1]) for x in answers)
    averaged: Floats = logits.mean(axis=1).transpose(0, 2, 1)  # [n, 2, F] -> [n, F, 2]
    return averaged, _cosine_distance(states).mean(axis=1)


def _promoter(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, settings: EffectSettings
) -> Floats:
    """Return logits [n, 2] on the strand where the larger of both is largest."""
    queries = _Queries()
    for variant in variants:
        for shift in settings.offsets(variant.position):
            before, after = PROMOTER_BEFORE + shift, PROMOTER_AFTER - shift
            plus = windows(variant, genome, before, after)
            queries.add((plus.ref, plus.ref_anchor), (plus.alt, plus.alt_anchor))
            before, after = PROMOTER_AFTER - 1 + shift, PROMOTER_BEFORE + 1 - shift
            minus = windows(variant, genome, before, after)
            queries.add(_turned(minus.ref, minus.ref_anchor), _turned(minus.alt, minus.alt_anchor))
    logits = scorer.promoter_logits(queries.sequences, queries.places)[queries.rows]
    by_strand = logits.reshape(len(variants), settings.shifts, 2, 2).mean(axis=1)
    strand = by_strand.max(axis=2).argmax(axis=1)  # of [n, strand, allele]
    best: Floats = by_strand[np.arange(len(variants)), strand]
    return best


def _likelihoods(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, settings: EffectSettings
) -> tuple[Floats, Floats]:
    """Return log-likelihoods [n, 2] and standard errors [n], NaN for long alleles."""
    rows: list[int] = []
    pairs: list[AllelePair] = []
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
        pairs.append(pair)
    values = np.full((len(variants), 2), np.nan, np.float32)
    errors = np.full(len(variants), np.nan, np.float32)
    values[rows], errors[rows] = log_likelihoods(
        scorer, pairs, settings.segmentations, settings.seed
    )
    return values, errors


def _cosine_distance(states: Floats) -> Floats:
    """Return 1 - cosine of REF and ALT, [..., 2, D] -> [...]."""
    doubles = states.astype(np.float64)
    norms = np.linalg.norm(doubles, axis=-1, keepdims=True)
    unit = doubles / np.maximum(norms, np.finfo(np.float64).tiny)
    # Half the squared distance of unit vectors: 1 - cosine without its cancellation.
    squares = ((unit[..., 1, :] - unit[..., 0, :]) ** 2).sum(axis=-1)
    distances: Floats = (squares / 2).astype(np.float32)
    return distances


def _turned(sequence: str, place: int) -> tuple[str, int]:
    return reverse_complement(sequence), len(sequence) - 1 - place
