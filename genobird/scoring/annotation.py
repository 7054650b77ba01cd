"""Variant scores into VCF: every record passes through, and gains INFO keys.

INFO has one value an ALT; the full profile goes to the table.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from genobird.genome import streams
from genobird.genome.build import SAMPLE, beyond, place_on, warn_of_training
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator, Locus
from genobird.genome.variant import Status
from genobird.genome.vcf import InfoField, Record, Value, Values, VcfReader, annotate
from genobird.scoring.alleles import (
    FLANK,
    RefMismatch,
    alleles_of,
    chain_file,
    policy_of,
)
from genobird.scoring.background import EVALUE, Background, warn_of_settings
from genobird.scoring.effects import DISTANCE, LLR, LLR_SE, PROMOTER
from genobird.scoring.haplotype_effects import Haplotypes
from genobird.scoring.identity import hash_of_file
from genobird.scoring.journal import Journal, NoJournal, kept, may_replace
from genobird.scoring.listing import run_facts, table_facts, variant_identity
from genobird.scoring.parts import Part, parts_of
from genobird.scoring.ranking import relative_sizes
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.shard import HEADER_KEY, Shard, ShardNote, require_shardable
from genobird.scoring.table import TableWriter
from genobird.scoring.variants import require_contigs, screen, without_skipped

logger = logging.getLogger(__name__)

STATUS = InfoField("GB_STATUS", f"genobird status of each ALT: {' '.join(Status)}", type="String")
GB_EVALUE = InfoField(
    "GB_EVALUE", "Share of the background variants with effects at least as large, 1/(n+1) or more"
)
GB_PROMOTER = InfoField("GB_PROMOTER", "Promoter logit, ALT - REF, the variant as start")
GB_LLR = InfoField("GB_LLR", "Masked-LM log-likelihood ratio of ALT to REF, nats")
GB_LLR_SE = InfoField("GB_LLR_SE", "Standard error of GB_LLR between segmentations, nats")
GB_EMBEDDING = InfoField("GB_EMBEDDING", "Cosine distance between hidden states of REF and ALT")
GB_CHROMATIN = InfoField("GB_CHROMATIN", "Chromatin logit, ALT - REF, of the feature in GB_TOP")
GB_TOP = InfoField(
    "GB_TOP",
    "Chromatin feature whose logit changes most relative to background variants",
    type="String",
)
_ACCESSIBLE = "DNase"
GB_LIFTED = (
    InfoField("GB_LIFTED_CHROM", "Contig that REF was lifted to", type="String", number="."),
    InfoField("GB_LIFTED_POS", "Where REF was lifted to, 1-based", type="Integer", number="."),
    InfoField("GB_LIFTED_STRAND", "Strand REF was lifted to", type="String", number="."),
)

# Above this share of REF mismatches the reference is more likely wrong than the alleles.
_SUSPICIOUS = 0.1


def info_fields(
    scorer: Scorer, lifted: bool = False, settings: EffectSettings = DEFAULT
) -> list[InfoField]:
    """Return the INFO keys that a model gives, and where the variants were lifted to."""
    parts = scorer.checkpoint
    return [
        STATUS,
        *(GB_LIFTED if lifted else ()),
        *([GB_EVALUE] if scorer.background is not None else []),
        *([GB_PROMOTER] if parts.promoter is not None else []),
        *([GB_LLR] if parts.mlm is not None else []),
        *([GB_LLR_SE] if parts.mlm is not None and settings.segmentations > 1 else []),
        *([GB_EMBEDDING] if settings.embedding else []),
        *([GB_CHROMATIN, GB_TOP] if parts.chromatin is not None else []),
        *([_gb_dnase(cells)] if (cells := _accessible(scorer)) else []),
    ]


def _accessible(scorer: Scorer) -> list[str]:
    """Return the columns of the features of chromatin accessibility."""
    kinds = scorer.checkpoint.features["class"]
    return [name for name, kind in zip(scorer.features, kinds, strict=True) if kind == _ACCESSIBLE]


def _gb_dnase(columns: Sequence[str]) -> InfoField:
    cells = ", ".join(dict.fromkeys(name.split("|")[0] for name in columns))
    return InfoField("GB_DNASE", f"DNase accessibility logit, ALT - REF, mean over {cells}")


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
    phased: str | None = None,
    shard: Shard | None = None,
    settings: EffectSettings = DEFAULT,
    resume: bool = False,
    force: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Score the variants of a VCF and write it with INFO added; memory is that of a few records.

    Until the output is complete, what is scored is kept in `<output>.partial`; see `journal`.

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
        phased: sample whose ALTs on a haplotype are also scored together: `haplotype_effects`.
        shard: write only the records of this shard, as `.vcf.gz` and `.parquet`; see `merge`.
        settings: see `screen_variants`.
        resume: go on with an interrupted run of the same output, if there was one.
        force: replace existing outputs and, without `resume`, what an interrupted run has scored.
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
    chains = chain_file(liftover)
    path = source.source if isinstance(source, streams.Peeked) else source
    if shard is not None:
        require_shardable(scorer.model_hash, path, output, table)
    replace = may_replace(output, force=force, resume=resume)
    with ExitStack() as stack:
        genome = stack.enter_context(opened(fasta))
        reader = stack.enter_context(VcfReader(source))
        warn_of_training(scorer.checkpoint.provenance, genome)
        warn_of_settings(scorer.background, settings)
        first = [record.variants() for record in reader.peek(SAMPLE)]
        locator = place_on(
            genome, FLANK, reader.name, reader.header, first, chains, not ignore_build
        )
        identity = variant_identity(scorer, locator, policy, features, settings)
        haplotypes = None
        if phased is not None:
            haplotypes = stack.enter_context(
                Haplotypes(scorer, path, phased, locator, features, settings)
            )
            identity = {**identity, "phased": phased, "calls": hash_of_file(path)}
        meta = run_facts(scorer, command, chains)
        if shard is not None:
            run = {**identity, "input": hash_of_file(path), "ref_mismatch": policy.value}
            meta[HEADER_KEY] = ShardNote(shard, scorer.chunk, run).text()
            identity = {**identity, "shard": str(shard)}
        files = [output] if table is None else [output, table]
        journal = stack.enter_context(kept(files, identity, force=force, resume=resume))
        writer = None
        if table is not None:
            writer = stack.enter_context(TableWriter(table, force=replace, meta=table_facts(meta)))
        work = _Pass(
            scorer,
            locator,
            policy,
            features,
            settings,
            haplotypes,
            shard,
            journal,
            writer,
            progress,
        )
        annotate(
            reader,
            output,
            info_fields(scorer, chains is not None, settings)
            + (haplotypes.fields if haplotypes else []),
            work.values,
            genome=genome if chains is None else None,  # what is written is of the old assembly
            meta=meta,
            force=replace,
            wanted=work.wanted,
        )
        work.warn()
    return work.counts


@dataclass
class _Pass:
    """One pass over the records of a VCF."""

    scorer: Scorer
    locator: Locator
    policy: RefMismatch
    features: Sequence[str] | None
    settings: EffectSettings
    haplotypes: Haplotypes | None
    shard: Shard | None
    journal: Journal | NoJournal
    table: TableWriter | None
    progress: Callable[[int], None] | None
    counts: Counter[str] = field(default_factory=Counter)
    ends: dict[str, int] = field(default_factory=dict)
    """The largest position on each contig that lies beyond its end."""

    @property
    def wanted(self) -> Callable[[Record], bool] | None:
        """What tells the records of a shard; None where all belong to this run."""
        shard, size = self.shard, self.scorer.chunk
        return None if shard is None else lambda record: shard.takes(record.number // size)

    def values(self, records: Iterator[Record]) -> Iterator[tuple[Record, Values]]:
        """Yield each record with its INFO, and write its rows; at the end, finish the table."""
        always = self.haplotypes is not None  # what a genotype says needs no score
        cut = partial(parts_of, size=self.scorer.chunk, locator=self.locator, policy=self.policy)
        for part in cut(records, Record.variants, always=always, text=Record.text_size):
            yield from zip(part.items, self._infos(part), strict=True)
            if self.progress is not None:
                self.progress(len(part.items))
        if self.shard is None:  # the records of a shard may happen to lie on an odd contig
            require_contigs(self.counts, self.locator.genome)
        if self.table is not None:
            if not self.counts:
                self.table.write(self._frame([]))
            self.table.finish()
        self.journal.seal()

    def warn(self) -> None:
        """Warn of what makes one doubt that VCF and genome belong together."""
        _warn_of_mismatches(self.counts, self.locator.genome)
        if self.haplotypes is not None:
            self.haplotypes.warn()
        if self.ends:
            logger.warning(
                "%d alleles lie beyond the end of their contig: %s",
                *(
                    self.counts[Status.OUT_OF_BOUNDS.value],
                    beyond(self.ends, self.locator.genome),
                ),
            )

    def _infos(self, part: Part[Record]) -> Iterator[Values]:
        """Return the INFO values of each record, and write its rows."""
        statuses = [locus.status.value for locus in part.loci]
        self.counts.update(statuses)
        if Status.OUT_OF_BOUNDS.value in statuses:
            self._note_ends(part)
        number = part.items[-1].number // self.scorer.chunk
        if not part.is_scored:
            self.journal.skip(number)
        columns: dict[str, list[Value]] = {}
        if part.is_scored or self.table is not None:
            frame = self._frame(part.items, number if part.is_scored else None)
            if self.table is not None:
                self.table.write(without_skipped(frame, self.policy))
            if part.is_scored:
                columns = _columns(frame, self.scorer)
            if self.haplotypes is not None:
                columns |= self.haplotypes.info(frame)
        places = _places(part.loci) if self.locator.chain else {}
        return _info(part.items, statuses, columns, places, self.policy)

    def _frame(self, records: Sequence[Record], number: int | None = None) -> pd.DataFrame:
        """Return the rows of records; those of a chunk with a number are kept in the journal."""
        alleles = [a for r in records for a in alleles_of(r.number, r.variants())]

        def score() -> pd.DataFrame:
            frame = screen(
                self.scorer, alleles, self.locator, self.policy, self.features, self.settings
            )
            if self.haplotypes is None:
                return frame
            return pd.concat([frame, self.haplotypes.columns(alleles)], axis=1)

        return score() if number is None else self.journal.frame(number, map(str, alleles), score)

    def _note_ends(self, part: Part[Record]) -> None:
        """Keep the largest position of each contig that lies beyond its end."""
        variants = (variant for record in part.items for variant in record.variants())
        for variant, locus in zip(variants, part.loci, strict=True):
            if locus.status is Status.OUT_OF_BOUNDS and variant.position >= 0:
                largest = self.ends.get(variant.contig, 0)
                self.ends[variant.contig] = max(variant.position + 1, largest)


def _columns(frame: pd.DataFrame, scorer: Scorer) -> dict[str, list[Value]]:
    """Return the INFO values of each row, by key."""
    columns: dict[str, list[Value]] = {}
    for key, name in (
        (GB_EVALUE, EVALUE),
        (GB_PROMOTER, f"{PROMOTER}|delta"),
        (GB_LLR, f"{LLR}|delta"),
        (GB_LLR_SE, LLR_SE),
        (GB_EMBEDDING, DISTANCE),
    ):
        if name in frame.columns:
            columns[key.id] = [_value(x) for x in frame[name]]
    names = [name for name in scorer.features if f"{name}|delta" in frame.columns]
    if names:
        columns[GB_CHROMATIN.id], columns[GB_TOP.id] = _top(frame, names, scorer.background)
    if cells := [name for name in _accessible(scorer) if name in names]:
        means = frame[[f"{name}|delta" for name in cells]].mean(axis=1)
        columns[_gb_dnase(cells).id] = [_value(x) for x in means]
    return columns


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
        present = {key: values for key, values in scored.items() if _any(values)}
        lifted = {key: values[first : first + 1] for key, values in places.items() if values[first]}
        yield {STATUS.id: statuses[rows], **lifted, **present}


def _places(loci: Sequence[Locus]) -> dict[str, list[Value]]:
    """Return where each allele was lifted to, by INFO key."""
    places = [locus.place for locus in loci]
    contig, start, strand = (field.id for field in GB_LIFTED)
    return {
        contig: [place.contig if place else None for place in places],
        start: [place.start + 1 if place else None for place in places],
        strand: [place.strand if place else None for place in places],
    }


def _any(values: Sequence[Value]) -> bool:
    return any(value is not None for value in values)


def _top(
    frame: pd.DataFrame, names: Sequence[str], background: Background | None
) -> tuple[list[Value], list[Value]]:
    """Return the change of the feature that leads in each row (`ranking`), and its name."""
    ref, alt, values = (
        frame[[f"{name}|{part}" for name in names]].to_numpy() for part in ("ref", "alt", "delta")
    )
    sizes = relative_sizes(ref, alt, names, background)
    best = np.nan_to_num(sizes, nan=-1.0).argmax(axis=1)
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
