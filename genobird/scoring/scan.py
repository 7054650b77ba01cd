"""One pass over variants: records come in, scores are made, and every sink gets both.

    records    of a VCF, a table or a list (`alleles`)
    batches    chunks cut at fixed record numbers; those in which nothing is scored are joined
    table      one row per ALT: scored now (`effects`), or kept by an earlier run (`journal`)
    sinks      VCF, table, tables of older tools, background: each gets every batch, in order

A chunk that costs the model no work needs no entry in the journal, no table unless a sink wants it,
and no progress of its own: such chunks are joined, so that what is done once for each batch is
cheap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import pandas as pd

from genobird.columns import GENE, GENE_DISTANCE
from genobird.errors import AssemblyError, counted
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locus, warn_of_training
from genobird.genome.starts import Starts
from genobird.genome.variant import Status, Variant
from genobird.genome.vcf import Record
from genobird.runs import Identity
from genobird.scoring.alleles import Allele, VariantSource, alleles_of
from genobird.scoring.background import warn_of_settings
from genobird.scoring.effects import first_output, scored_locus, screen
from genobird.scoring.haplotypes import Haplotypes
from genobird.scoring.journal import NO_JOURNAL, Journal, hash_of_file, hash_of_genome, identity_of
from genobird.scoring.parts import Part
from genobird.scoring.scorer import Scorer
from genobird.scoring.settings import RefMismatch, ScanSettings
from genobird.scoring.table import in_chunks, text_column
from genobird.scoring.workers import Workers

# No chunk is joined to those that hold so many alleles, or so much text.
_ALLELES: Final = 1_024
_CHARACTERS: Final = 1 << 22


@dataclass
class Batch:
    """One chunk in which something is scored, or successive chunks in which nothing is."""

    records: list[Record]
    loci: list[Locus]
    """Where each ALT lies, with its status."""
    is_scored: bool
    score: Callable[[Sequence[Allele]], pd.DataFrame]
    text: int = 0
    """Characters that the records hold beside their alleles."""

    @cached_property
    def statuses(self) -> list[str]:
        """The status of each ALT."""
        return [locus.status.value for locus in self.loci]

    @cached_property
    def alleles(self) -> list[Allele]:
        """Each ALT."""
        return [allele for record in self.records for allele in alleles_of(record)]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per ALT; see `effects.screen`. It is made when a sink first wants it."""
        return self.score(self.alleles)

    @property
    def is_large(self) -> bool:
        """Whether nothing is to be joined to it."""
        return len(self.loci) >= _ALLELES or self.text >= _CHARACTERS


Sink = Callable[[Batch], object]
"""Takes batches, in the order of their records; at least one, which may be empty."""


class VariantScan:
    """Variants that lie on a genome, about to be scored: all, or a part of the records.

    Sinks read all columns of the table, or those that are named.

    Raises:
        AssemblyError: the variants are of another assembly.
    """

    def __init__(
        self,
        scorer: Scorer,
        source: VariantSource,
        genome: Genome,
        settings: ScanSettings,
        *,
        part: Part | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        warn_of_training(scorer.checkpoint.provenance, genome)
        warn_of_settings(scorer.background, settings.effects)
        self.scorer, self.source, self.settings = scorer, source, settings
        self.locator = source.locator(genome, settings.liftover, not settings.ignore_build)
        self.haplotypes: Haplotypes | None = None
        """Adds columns about the haplotypes of a sample; every chunk then counts as scored."""
        self.starts = Starts(Path(settings.genes), genome) if settings.genes else None
        """Adds the nearest start of a gene to the table."""
        self._part, self._columns = part, columns

    @property
    def identity(self) -> Identity:
        """What decides the scores."""
        chain, background = self.locator.chain, self.scorer.background
        swaps = self.settings.policy is RefMismatch.SWAP
        return identity_of(
            self.scorer,
            self.settings.features,
            genome=hash_of_genome(self.locator.genome),
            liftover=hash_of_file(chain.path) if chain else "no",
            background=background.hash if background else "none",
            genes=hash_of_file(self.settings.genes) if self.settings.genes else "none",
            **{"--ref-mismatch": "swap" if swaps else "flag, skip or error"},
            **self.settings.effects.identity,
        )

    def run(self, sinks: Sequence[Sink], journal: Journal = NO_JOURNAL) -> Counter[str]:
        """Hand every batch to every sink.

        Returns:
            How many ALTs have each status; their sum is the number of ALTs (1 for a record
            without).

        Raises:
            AssemblyError: no variant lies on a contig of the genome; or, with the policy `error`,
                REF differs.
            VcfError, TableError, UsageError: the variants cannot be read.
        """
        counts: Counter[str] = Counter()
        with Workers(self._score, journal.processes) as workers:
            for batch, scored in workers.ahead(self._begun(journal, workers)):
                counts.update(batch.statuses)
                if scored is not None:
                    batch.table = scored()
                for sink in sinks:
                    sink(batch)
        if self._part is None:  # the records of a part may happen to lie on an odd contig
            require_contigs(counts, self.locator.genome)
        if not counts:
            for sink in sinks:
                sink(Batch([], [], False, self._score))
        return counts

    def _begun(
        self, journal: Journal, workers: Workers[Sequence[Allele], pd.DataFrame]
    ) -> Iterator[tuple[Batch, Callable[[], pd.DataFrame] | None]]:
        """Begin batch after batch; what gives the table comes with one that is scored."""
        for batch in self._batches():
            number = batch.records[-1].number // self.scorer.chunk
            if batch.is_scored:
                begin = partial(workers.begin, batch.alleles)
                yield batch, journal.begin(number, map(str, batch.alleles), begin)
            else:
                journal.skip(number)
                yield batch, None

    def _batches(self) -> Iterator[Batch]:
        joined: Batch | None = None
        for records in in_chunks(self._records(), self.scorer.chunk):
            alleles = [variant for record in records for variant in record.variants()]
            loci = [self.locator.find(variant) for variant in alleles]
            is_scored = self.haplotypes is not None or any(map(self._is_scored, alleles, loci))
            if joined is not None and (is_scored or joined.is_large):
                yield joined
                joined = None
            if is_scored:
                yield Batch(records, loci, is_scored, self._score)
                continue
            joined = joined or Batch([], [], is_scored, self._score)
            joined.records += records
            joined.loci += loci
            joined.text += sum([record.text_size() for record in records])
        if joined is not None:
            yield joined

    def _records(self) -> Iterator[Record]:
        part, size = self._part, self.scorer.chunk
        if part is None:
            return self.source.records
        return (one for one in self.source.records if part.takes(one.number // size))

    def _is_scored(self, variant: Variant, locus: Locus) -> bool:
        return scored_locus(variant, locus, self.locator, self.settings.policy) is not None

    def _score(self, alleles: Sequence[Allele]) -> pd.DataFrame:
        settings = self.settings
        table = screen(
            self.scorer, alleles, self.locator, settings.policy, settings.features, settings.effects
        )
        if self.starts is not None:
            self._insert_genes(table, alleles, self.starts)
        if self.haplotypes is not None:
            table = pd.concat([table, self.haplotypes.columns(alleles)], axis=1)
        return table if self._columns is None else table[self._columns]

    def _insert_genes(self, table: pd.DataFrame, alleles: Sequence[Allele], starts: Starts) -> None:
        """Insert `gene` and `gene_distance` before the outputs; nothing of what lies nowhere."""
        loci = [self.locator.find(allele.variant) for allele in alleles]
        near = [
            starts.nearest(locus.variant.contig, locus.variant.position)
            if locus.status is Status.OK
            else None
            for locus in loci
        ]
        first = first_output(table)
        distances = pd.Series([found and found[1] for found in near], dtype="Int64")
        table.insert(first, GENE_DISTANCE, distances)
        table.insert(first, GENE, text_column([found[0] if found else None for found in near]))


def require_contigs(counts: Counter[str], genome: Genome) -> None:
    """Refuse variants none of which lies on a contig of the genome by an AssemblyError."""
    total = counts.total()
    if total and counts[Status.NO_CONTIG.value] == total:
        known = ", ".join(list(genome.contigs)[:5])
        raise AssemblyError(
            f"none of {counted(total, 'allele')} lies on a contig of {genome.path}, which begins "
            f"with {known}; give the FASTA of the assembly that the variants were called on"
        )
