"""Variants to a table: each ALT with its status, and REF, ALT and ALT - REF of each output.

Windows are centred on the variant, as long for ALT as for REF. Indels are trimmed and left-aligned
for scoring; keys keep the alleles as they came. Outputs:

    promoter   logit with the variant taken as transcription start, on the strand on which either
               allele has the larger logit, the same for both: REF and ALT swapped, only the sign
               of the delta changes
    llr        log-likelihood of each allele under the masked language model, in nats
    features   chromatin logits of the 200 bp around the variant, both strands averaged
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.errors import AssemblyError, TableError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import (
    Status,
    Variant,
    check,
    left_align,
    parse_variant,
    windows,
)
from genobird.genome.vcf import VcfReader
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import (
    CHROMATIN_FLANK,
    PROMOTER_AFTER,
    PROMOTER_BEFORE,
    Floats,
    Scorer,
    opened,
)
from genobird.scoring.table import clean_text, in_chunks

KEYS = ("chrom", "pos", "ref", "alt", "record", "allele", "status")
PROMOTER, LLR = "promoter", "llr"
FLANK = 8_000
"""Longest allele that is scored, in bp."""
LLR_FLANK = 2_000
"""Bases on each side of the variant that the masked language model sees; a longer allele has no
`llr`."""


class RefMismatch(StrEnum):
    """What to do with an ALT whose REF is not the genome's."""

    FLAG = "flag"
    """Leave it unscored, with its status."""
    SKIP = "skip"
    """Leave its record out of the table, and untouched in the VCF."""
    SWAP = "swap"
    """Where ALT is the genome's, score it with the roles swapped; the status stays."""
    ERROR = "error"
    """Stop."""


@dataclass(frozen=True, slots=True)
class Allele:
    """One ALT of a record."""

    record: int
    """Number of the record, from 0."""
    allele: int
    """Number of the ALT as in genotypes, from 1; 0 for a record without ALT."""
    variant: Variant


Variants = Path | str | pd.DataFrame | Iterable[Variant | str]


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


def policy_of(text: str) -> RefMismatch:
    """Read the policy for REF mismatches.

    Raises:
        UsageError: an unknown one.
    """
    try:
        return RefMismatch(text)
    except ValueError:
        allowed = ", ".join(RefMismatch)
        raise UsageError(f"ref mismatch policy {text!r} is unknown; allowed: {allowed}") from None


def read_alleles(variants: Variants) -> Iterator[Allele]:
    """Yield each ALT of variants of any kind; see `screen_variants`."""
    if isinstance(variants, str | Path):
        with VcfReader(variants) as reader:
            for record in reader:
                yield from alleles_of(record.number, record.variants())
    elif isinstance(variants, pd.DataFrame):
        yield from _from_frame(variants)
    else:
        for number, variant in enumerate(variants):
            read = variant if isinstance(variant, Variant) else parse_variant(variant)
            yield from alleles_of(number, [read])


def alleles_of(record: int, variants: Sequence[Variant]) -> Iterator[Allele]:
    """Number the ALTs of a record."""
    for number, variant in enumerate(variants, start=1):
        yield Allele(record, 0 if variant.alt in (".", "") else number, variant)


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

    names, scores = _scores(scorer, asked, genome, chosen)  # scores [n, outputs, 2]
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


def _scores(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, chosen: Sequence[int]
) -> tuple[list[str], Floats]:
    """Return names and values [n, outputs, 2] (REF, ALT) of all outputs of the model."""
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


def _mismatch(variant: Variant, genome: Genome) -> str:
    found, _ = genome.fetch_clipped(variant.contig, variant.position, variant.end)
    return (
        f"REF {variant.ref} at {variant.contig}:{variant.position + 1} is {found} in "
        f"{genome.path}; is the VCF from another assembly? (--ref-mismatch flag goes on)"
    )


def _from_frame(frame: pd.DataFrame) -> Iterator[Allele]:
    missing = [name for name in KEYS[:4] if name not in frame.columns]
    if missing:
        raise TableError(
            f"the variants have no column {', '.join(missing)}; needed are chrom, pos (1-based), "
            "ref and alt"
        )
    columns = (frame[name].tolist() for name in KEYS[:4])
    for number, (chrom, pos, ref, alt) in enumerate(zip(*columns, strict=True)):
        try:
            position = int(pos) - 1
        except (TypeError, ValueError):
            raise TableError(f"row {number} of the variants: pos {pos!r} is no number") from None
        alts = ["."] if pd.isna(alt) else str(alt).split(",")
        variants = [Variant(str(chrom), position, str(ref), one) for one in alts]
        yield from alleles_of(number, variants)
