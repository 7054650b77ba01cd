"""Variants to a table: each ALT with its status, and REF, ALT and ALT - REF of each output.

Indels are trimmed and left-aligned for scoring; keys keep the alleles as they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from genobird.errors import AssemblyError
from genobird.genome.build import warn_of_training
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator, Locus
from genobird.genome.variant import Status, Variant, left_align
from genobird.inference import Floats
from genobird.scoring.alleles import (
    COLUMNS,
    FLANK,
    Allele,
    RefMismatch,
    Variants,
    opened_alleles,
    policy_of,
)
from genobird.scoring.background import warn_of_settings
from genobird.scoring.effects import LLR, LLR_SE, Effects, effects
from genobird.scoring.odds import columns_of, odds_scores
from genobird.scoring.parts import parts_of, scored_locus
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.table import clean_text

KEYS = (*COLUMNS, "record", "allele", "status")
LIFTED = ("lifted_chrom", "lifted_pos", "lifted_strand")
"""Where REF was lifted to; columns after the keys, only with a chain file."""


def screen_variants(
    scorer: Scorer,
    variants: Variants,
    fasta: Path | str | Genome,
    *,
    ref_mismatch: str = "flag",
    features: Sequence[str] | None = None,
    liftover: Path | str | ChainFile | None = None,
    ignore_build: bool = False,
    settings: EffectSettings = DEFAULT,
) -> pd.DataFrame:
    """Score variants.

    Args:
        scorer: the model.
        variants: VCF or BCF file, table (TSV, CSV or frame) with columns `chrom pos ref alt`
            (1-based, several ALTs separated by commas or as a list) or a dict of such columns, or
            a list: of variants, of rows `(chrom, pos, ref, alt)` as tuples, dicts or arrays, of
            strings as `chr20:1000:A>G`; one alone is a list of one.
        fasta: the genome.
        ref_mismatch: `flag`, `skip`, `swap` or `error`, see `RefMismatch`.
        features: columns, names or classes of the chromatin head; None is all.
        liftover: UCSC chain file from the assembly of the variants to the genome's.
        ignore_build: warn of another assembly instead of raising.
        settings: how effects are computed, and which further scores are wanted.

    Returns:
        One row an ALT, in input order: `chrom pos ref alt record allele status` (with `liftover`
        also `lifted_chrom lifted_pos lifted_strand`), then
        `<output>|ref`, `<output>|alt` and `<output>|delta` (ALT - REF); NaN where nothing was
        scored. `pos` is 1-based as in VCF (one of more than 18 digits is shown as 10^18), `record`
        counts from 0. `settings` may add `llr|se`,
        `embedding|distance` and, for each promoter and chromatin output, the columns of `odds`.
        With a background there is also `evalue`, after the keys, and `<output>|quantile`; see
        `background`.

    Raises:
        VcfError, TableError, UsageError: the variants cannot be read.
        AssemblyError: the variants are of another assembly, or none lies on a contig of the genome;
            or, with `error`, REF differs.
    """
    policy = policy_of(ref_mismatch)
    counts: Counter[str] = Counter()
    frames = []
    with opened(fasta) as genome, opened_alleles(variants) as source:
        warn_of_training(scorer.checkpoint.provenance, genome)
        warn_of_settings(scorer.background, settings)
        locator = source.locator(genome, liftover, not ignore_build)
        for part in parts_of(source, Allele.variants, scorer.chunk, locator, policy):
            frame = screen(scorer, part.items, locator, policy, features, settings)
            counts.update(frame["status"])
            frames.append(without_skipped(frame, policy))
        require_contigs(counts, genome)
        if not frames:
            frames.append(screen(scorer, [], locator, policy, features, settings))
    return pd.concat(frames, ignore_index=True)


def screen(
    scorer: Scorer,
    alleles: Sequence[Allele],
    genome: Genome | Locator,
    policy: RefMismatch = RefMismatch.FLAG,
    features: Sequence[str] | None = None,
    settings: EffectSettings = DEFAULT,
) -> pd.DataFrame:
    """Score ALTs together; one row each, in order. See `screen_variants`."""
    background = scorer.background
    if background is None:
        return effect_table(scorer, alleles, genome, policy, features, settings)
    # The E-value is of all features, whichever are shown.
    shown = {scorer.features[place] for place in scorer.select_features(features)}
    table = effect_table(scorer, alleles, genome, policy, settings=settings)
    return background.rank(table, hidden=set(scorer.features) - shown)


def effect_table(
    scorer: Scorer,
    alleles: Sequence[Allele],
    genome: Genome | Locator,
    policy: RefMismatch = RefMismatch.FLAG,
    features: Sequence[str] | None = None,
    settings: EffectSettings = DEFAULT,
) -> pd.DataFrame:
    """Score ALTs together without ranking them among a background; see `screen`."""
    chosen = scorer.select_features(features)
    locator = genome if isinstance(genome, Locator) else Locator(genome, FLANK)
    genome = locator.genome
    loci = [locator.find(allele.variant) for allele in alleles]
    rows: list[int] = []
    asked: list[Variant] = []
    swapped: list[int] = []
    for row, (allele, locus) in enumerate(zip(alleles, loci, strict=True)):
        scored = scored_locus(allele.variant, locus, locator, policy)
        if scored is None:
            continue
        if scored is not locus:
            swapped.append(row)
        rows.append(row)
        asked.append(left_align(scored.variant, genome))

    found = effects(scorer, asked, genome, chosen, settings)
    values = np.full((len(alleles), len(found.names), 2), np.nan, np.float32)
    values[rows] = found.values
    values[swapped] = values[swapped, :, ::-1]
    table = _outputs(found, values, settings.scores)
    for column, single in found.single.items():
        whole = np.full(len(alleles), np.nan, np.float32)
        whole[rows] = single
        columns = list(table.columns)
        at = columns.index(f"{LLR}|delta") + 1 if column == LLR_SE else len(columns)
        table.insert(at, column, whole)
    keys = [_keys(alleles, loci), *([_lifted(loci)] if locator.chain else [])]
    return pd.concat([*keys, table], axis=1)


def without_skipped(frame: pd.DataFrame, policy: RefMismatch) -> pd.DataFrame:
    """Leave out the records that the policy skips."""
    if policy is not RefMismatch.SKIP:
        return frame
    skipped = frame.loc[frame["status"] == Status.REF_MISMATCH.value, "record"]
    return frame[~frame["record"].isin(skipped)]


def require_contigs(counts: Counter[str], genome: Genome) -> None:
    """Refuse variants none of which lies on a contig of the genome.

    Raises:
        AssemblyError: there are variants, and all are NO_CONTIG.
    """
    total = counts.total()
    if total and counts[Status.NO_CONTIG.value] == total:
        known = ", ".join(list(genome.contigs)[:5])
        raise AssemblyError(
            f"none of the {total:,} alleles lies on a contig of {genome.path}, which begins with "
            f"{known}; give the FASTA of the assembly that the variants were called on"
        )


def _keys(alleles: Sequence[Allele], loci: Sequence[Locus]) -> pd.DataFrame:
    variants = [allele.variant for allele in alleles]
    keys = {
        "chrom": [clean_text(variant.contig) for variant in variants],
        "pos": np.array([variant.position + 1 for variant in variants], np.int64),
        "ref": [clean_text(variant.ref) for variant in variants],
        "alt": [clean_text(variant.alt) for variant in variants],
        "record": np.array([allele.record for allele in alleles], np.int64),
        "allele": np.array([allele.allele for allele in alleles], np.int64),
        "status": [locus.status.value for locus in loci],
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
    places = [locus.place for locus in loci]
    columns = (
        [place and place.contig for place in places],
        pd.Series([place and place.start + 1 for place in places], dtype="Int64"),
        [place and place.strand for place in places],
    )
    return pd.DataFrame(dict(zip(LIFTED, columns, strict=True)))
