"""Draw a corpus from FASTA files, contig by contig, and write it as a directory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import genobird
from genobird.corpus.sampling import (
    CorpusSettings,
    Rows,
    draw,
    inside_regions,
    span_bp,
    too_much_n,
)
from genobird.corpus.store import (
    INDEX,
    SENTENCES,
    Corpus,
    CorpusIndex,
    Counts,
    FastaRecord,
    Group,
    joint_sha256,
    read,
)
from genobird.errors import ContigError, InputError, UsageError
from genobird.files import Draft, Kind, file_sha256, refuse_existing
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import n_runs

logger = logging.getLogger(__name__)

KIND = Kind("corpus", INDEX, '"genobird-corpus-1"')
_SCHEMA = pa.schema(
    [
        ("pass", pa.uint16()),
        ("document", pa.uint32()),
        ("contig", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.uint32()),
        ("end", pa.uint32()),
        ("strand", pa.dictionary(pa.int8(), pa.string())),
    ]
)


def build(
    fastas: Sequence[Path],
    output: Path,
    settings: CorpusSettings | None = None,
    regions: Sequence[Interval] | None = None,
    force: bool = False,
) -> Corpus:
    """Draw a corpus from FASTA files, contig by contig, and write it as a directory.

    Args:
        fastas: FASTA files; contig names have to be unique over all of them.
        output: Directory to make; it appears only when it is complete.
        settings: The law; the paper's by default.
        regions: Keep only sentences that lie wholly inside one of these (the split); all if None.
        force: Replace a corpus that is already there.

    Raises:
        UsageError: The output exists and `force` is not given, or it is no corpus; or no FASTA is
            given.
        InputError: Two contigs have one name, or no sentence is left.
        ContigError: A region names a contig of none of the files.
        OutputError: The directory cannot be written.
    """
    settings = settings or CorpusSettings()
    if not fastas:
        raise UsageError("no FASTA file is given; give one or more")
    refuse_existing(output, force, KIND)
    genomes = [Genome(path) for path in fastas]
    by_contig = None if regions is None else _by_contig(genomes, regions)
    with Draft(output) as part:
        part.mkdir()
        _Writer(settings, by_contig).write(part, genomes)
    return read(output)


class _Writer:
    """Keeps what the index will say while contigs go by."""

    def __init__(self, settings: CorpusSettings, regions: dict[str, list[Interval]] | None) -> None:
        self.settings = settings
        self.regions = regions
        self.lengths: list[dict[str, int]] = []
        self.groups: list[Group] = []
        self.totals = dict.fromkeys(Counts.model_fields, 0)

    def write(self, folder: Path, genomes: Sequence[Genome]) -> None:
        with pq.ParquetWriter(folder / SENTENCES, _SCHEMA, compression="zstd") as parquet:
            for genome in genomes:
                self.lengths.append({})
                for contig, sequence in genome.stream():
                    self._name(contig, len(sequence), genome)
                    runs = n_runs(sequence)
                    for pass_index in range(self.settings.passes):
                        self._write_pass(parquet, contig, pass_index, len(sequence), runs)
                    logger.info("%s drawn: %d bp kept so far", contig, self.totals["bp"])
        if not self.groups:
            raise InputError(
                f"no sentence is left ({self.totals['dropped_region']:,} lie outside the regions, "
                f"{self.totals['dropped_n']:,} hold too much N); widen the regions or "
                "max_n_fraction, or give longer contigs"
            )
        index = self._index(genomes, file_sha256(folder / SENTENCES))
        (folder / INDEX).write_text(index.model_dump_json(indent=1) + "\n")

    def _name(self, contig: str, length: int, genome: Genome) -> None:
        if any(contig in known for known in self.lengths):
            raise InputError(
                f"contig {contig} of {genome.path} is in another FASTA file too; "
                "rename it or leave one file out"
            )
        self.lengths[-1][contig] = length

    def _write_pass(
        self,
        parquet: Any,
        contig: str,
        pass_index: int,
        length: int,
        runs: Sequence[tuple[int, int]],
    ) -> None:
        rows = draw(length, self.settings, contig, pass_index)
        if self.regions is not None:
            inside = inside_regions(rows, self.regions.get(contig, []))
            self.totals["dropped_region"] += int((~inside).sum())
            rows = rows[inside]
        dropped = too_much_n(rows, runs, self.settings.max_n_fraction)
        self.totals["dropped_n"] += int(dropped.sum())
        rows = rows[~dropped]
        if not len(rows):
            return
        self.totals["sentences"] += len(rows)
        self.totals["documents"] += len(np.unique(rows["document"]))
        self.totals["bp"] += int(span_bp(rows).sum())
        self.groups.append(Group(contig=contig, pass_index=pass_index, sentences=len(rows)))
        parquet.write_table(_table(rows, contig, pass_index), row_group_size=len(rows))

    def _index(self, genomes: Sequence[Genome], sentences_sha256: str) -> CorpusIndex:
        fastas = tuple(
            FastaRecord(path=str(genome.path.resolve()), sha256=genome.sha256(), contigs=contigs)
            for genome, contigs in zip(genomes, self.lengths, strict=True)
        )
        return CorpusIndex(
            version=genobird.__version__,
            settings=self.settings,
            regions=_flat(self.regions),
            genome_sha256=joint_sha256(*(record.sha256 for record in fastas)),
            fastas=fastas,
            counts=Counts(**self.totals),
            sentences_sha256=sentences_sha256,
            groups=tuple(self.groups),
        )


def _table(rows: Rows, contig: str, pass_index: int) -> Any:
    strands = pa.DictionaryArray.from_arrays(pa.array(rows["reverse"].astype(np.int8)), ["+", "-"])
    zeros = pa.array(np.zeros(len(rows), dtype=np.int32))
    columns = [
        pa.array(np.full(len(rows), pass_index, dtype=np.uint16)),
        pa.array(rows["document"].copy()),
        pa.DictionaryArray.from_arrays(zeros, [contig]),
        pa.array(rows["start"].copy()),
        pa.array(rows["end"].copy()),
        strands,
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _by_contig(genomes: Sequence[Genome], regions: Sequence[Interval]) -> dict[str, list[Interval]]:
    """Group regions by the contig's name in the FASTA."""
    names: dict[str, str] = {}
    for name in {region.contig for region in regions}:
        *others, last = genomes
        for genome in others:
            with contextlib.suppress(ContigError):
                names.setdefault(name, genome.resolve(name))
        if name not in names:
            names[name] = last.resolve(name)
    grouped: dict[str, list[Interval]] = {}
    for region in regions:
        grouped.setdefault(names[region.contig], []).append(region)
    return grouped


def _flat(regions: dict[str, list[Interval]] | None) -> tuple[tuple[str, int, int], ...] | None:
    if regions is None:
        return None
    return tuple((name, r.start, r.end) for name, group in regions.items() for r in group)
