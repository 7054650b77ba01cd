"""Variant scores into VCF: every record passes through, and gains INFO keys.

INFO has one value an ALT; the full profile goes to the table.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd

from genobird.genome import streams
from genobird.genome.build import SAMPLE, beyond, place_on, warn_of_training
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status
from genobird.genome.vcf import InfoField, Record, Value, Values, VcfReader, annotate
from genobird.scoring.alleles import (
    FLANK,
    RefMismatch,
    alleles_of,
    chain_file,
    policy_of,
)
from genobird.scoring.effects import LLR, PROMOTER
from genobird.scoring.listing import run_facts, table_facts
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.table import TableWriter, in_chunks
from genobird.scoring.variants import LIFTED, require_contigs, screen, without_skipped

logger = logging.getLogger(__name__)

STATUS = InfoField(
    "GB_STATUS", f"genobird status of each ALT: {' '.join(Status)}", type="String", number="."
)
GB_PROMOTER = InfoField("GB_PROMOTER", "Promoter logit, ALT - REF, the variant as start")
GB_LLR = InfoField("GB_LLR", "Masked-LM log-likelihood ratio of ALT to REF, nats")
GB_CHROMATIN = InfoField("GB_CHROMATIN", "Chromatin logit, ALT - REF, of the feature in GB_TOP")
GB_TOP = InfoField("GB_TOP", "Chromatin feature with the largest |ALT - REF|", type="String")
GB_LIFTED = (
    InfoField("GB_LIFTED_CHROM", "Contig that REF was lifted to", type="String", number="."),
    InfoField("GB_LIFTED_POS", "Where REF was lifted to, 1-based", type="Integer", number="."),
    InfoField("GB_LIFTED_STRAND", "Strand REF was lifted to", type="String", number="."),
)

# Above this share of REF mismatches the reference is more likely wrong than the alleles.
_SUSPICIOUS = 0.1


def info_fields(scorer: Scorer, lifted: bool = False) -> list[InfoField]:
    """Return the INFO keys that a model gives, and where the variants were lifted to."""
    parts = scorer.checkpoint
    return [
        STATUS,
        *(GB_LIFTED if lifted else ()),
        *([GB_PROMOTER] if parts.promoter is not None else []),
        *([GB_LLR] if parts.mlm is not None else []),
        *([GB_CHROMATIN, GB_TOP] if parts.chromatin is not None else []),
    ]


def annotate_variants(
    scorer: Scorer,
    source: Path | str | streams.Peeked,
    fasta: Path | str | Genome,
    output: Path | str,
    *,
    table: Path | str | None = None,
    ref_mismatch: str = "flag",
    features: Sequence[str] | None = None,
    liftover: Path | str | ChainFile | None = None,
    ignore_build: bool = False,
    force: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Score the variants of a VCF and write it with INFO added; memory is that of a few records.

    Args:
        scorer: the model.
        source: VCF or BCF, or `-`.
        fasta: the genome.
        output: `.vcf`, `.vcf.gz` (with an index) or `.bcf`, or `-`.
        table: `.parquet`, `.tsv` or `.tsv.gz` for the table of `screen_variants`.
        ref_mismatch: `flag`, `skip`, `swap` or `error`, see `RefMismatch`.
        features: columns, names or classes that go into the table and compete for GB_TOP.
        liftover: UCSC chain file from the assembly of the VCF to the genome's.
        ignore_build: warn of another assembly instead of raising.
        force: replace existing outputs.
        command: command line for the header.
        progress: called with the number of new records.

    Returns:
        How many ALTs have each status; their sum is the number of ALTs (1 for a record without).

    Raises:
        UsageError, VcfError, OutputError: input or outputs.
        AssemblyError: the VCF is of another assembly, or no variant lies on a contig of the genome;
            or, with `error`, REF differs.
    """
    policy = policy_of(ref_mismatch)
    scorer.select_features(features)
    counts: Counter[str] = Counter()
    ends: dict[str, int] = {}
    chains = chain_file(liftover)
    meta = run_facts(scorer, command, chains)
    facts = table_facts(meta)
    writing = TableWriter(table, force=force, meta=facts) if table is not None else nullcontext()
    with opened(fasta) as genome, VcfReader(source) as reader, writing as writer:
        warn_of_training(scorer.checkpoint.provenance, genome)
        first = [record.variants() for record in reader.peek(SAMPLE)]
        locator = place_on(
            genome, FLANK, reader.name, reader.header, first, chains, not ignore_build
        )

        def values(records: Iterator[Record]) -> Iterator[tuple[Record, Values]]:
            for part in in_chunks(records, scorer.chunk):
                alleles = [a for r in part for a in alleles_of(r.number, r.variants())]
                frame = screen(scorer, alleles, locator, policy, features)
                counts.update(frame["status"])
                _note_ends(frame, ends)
                if writer is not None:
                    writer.write(without_skipped(frame, policy))
                yield from zip(part, _info(part, frame, scorer, policy), strict=True)
                if progress is not None:
                    progress(len(part))
            require_contigs(counts, genome)
            if writer is not None and not counts:
                writer.write(screen(scorer, [], locator, policy, features))

        fields = info_fields(scorer, chains is not None)
        lengths = genome if chains is None else None  # what is written is of the old assembly
        annotate(reader, output, fields, values, genome=lengths, meta=meta, force=force)
        _warn_of_mismatches(counts, genome)
        if ends:
            logger.warning(
                "%d alleles lie beyond the end of their contig: %s",
                *(counts[Status.OUT_OF_BOUNDS.value], beyond(ends, genome)),
            )
    return counts


def _info(
    records: Sequence[Record], frame: pd.DataFrame, scorer: Scorer, policy: RefMismatch
) -> Iterator[Values]:
    """Yield the INFO values of each record; `frame` has the rows of their ALTs, in order."""
    statuses = frame["status"].tolist()
    columns: dict[str, list[Value]] = {}
    for field, name in ((GB_PROMOTER, PROMOTER), (GB_LLR, LLR)):
        if f"{name}|delta" in frame.columns:
            columns[field.id] = [_value(x) for x in frame[f"{name}|delta"]]
    deltas = [f"{name}|delta" for name in scorer.features if f"{name}|delta" in frame.columns]
    if deltas:
        columns[GB_CHROMATIN.id], columns[GB_TOP.id] = _top(frame[deltas])
    places = _places(frame)
    stop = 0
    for record in records:
        first, stop = stop, stop + max(1, len(record.alts))
        rows = slice(first, stop)
        if policy is RefMismatch.SKIP and Status.REF_MISMATCH.value in statuses[rows]:
            yield {}
            continue
        scored = {key: values[rows] for key, values in columns.items() if record.alts}
        present = {key: values for key, values in scored.items() if _any(values)}
        lifted = {key: values[first : first + 1] for key, values in places.items() if values[first]}
        yield {STATUS.id: statuses[rows], **lifted, **present}


def _places(frame: pd.DataFrame) -> dict[str, list[Value]]:
    """Return where the record of each row was lifted to, by INFO key; none without a chain file."""
    return {
        field.id: frame[name].astype(object).where(frame[name].notna(), None).tolist()
        for field, name in zip(GB_LIFTED, LIFTED, strict=True)
        if name in frame.columns
    }


def _note_ends(frame: pd.DataFrame, ends: dict[str, int]) -> None:
    """Keep the largest position of each contig that lies beyond its end."""
    off = frame[(frame["status"] == Status.OUT_OF_BOUNDS.value) & (frame["pos"] > 0)]
    for contig, position in off.groupby("chrom")["pos"].max().items():
        ends[str(contig)] = max(int(position), ends.get(str(contig), 0))


def _any(values: Sequence[Value]) -> bool:
    return any(value is not None for value in values)


def _top(deltas: pd.DataFrame) -> tuple[list[Value], list[Value]]:
    """Return the largest change by size of each row, and the feature it belongs to."""
    values = deltas.to_numpy()
    best = np.nan_to_num(np.abs(values), nan=-1.0).argmax(axis=1)
    names = [name.removesuffix("|delta") for name in deltas.columns]
    largest = [_value(x) for x in values[np.arange(len(values)), best]]
    tops: list[Value] = [
        None if value is None else names[place] for value, place in zip(largest, best, strict=True)
    ]
    return largest, tops


def _value(number: float) -> Value:
    return None if math.isnan(number) else float(number)


def _warn_of_mismatches(counts: Counter[str], genome: Genome) -> None:
    mismatches = counts[Status.REF_MISMATCH.value]
    checked = mismatches + counts[Status.OK.value]
    if mismatches > _SUSPICIOUS * checked:
        logger.warning(
            "REF of %d in %d alleles is not that of %s; is the VCF from another assembly?",
            *(mismatches, checked, genome.path),
        )
