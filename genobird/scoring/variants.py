"""Variants to a table: each ALT with its status, and REF, ALT and ALT - REF of each output.

Indels are trimmed and left-aligned for scoring; keys keep the alleles as they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from genobird.errors import AssemblyError
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status, Variant, check, left_align
from genobird.scoring.alleles import (
    COLUMNS,
    Allele,
    RefMismatch,
    Variants,
    policy_of,
    read_alleles,
)
from genobird.scoring.effects import effects
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.table import clean_text, in_chunks

KEYS = (*COLUMNS, "record", "allele", "status")
FLANK = 8_000
"""Longest allele that is scored, in bp."""


def screen_variants(
    scorer: Scorer,
    variants: Variants,
    fasta: Path | str | Genome,
    *,
    ref_mismatch: str = "flag",
    features: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Score variants.

    Args:
        scorer: the model.
        variants: VCF or BCF file, frame with columns `chrom pos ref alt` (1-based, several ALTs
            separated by commas), variants, or strings as `chr20:1000:A>G`.
        fasta: the genome.
        ref_mismatch: `flag`, `skip`, `swap` or `error`, see `RefMismatch`.
        features: columns, names or classes of the chromatin head; None is all.

    Returns:
        One row an ALT, in input order: `chrom pos ref alt record allele status`, then
        `<output>|ref`, `<output>|alt` and `<output>|delta` (ALT - REF); NaN where nothing was
        scored. `pos` is 1-based as in VCF, `record` counts from 0.

    Raises:
        VcfError, TableError, UsageError: the variants cannot be read.
        AssemblyError: no variant lies on a contig of the genome; or, with `error`, REF differs.
    """
    policy = policy_of(ref_mismatch)
    counts: Counter[str] = Counter()
    frames = []
    with opened(fasta) as genome:
        for alleles in in_chunks(read_alleles(variants), scorer.chunk):
            frame = screen(scorer, alleles, genome, policy, features)
            counts.update(frame["status"])
            frames.append(without_skipped(frame, policy))
        require_contigs(counts, genome)
        if not frames:
            frames.append(screen(scorer, [], genome, policy, features))
    return pd.concat(frames, ignore_index=True)


def screen(
    scorer: Scorer,
    alleles: Sequence[Allele],
    genome: Genome,
    policy: RefMismatch = RefMismatch.FLAG,
    features: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Score ALTs together; one row each, in order. See `screen_variants`."""
    chosen = scorer.select_features(features)
    statuses = [check(allele.variant, genome, FLANK) for allele in alleles]
    rows: list[int] = []
    asked: list[Variant] = []
    swapped: list[int] = []
    for row, (allele, status) in enumerate(zip(alleles, statuses, strict=True)):
        variant = allele.variant
        if status is Status.REF_MISMATCH:
            if policy is RefMismatch.ERROR:
                raise AssemblyError(_mismatch(variant, genome))
            if policy is not RefMismatch.SWAP:
                continue
            variant = Variant(variant.contig, variant.position, variant.alt, variant.ref)
            if check(variant, genome, FLANK) is not Status.OK:
                continue
            swapped.append(row)
        elif status is not Status.OK:
            continue
        rows.append(row)
        asked.append(left_align(variant, genome))

    names, scores = effects(scorer, asked, genome, chosen)  # scores [n, outputs, 2]
    values = np.full((len(alleles), len(names), 3), np.nan, np.float32)
    values[rows, :, :2] = scores
    values[swapped, :, :2] = values[swapped, :, 1::-1]
    values[..., 2] = values[..., 1] - values[..., 0]
    columns = [f"{name}|{part}" for name in names for part in ("ref", "alt", "delta")]
    table = pd.DataFrame(values.reshape(len(alleles), len(columns)), columns=columns)
    return pd.concat([_keys(alleles, statuses), table], axis=1)


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


def _keys(alleles: Sequence[Allele], statuses: Sequence[Status]) -> pd.DataFrame:
    variants = [allele.variant for allele in alleles]
    keys = {
        "chrom": [clean_text(variant.contig) for variant in variants],
        "pos": np.array([variant.position + 1 for variant in variants], np.int64),
        "ref": [clean_text(variant.ref) for variant in variants],
        "alt": [clean_text(variant.alt) for variant in variants],
        "record": np.array([allele.record for allele in alleles], np.int64),
        "allele": np.array([allele.allele for allele in alleles], np.int64),
        "status": [status.value for status in statuses],
    }
    return pd.DataFrame(keys)


def _mismatch(variant: Variant, genome: Genome) -> str:
    found, _ = genome.fetch_clipped(variant.contig, variant.position, variant.end)
    return (
        f"REF {variant.ref} at {variant.contig}:{variant.position + 1} is {found} in "
        f"{genome.path}; is the VCF from another assembly? (--ref-mismatch flag goes on)"
    )
