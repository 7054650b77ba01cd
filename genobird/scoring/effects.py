"""What a model predicts for variants: REF and ALT of each output, as arrays and as rows of a table.

Windows are as long for ALT as for REF, and centred on the variant or, with `EffectSettings.grid`
and `shifts`, near it. Indels are trimmed and left-aligned for scoring; the keys of a table keep the
alleles as they came. Outputs:

    promoter   logit of the likeliest transcription start near the variant, on the strand on which
               either allele has the larger logit, the same for both: REF and ALT swapped, only the
               sign of the delta changes
    llr        log-likelihood of each allele under the masked language model, in nats
    features   chromatin logits of the 200 bp around the variant, both strands averaged
    table|...  targets of a table head at the variant, both strands averaged: values in the units of
               its training, or probabilities of classes

From the logits of two alleles follow probabilities and the scores of Zhou & Troyanskaya 2015, who
take the difference of the probabilities and the log fold change of the odds of each chromatin
feature, and rank by the product of their sizes:

    probability   ref_p, alt_p: calibrated probability of each allele
    diff          alt_p - ref_p; DeepSEA's paper takes its size
    logfold       log2 of the odds of ALT over those of REF, delta / ln 2
    magnitude     |diff| x |logfold|

The feature that a variant changes most is told relative to what is usual: a logit moves by a whole
unit for features that are hardly ever there, and by a tenth for those that are everywhere. So
changes are compared in units of the size that one background variant in a hundred reaches, and a
feature that is improbable with either allele does not compete. Both numbers were chosen by the
motif harness on validation sites (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.columns import DISTANCE, LLR, LLR_SE, PROMOTER, TOP, VARIANT_LIFTED
from genobird.errors import AssemblyError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator, Locus
from genobird.genome.variant import Status, Variant, left_align, windows
from genobird.heads import POSITIVE_WEIGHT, probabilities
from genobird.inference import Floats
from genobird.scoring.alleles import FLANK, Allele
from genobird.scoring.background import Background
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import Scorer
from genobird.scoring.settings import (
    DEFAULT,
    DIFF,
    LOGFOLD,
    MAGNITUDE,
    PROBABILITY,
    EffectSettings,
    RefMismatch,
)
from genobird.scoring.table import clean_text, text_column
from genobird.scoring.windows import (
    CHROMATIN_FLANK,
    STRANDS,
    Queries,
    flag_at,
    larger_strand,
    promoter_reach,
)

LLR_FLANK = 2_000
"""Bases on each side of the variant that the masked language model sees; a longer allele has no
`llr`."""

SHARE = 0.01
"""Share of the background variants that change a feature by one unit or more."""
FLOOR = 0.002
"""Least probability of a feature, with the allele for which it is larger."""

Doubles = NDArray[np.float64]
_COLUMNS = {
    PROBABILITY: ("ref_p", "alt_p"),
    DIFF: ("diff",),
    LOGFOLD: ("logfold",),
    MAGNITUDE: ("magnitude",),
}


@dataclass(frozen=True, eq=False)
class Effects:
    """Outputs of n variants."""

    names: list[str]
    """Of the O outputs."""
    weights: list[float | None]
    """Weight of a positive in the training of each; None where the output is no logit of a
    probability."""
    values: Floats
    """REF and ALT of each output, [n, O, 2]."""
    single: dict[str, Floats]
    """Columns with one value per variant, [n], by name: `LLR_SE` and `DISTANCE`."""


def screen(
    scorer: Scorer,
    alleles: Sequence[Allele],
    genome: Genome | Locator,
    policy: RefMismatch = RefMismatch.FLAG,
    features: Sequence[str] | None = None,
    settings: EffectSettings = DEFAULT,
) -> pd.DataFrame:
    """Score ALTs together; one row each, in order. See `variant_table.screen_variants`."""
    background = scorer.background
    chosen = scorer.select_features(features)
    shown = {scorer.features[place] for place in chosen}
    if background is not None:  # the E-value is of all features, whichever are shown
        chosen = scorer.select_features(None)
    locator = genome if isinstance(genome, Locator) else Locator(genome, FLANK)
    loci = [locator.find(allele.variant) for allele in alleles]
    rows: list[int] = []
    asked: list[Variant] = []
    swapped: list[int] = []
    flags = [""] * len(alleles)
    for row, (allele, locus) in enumerate(zip(alleles, loci, strict=True)):
        scored = scored_locus(allele.variant, locus, locator, policy)
        if scored is None:
            continue
        if scored is not locus:
            swapped.append(row)
        there = left_align(scored.variant, locator.genome)
        rows.append(row)
        asked.append(there)
        flags[row] = flag_at(locator.genome, there.contig, there.position)

    found = effects(scorer, asked, locator.genome, chosen, settings)
    keys = [_keys(alleles, loci, flags), *([_lifted(loci)] if locator.chain else [])]
    scores = _scores(found, rows, swapped, len(alleles), settings)
    table = pd.concat([*keys, scores], axis=1)
    if background is not None:
        table = background.rank(table, hidden=set(scorer.features) - shown)
    if names := [name for name in found.names if name in shown]:
        table.insert(first_output(table), TOP, text_column(leading(table, names, background)))
    return table


def first_output(table: pd.DataFrame) -> int:
    """Return the place of the first column of an output; keys and single values come before."""
    names = list(table.columns)
    return next((place for place, name in enumerate(names) if "|" in name), len(names))


def _scores(
    found: Effects,
    rows: Sequence[int],
    swapped: Sequence[int],
    count: int,
    settings: EffectSettings,
) -> pd.DataFrame:
    """Return the columns of `count` rows, of which `rows` were scored and `swapped` turned back."""
    values = np.full((count, len(found.names), 2), np.nan, np.float32)
    values[rows] = found.values
    values[swapped] = values[swapped, :, ::-1]
    table = _outputs(found, values, settings.scores)
    for column, single in found.single.items():
        whole = np.full(count, np.nan, np.float32)
        whole[rows] = single
        columns = list(table.columns)
        at = columns.index(f"{LLR}|delta") + 1 if column == LLR_SE else len(columns)
        table.insert(at, column, whole)
    return table


def scored_locus(
    variant: Variant, locus: Locus, locator: Locator, policy: RefMismatch
) -> Locus | None:
    """Return what is scored for a variant: its locus, that with REF and ALT exchanged, or nothing.

    Raises:
        AssemblyError: REF is not the genome's, and the policy is `error`.
    """
    if locus.status is Status.OK:
        return locus
    if locus.status is Status.REF_MISMATCH:
        if policy is RefMismatch.ERROR:
            raise AssemblyError(_mismatch(variant, locus, locator))
        if policy is RefMismatch.SWAP:
            swapped = locator.swapped(locus)
            return swapped if swapped.status is Status.OK else None
    return None


def _mismatch(variant: Variant, locus: Locus, locator: Locator) -> str:
    there, place = locus.variant, locus.place
    found, _ = locator.genome.fetch_clipped(there.contig, there.position, there.end)
    lifted = "" if place is None else f", lifted to {place.contig}:{place.start + 1}{place.strand},"
    return (
        f"REF {there.ref} at {variant.contig}:{variant.position + 1}{lifted} is {found} in "
        f"{locator.genome.path}; is the VCF from another assembly? (--ref-mismatch flag goes on)"
    )


def _keys(alleles: Sequence[Allele], loci: Sequence[Locus], flags: Sequence[str]) -> pd.DataFrame:
    variants = [allele.variant for allele in alleles]
    keys = {
        "chrom": text_column([clean_text(variant.contig) for variant in variants]),
        "pos": np.array([variant.position + 1 for variant in variants], np.int64),
        "ref": text_column([clean_text(variant.ref) for variant in variants]),
        "alt": text_column([clean_text(variant.alt) for variant in variants]),
        "id": text_column([clean_text(allele.id) for allele in alleles]),
        "record": np.array([allele.record for allele in alleles], np.int64),
        "allele": np.array([allele.allele for allele in alleles], np.int64),
        "status": text_column([locus.status.value for locus in loci]),
        "flags": text_column(flags),
    }
    return pd.DataFrame(keys)


def _outputs(found: Effects, values: Floats, scores: Sequence[str]) -> pd.DataFrame:
    """Return the columns of each output from values of REF and ALT, [n, outputs, 2]."""
    columns: list[str] = []
    blocks: list[Floats] = [np.zeros((len(values), 0), np.float32)]
    for weight, group in groupby(range(len(found.names)), found.weights.__getitem__):
        places = list(group)
        ref, alt = values[:, places, 0], values[:, places, 1]
        parts, wanted = ["ref", "alt", "delta"], () if weight is None else scores
        block = np.stack([ref, alt, alt - ref], axis=-1)  # [n, outputs, parts]
        block = np.concatenate([block, odds_scores(ref, alt, weight or 1.0, wanted)], axis=-1)
        parts += columns_of(wanted)
        columns += [f"{found.names[place]}|{part}" for place in places for part in parts]
        blocks.append(block.reshape(len(values), len(places) * len(parts)))
    return pd.DataFrame(np.concatenate(blocks, axis=1), columns=columns)


def _lifted(loci: Sequence[Locus]) -> pd.DataFrame:
    columns = (
        text_column([locus.lifted[0] for locus in loci]),
        pd.Series([locus.lifted[1] for locus in loci], dtype="Int64"),
        text_column([locus.lifted[2] for locus in loci]),
    )
    return pd.DataFrame(dict(zip(VARIANT_LIFTED, columns, strict=True)))


def effects(
    scorer: Scorer,
    variants: Sequence[Variant],
    genome: Genome,
    chosen: Sequence[int],
    settings: EffectSettings,
) -> Effects:
    """Compute all outputs of the model, and chromatin features at the places that are chosen.

    Variants are trimmed and left-aligned; REF is the genome's.

    Raises:
        UsageError: windows that are not centred on the variant, where a head cannot follow.
    """
    heads = scorer.checkpoint
    if not settings.is_centred:
        _require_followed(scorer, settings, bool(chosen))
    names: list[str] = []
    weights: list[float | None] = []
    blocks: list[Floats] = [np.zeros((len(variants), 0, 2), np.float32)]
    single: dict[str, Floats] = {}
    is_asked = bool(chosen) or settings.embedding
    starts, logits, distances = _windows(scorer, variants, genome, settings, is_asked)
    if heads.promoter is not None:
        names.append(PROMOTER)
        weights.append(1.0)
        blocks.append(starts[:, None])
    if heads.mlm is not None:
        likelihoods, errors = _likelihoods(scorer, variants, genome, settings)
        names.append(LLR)
        weights.append(None)
        blocks.append(likelihoods[:, None])
        if settings.segmentations > 1:
            single[LLR_SE] = errors
    names += [scorer.features[place] for place in chosen]
    weights += [POSITIVE_WEIGHT] * len(chosen)
    blocks.append(logits[:, chosen])
    if settings.embedding:
        single[DISTANCE] = distances
    if scorer.targets:
        names += scorer.targets
        weights += [None] * len(scorer.targets)
        blocks.append(_target_values(scorer, variants, genome, settings))
    return Effects(names, weights, np.concatenate(blocks, axis=1), single)


def _require_followed(scorer: Scorer, settings: EffectSettings, with_chromatin: bool) -> None:
    """Refuse windows off their variant, where a head knows no place or its window is too short."""
    heads = scorer.checkpoint
    asked = [heads.promoter, heads.chromatin if with_chromatin else None, heads.table]
    found = f"shifts {settings.shifts} and grid {settings.grid} found"
    if any(head and head.config.pool == "cls" for head in asked):
        raise UsageError(
            "a head of this model reads [CLS], whatever the place, so every window has to be "
            f"centred on its variant: {found}, 1 and 0 are allowed"
        )
    room = scorer.target_flank - (heads.table.config.reach_bp if heads.table else 0)
    if heads.table and settings.farthest > room:
        raise UsageError(
            f"the table head was trained on windows of {2 * scorer.target_flank:,} bp, which may "
            f"lie up to {max(room, 0):,} bp off a variant, for the head reads "
            f"{heads.table.config.reach_bp:,} bp on each side: {found}, up to "
            f"{settings.farthest:,} bp off; take fewer shifts or a finer grid, or train it with a "
            "larger window_bp"
        )


def shares_window(scorer: Scorer, settings: EffectSettings) -> bool:
    """Tell whether promoters are read in the window of the profiles."""
    heads = scorer.checkpoint.promoter, scorer.checkpoint.chromatin
    return settings.one_window and None not in heads


def _windows(
    scorer: Scorer,
    variants: Sequence[Variant],
    genome: Genome,
    settings: EffectSettings,
    is_asked: bool,
) -> tuple[Floats, Floats, Floats]:
    """Read promoter and, where these or hidden states are asked for, chromatin windows.

    Returns:
        Promoter logits [n, 2], chromatin logits [n, F, 2] and distances of hidden states [n]; 0
        where they are not wanted.
    """
    count = len(variants)
    starts, distances = np.zeros((count, 2), np.float32), np.zeros(count, np.float32)
    logits = np.zeros((count, len(scorer.features), 2), np.float32)
    has_promoter = scorer.checkpoint.promoter is not None
    is_shared = count > 0 and shares_window(scorer, settings)
    if is_shared or is_asked:
        starts, logits, distances = _around(scorer, variants, genome, settings, is_shared)
    if has_promoter and not is_shared:
        starts = _promoter(scorer, variants, genome, settings)
    return starts, logits, distances


def _around(
    scorer: Scorer,
    variants: Sequence[Variant],
    genome: Genome,
    settings: EffectSettings,
    with_starts: bool,
) -> tuple[Floats, Floats, Floats]:
    """Read chromatin windows.

    Returns:
        With starts, promoter logits [n, 2]; chromatin logits [n, F, 2]; if wanted, distances of
        hidden states [n].
    """
    ask = scorer.starts_and_profiles if with_starts else scorer.profiles

    def predict(texts: list[str], places: list[list[int]]) -> Floats:
        return np.concatenate(ask(texts, places, settings.embedding), axis=1)

    reach = CHROMATIN_FLANK, CHROMATIN_FLANK
    answers = _answers(predict, variants, genome, settings, lambda _: reach)
    answers = answers[:, :, 0]  # [n, shifts, 2, S + F + D], S strands of starts
    strands = len(STRANDS) * with_starts
    starts, logits, states = np.split(answers, [strands, strands + len(scorer.features)], axis=3)
    averaged: Floats = logits.mean(axis=1).transpose(0, 2, 1)  # [n, 2, F] -> [n, F, 2]
    by_strand = starts.mean(axis=1).transpose(0, 2, 1)  # [n, 2, S] -> [n, S, 2]
    along = _larger(by_strand) if with_starts else by_strand
    return along, averaged, _cosine_distance(states).mean(axis=1)


def _promoter(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, settings: EffectSettings
) -> Floats:
    """Return logits [n, 2] on the strand where the larger of both is largest."""
    ask = partial(scorer.promoter_logits, near=True)
    logits = _answers(ask, variants, genome, settings, promoter_reach, STRANDS)
    return _larger(logits.mean(axis=1))


def _larger(by_strand: Floats) -> Floats:
    """Return the logits of both alleles on the strand that counts, [n, strand, 2] -> [n, 2]."""
    best: Floats = by_strand[np.arange(len(by_strand)), larger_strand(by_strand)]
    return best


def _target_values(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, settings: EffectSettings
) -> Floats:
    """Return what a table head predicts, [n, O, 2]."""
    reach = scorer.target_flank, scorer.target_flank
    values = _answers(scorer.target_values, variants, genome, settings, lambda _: reach)
    averaged: Floats = values[:, :, 0].mean(axis=1).transpose(0, 2, 1)  # of [n, shifts, 2, O]
    return averaged


def _answers(
    predict: Callable[[list[str], list[list[int]]], Floats],
    variants: Sequence[Variant],
    genome: Genome,
    settings: EffectSettings,
    reach: Callable[[str], tuple[int, int]],
    strands: str = "+",
) -> Floats:
    """Return the answers to REF and ALT of n variants, [n, shifts, strands, 2, ...].

    `reach` gives, for a strand, the bases of a window before its middle and from it on.
    """
    queries = Queries(predict)
    rows = []
    for variant in variants:
        for offset, strand in product(settings.offsets(variant.position), strands):
            before, after = reach(strand)
            pair = windows(variant, genome, before + offset, after - offset)
            ref, alt = (window.along(strand) for window in pair)
            # In one order whichever of the two is REF: exchanged alleles give the same passes and
            # bits.
            for window in sorted([ref, alt]):
                queries.add(*window)
            rows.append((queries.add(*ref), queries.add(*alt)))
    answers = queries.answers()[np.array(rows, np.int64).reshape(-1, 2)]
    shape = len(variants), settings.shifts, len(strands)
    return answers.reshape(*shape, *answers.shape[1:])


def _likelihoods(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, settings: EffectSettings
) -> tuple[Floats, Floats]:
    """Return log-likelihoods [n, 2] and standard errors [n], NaN for long alleles."""
    rows: list[int] = []
    pairs: list[AllelePair] = []
    for row, variant in enumerate(variants):
        if max(len(variant.ref), len(variant.alt)) > LLR_FLANK:
            continue
        ref, alt = windows(variant, genome, LLR_FLANK, LLR_FLANK)
        ref_span = ref.place, ref.place + len(variant.ref)
        alt_span = alt.place, alt.place + len(variant.alt)
        rows.append(row)
        pairs.append(AllelePair(ref.text, alt.text, ref_span, alt_span))
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


def columns_of(scores: Sequence[str]) -> list[str]:
    """Return the columns of scores, by names of `settings.SCORES`."""
    return [column for score in dict.fromkeys(scores) for column in _COLUMNS[score]]


def odds_scores(
    ref: NDArray[np.float32], alt: NDArray[np.float32], weight: float, scores: Sequence[str]
) -> NDArray[np.float32]:
    """Return the columns of scores, [..., columns].

    Args:
        ref: raw logits of REF, any shape.
        alt: raw logits of ALT, the same shape.
        weight: of positives in training, which probabilities take back.
        scores: names of `settings.SCORES`.
    """
    logits = np.stack([ref, alt]).astype(np.float64)
    ref_p, alt_p = probabilities(logits, weight)
    diff, logfold = alt_p - ref_p, (logits[1] - logits[0]) / np.log(2)
    found: dict[str, Doubles] = {
        "ref_p": ref_p,
        "alt_p": alt_p,
        "diff": diff,
        "logfold": logfold,
        "magnitude": np.abs(diff * logfold),
    }
    columns = [found[name] for name in columns_of(scores)]
    if not columns:
        return np.zeros((*ref.shape, 0), np.float32)
    return np.stack(columns, axis=-1).astype(np.float32)


def relative_sizes(
    ref: NDArray[Any], alt: NDArray[Any], names: Sequence[str], background: Background | None
) -> NDArray[np.float32]:
    """Return how large changes are, relative to what is usual for their features, [n, F].

    Args:
        ref: raw logits of REF, [n, F]; NaN where there are none.
        alt: raw logits of ALT, [n, F].
        names: of the F features.
        background: of the model; without one, or for a feature that it lacks, the unit is one
            logit.

    Returns:
        0 for features below the floor, where any feature of the row is above it; NaN as given.
    """
    units = np.ones(len(names))
    if background is not None:
        usual = dict(zip(background.outputs, background.sizes_beyond([SHARE])[:, 0], strict=True))
        units = np.array([usual.get(name, 1.0) for name in names])
    least = np.log(POSITIVE_WEIGHT) + np.log(FLOOR / (1 - FLOOR))
    rare = np.maximum(ref, alt) < least
    rare &= ~rare.all(axis=1, keepdims=True)
    sizes: NDArray[np.float32] = (np.abs(alt - ref) / np.maximum(units, 1e-6)).astype(np.float32)
    return np.where(rare, np.float32(0), sizes)


def leading(
    table: pd.DataFrame, names: Sequence[str], background: Background | None
) -> list[str | None]:
    """Return the feature that leads in each row by `relative_sizes`; None where nothing is."""
    ref, alt = (table[[f"{name}|{part}" for name in names]].to_numpy() for part in ("ref", "alt"))
    sizes = np.nan_to_num(relative_sizes(ref, alt, names, background), nan=-1.0)
    return [
        None if row[place] < 0 else names[place]
        for row, place in zip(sizes, sizes.argmax(axis=1), strict=True)
    ]
