"""Variant scores into VCF: every record passes through, and gains INFO keys.

INFO has one value per ALT; the full profile goes to the table.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from genobird.columns import (
    DISTANCE,
    EVALUE,
    FLAGS,
    GENE,
    GENE_DISTANCE,
    LLR,
    LLR_SE,
    PROMOTER,
    TOP,
)
from genobird.errors import counted
from genobird.genome import streams
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locus, beyond
from genobird.genome.variant import Status
from genobird.genome.vcf import Record, VcfReader
from genobird.genome.vcf_writer import InfoField, Value, Values, VcfWriter, annotated_copy
from genobird.runs import FRESH, Start, may_replace
from genobird.scoring.alleles import VariantSource
from genobird.scoring.haplotypes import Haplotypes
from genobird.scoring.journal import hash_of_file, kept
from genobird.scoring.parts import HEADER_KEY, Part, PartNote, require_part_outputs
from genobird.scoring.scan import Batch, Sink, VariantScan
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DEFAULT, PLAIN, EffectSettings, RefMismatch, ScanSettings
from genobird.scoring.table import TableWriter
from genobird.scoring.variant_table import rows_to, run_facts, table_facts
from genobird.scoring.windows import EDGE, LEAST, NEAR
from genobird.targets import MARK

logger = logging.getLogger(__name__)

STATUS = InfoField("GB_STATUS", f"genobird status of each ALT: {' '.join(Status)}", type="String")
GB_FLAGS = InfoField(
    "GB_FLAGS",
    f"What makes one doubt the scores of an ALT: {EDGE}, more than {1 - LEAST:.0%} of the "
    f"{2 * NEAR} bp around it are beyond the contig or N",
    type="String",
)
GB_EVALUE = InfoField(
    "GB_EVALUE", "Share of the background variants with effects at least as large, 1/(n+1) or more"
)
GB_PHRED = InfoField("GB_PHRED", "Rank among the background variants, -10 log10 GB_EVALUE")
GB_PROMOTER = InfoField(
    "GB_PROMOTER", "Promoter logit, ALT - REF, of the likeliest start near the variant"
)
GB_LLR = InfoField("GB_LLR", "Masked-LM log-likelihood ratio of ALT to REF, nats")
GB_LLR_SE = InfoField("GB_LLR_SE", "Standard error of GB_LLR between segmentations, nats")
GB_EMBEDDING = InfoField("GB_EMBEDDING", "Cosine distance between hidden states of REF and ALT")
GB_CHROMATIN = InfoField("GB_CHROMATIN", "Chromatin logit, ALT - REF, of the feature in GB_TOP")
GB_TOP = InfoField(
    "GB_TOP",
    "Chromatin feature whose logit changes most relative to background variants",
    type="String",
)
GB_LIFTED = (
    InfoField("GB_LIFTED_CHROM", "Contig that REF was lifted to", type="String", number="."),
    InfoField("GB_LIFTED_POS", "Where REF was lifted to, 1-based", type="Integer", number="."),
    InfoField("GB_LIFTED_STRAND", "Strand REF was lifted to", type="String", number="."),
)

_ACCESSIBLE = "DNase"  # the class of such features
# Above this share of REF mismatches the reference is more likely wrong than the alleles.
_SUSPICIOUS = 0.1

Read = Callable[[pd.DataFrame], list[Value] | None]
"""Reads the INFO values of each row of a table; None where it has not the columns."""


def _number(x: float) -> Value:
    return None if math.isnan(x) else float(x)


def _text(x: object) -> Value:
    return x if isinstance(x, str) and x else None


def _each(column: str, value: Callable[[Any], Value] = _number) -> Read:
    return lambda rows: [value(x) for x in rows[column]] if column in rows else None


def _phred(rows: pd.DataFrame) -> list[Value] | None:
    return [_number(x) for x in 0 - 10 * np.log10(rows[EVALUE])] if EVALUE in rows else None


def _leading(rows: pd.DataFrame) -> list[Value] | None:
    """Return the change of the feature that leads each row."""
    if TOP not in rows:
        return None
    return [
        _number(rows[f"{top}|delta"].iloc[row]) if isinstance(top, str) else None
        for row, top in enumerate(rows[TOP])
    ]


GENES: Final[Mapping[InfoField, Read]] = {
    InfoField("GB_GENE", "Gene of the nearest transcription start", type="String"): _each(
        GENE, _text
    ),
    InfoField(
        "GB_GENE_DISTANCE",
        "Distance from that start along its gene, bp; negative before the start",
        type="Integer",
    ): _each(GENE_DISTANCE, lambda bp: None if pd.isna(bp) else int(bp)),
}


def info_fields(
    scorer: Scorer, lifted: bool = False, settings: EffectSettings = DEFAULT
) -> list[InfoField]:
    """Return the INFO keys that a model gives, and where the variants were lifted to."""
    flags, *scores = _keys(scorer, settings)
    return [STATUS, flags, *(GB_LIFTED if lifted else ()), *scores]


def _keys(
    scorer: Scorer, settings: EffectSettings, genes: Mapping[InfoField, Read] | None = None
) -> dict[InfoField, Read]:
    """Return the INFO keys that are read from the rows of a table, in the order of a record."""
    heads, is_ranked = scorer.checkpoint, scorer.background is not None
    is_likely, is_profiled = heads.mlm is not None, heads.chromatin is not None
    keys: list[tuple[bool, InfoField, Read]] = [
        (True, GB_FLAGS, _each(FLAGS, _text)),
        (is_ranked, GB_EVALUE, _each(EVALUE)),
        (is_ranked and settings.phred, GB_PHRED, _phred),
        (heads.promoter is not None, GB_PROMOTER, _each(f"{PROMOTER}|delta")),
        (is_likely, GB_LLR, _each(f"{LLR}|delta")),
        (is_likely and settings.segmentations > 1, GB_LLR_SE, _each(LLR_SE)),
        (settings.embedding, GB_EMBEDDING, _each(DISTANCE)),
        *((True, field, read) for field, read in (genes or {}).items()),
        (is_profiled, GB_CHROMATIN, _leading),
        (is_profiled, GB_TOP, _each(TOP, _text)),
        (bool(_accessible(scorer)), *_accessibility(scorer)),
        (bool(scorer.targets), *_targets(scorer.targets)),
    ]
    return {field: read for is_given, field, read in keys if is_given}


def _accessible(scorer: Scorer) -> list[str]:
    """Return the columns of the features of chromatin accessibility."""
    kinds = scorer.checkpoint.features["class"]
    return [name for name, kind in zip(scorer.features, kinds, strict=True) if kind == _ACCESSIBLE]


def _accessibility(scorer: Scorer) -> tuple[InfoField, Read]:
    names = _accessible(scorer)

    def read(rows: pd.DataFrame) -> list[Value] | None:
        columns = [column for name in names if (column := f"{name}|delta") in rows]
        return [_number(x) for x in rows[columns].mean(axis=1)] if columns else None

    cells = ", ".join(dict.fromkeys(name.split("|")[0] for name in names))
    return InfoField("GB_DNASE", f"DNase accessibility logit, ALT - REF, mean over {cells}"), read


def _targets(columns: Sequence[str]) -> tuple[InfoField, Read]:
    def read(rows: pd.DataFrame) -> list[Value]:
        deltas = rows[[f"{name}|delta" for name in columns]].to_numpy(np.float64)
        known = ~np.isnan(deltas).any(axis=1)
        texts = ("|".join(f"{x:.6g}" for x in row) for row in deltas)
        return [text if is_known else None for text, is_known in zip(texts, known, strict=True)]

    names = "|".join(column.removeprefix(MARK) for column in columns)
    text = f"Targets of the table head, ALT - REF, separated by |: {names}"
    return InfoField("GB_TARGETS", text, type="String"), read


def annotate_variants(
    scorer: Scorer,
    source: Path | str | streams.Peeked,
    fasta: Path | str | Genome,
    output: Path | str,
    *,
    table: Path | str | None = None,
    phased: str | None = None,
    part: Part | None = None,
    settings: ScanSettings = PLAIN,
    start: Start = FRESH,
) -> Counter[str]:
    """Score the variants of a VCF and write it with INFO added; memory is that of a few records.

    Until the output is complete, what is scored is kept in `<output>.partial`; see `journal`.

    Args:
        scorer: the model.
        source: VCF or BCF, or `-`.
        fasta: the genome.
        output: `.vcf`, `.vcf.gz` (with an index) or `.bcf`, or `-`.
        table: `.parquet`, `.tsv` or `.tsv.gz` for the table of `screen_variants`.
        phased: sample whose ALTs on a haplotype are also scored together: `haplotypes`.
        part: write only the records of this part, as `.vcf.gz` and `.parquet`; see `parts.merge`.
        settings: how variants are placed and scored.
        start: how the run is started; progress is called with the number of new records.

    Returns:
        How many ALTs have each status; their sum is the number of ALTs (1 for a record without).

    Raises:
        UsageError, VcfError, OutputError: input or outputs.
        AssemblyError: the VCF is of another assembly, or no variant lies on a contig of the genome;
            or, with `error`, REF differs.
    """
    scorer.select_features(settings.features)
    path = source.source if isinstance(source, streams.Peeked) else source
    if part is not None:
        require_part_outputs(scorer.model_hash, path, output, table)
    replace = may_replace(output, start)
    with ExitStack() as stack:
        genome = stack.enter_context(opened(fasta))
        reader = stack.enter_context(VcfReader(source))
        variants = VariantSource.of_vcf(reader)
        scan = VariantScan(scorer, variants, genome, settings, part=part)
        identity = scan.identity
        if phased is not None:
            scan.haplotypes = stack.enter_context(
                Haplotypes(scorer, path, phased, scan.locator, settings.features, settings.effects)
            )
            identity = {**identity, "--phased": phased, "calls": hash_of_file(path)}
        meta = run_facts(scorer, start.command, scan.locator.chain)
        if part is not None:
            run = {**identity, "input": hash_of_file(path), "--ref-mismatch": settings.ref_mismatch}
            meta[HEADER_KEY] = PartNote(part, scorer.chunk, run).text()
            identity = {**identity, "--shard": str(part)}
        files = [output] if table is None else [output, table]
        journal = stack.enter_context(kept(files, identity, start))
        doubts = Doubts(genome)
        sinks: list[Sink] = [doubts.note]
        writer = None
        if table is not None:
            writer = stack.enter_context(TableWriter(table, force=replace, meta=table_facts(meta)))
            sinks.append(rows_to(writer.write, settings.policy))
        vcf = stack.enter_context(_annotated_copy(scan, reader, output, meta, replace))
        sinks += [partial(_write_records, vcf, scan), lambda b: start.progress(len(b.records))]
        counts = scan.run(sinks, journal)
        if writer is not None:
            writer.finish()
        journal.seal()
    doubts.warn(counts)
    if scan.haplotypes is not None:
        scan.haplotypes.warn()
    return counts


class Doubts:
    """What makes one doubt that variants and genome belong together."""

    def __init__(self, genome: Genome) -> None:
        self._genome = genome
        self._ends: dict[str, int] = {}  # the largest position on each contig beyond its end

    def note(self, batch: Batch) -> None:
        """Look at the ALTs of a batch."""
        if Status.OUT_OF_BOUNDS.value not in batch.statuses:
            return
        for allele, status in zip(batch.alleles, batch.statuses, strict=True):
            variant = allele.variant
            if status == Status.OUT_OF_BOUNDS.value and variant.position >= 0:
                largest = self._ends.get(variant.contig, 0)
                self._ends[variant.contig] = max(variant.position + 1, largest)

    def warn(self, counts: Counter[str]) -> None:
        """Say what was found, given how many ALTs have each status."""
        mismatches = counts[Status.REF_MISMATCH.value]
        checked = mismatches + counts[Status.OK.value]
        if mismatches > _SUSPICIOUS * checked:
            logger.warning(
                "REF of %d in %d alleles is not that of %s; is the VCF from another assembly?",
                mismatches,
                checked,
                self._genome.path,
            )
        if self._ends:
            logger.warning(
                "%s beyond the end of their contig: %s",
                counted(counts[Status.OUT_OF_BOUNDS.value], "allele"),
                beyond(self._ends, self._genome),
            )


def _annotated_copy(
    scan: VariantScan, reader: VcfReader, output: Path | str, meta: Mapping[str, str], force: bool
) -> VcfWriter:
    """Open the VCF that is written."""
    first, lifted = scan.source.peek(1), scan.locator.chain is not None
    fields = info_fields(scan.scorer, lifted, scan.settings.effects)
    if scan.starts is not None:
        fields += GENES
    if scan.haplotypes is not None:
        fields += scan.haplotypes.fields
    return annotated_copy(
        reader,
        output,
        fields,
        genome=None if lifted else scan.locator.genome,  # what is written is of the old assembly
        meta=meta,
        example=first[0].contig if first else None,
        force=force,
    )


def _write_records(writer: VcfWriter, scan: VariantScan, batch: Batch) -> None:
    """Write the records of a batch, each with its INFO values."""
    columns: dict[str, list[Value]] = {}
    if batch.is_scored:
        keys = _keys(scan.scorer, scan.settings.effects, GENES if scan.starts else None)
        read = {field.id: values_of(batch.table) for field, values_of in keys.items()}
        columns = {key: values for key, values in read.items() if values is not None}
        if scan.haplotypes is not None:
            columns |= scan.haplotypes.info(batch.table)
    places = _places(batch.loci) if scan.locator.chain else {}
    added = _info(batch.records, batch.statuses, columns, places, scan.settings.policy)
    for record, values in zip(batch.records, added, strict=True):
        writer.write(record, values)


def _info(
    records: Sequence[Record],
    statuses: Sequence[str],
    columns: Mapping[str, Sequence[Value]],
    places: Mapping[str, Sequence[Value]],
    policy: RefMismatch,
) -> Iterator[Values]:
    """Yield the INFO values of each record; all others are given for each ALT, by key."""
    stop = 0
    for record in records:
        first, stop = stop, stop + max(1, len(record.alts))
        rows = slice(first, stop)
        if policy is RefMismatch.SKIP and Status.REF_MISMATCH.value in statuses[rows]:
            yield {}
            continue
        scored = {key: values[rows] for key, values in columns.items() if record.alts}
        present = {k: row for k, row in scored.items() if any(x is not None for x in row)}
        lifted = {key: values[first : first + 1] for key, values in places.items() if values[first]}
        yield {STATUS.id: statuses[rows], **lifted, **present}


def _places(loci: Sequence[Locus]) -> dict[str, list[Value]]:
    """Return where each allele was lifted to, by INFO key."""
    return {
        field.id: [locus.lifted[part] for locus in loci] for part, field in enumerate(GB_LIFTED)
    }
