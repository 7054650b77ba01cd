"""Transcription starts of a gene file, and the nearest one to a place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from genobird.errors import AssemblyError, TableError
from genobird.genome import streams
from genobird.genome.fasta import Genome
from genobird.genome.interval import read_bed
from genobird.genome.streams import whole

_KINDS: Final = {"gene", "transcript", "mRNA"}
# What names a gene, in order: GENCODE's and Ensembl's GTF, NCBI's and Ensembl's GFF3.
_NAMES: Final = [
    re.compile(rf'(?:^|[;\s]){key}[ =]"?([^";]+)')
    for key in ("gene_name", "gene", "Name", "gene_id", "ID")
]


class Start(NamedTuple):
    """A transcription start."""

    contig: str
    position: int
    """0-based."""
    strand: str
    gene: str


class Starts:
    """Transcription starts on a genome.

    Args:
        path: GTF or GFF3, whose genes and transcripts are taken, or BED with names and strands;
            plain or gzip-compressed.
        genome: other names of its contigs (`1` for `chr1`) are understood.

    Raises:
        UsageError: there is no such file.
        TableError: a line cannot be read, or none has a start.
        BedError: a line of a BED cannot be read.
        AssemblyError: no start lies on a contig of the genome.
    """

    def __init__(self, path: Path, genome: Genome) -> None:
        found: dict[str, list[Start]] = {}
        empty = True
        for start in read_starts(path):
            empty = False
            contig = genome.find(start.contig)
            if contig is not None:
                found.setdefault(contig, []).append(start)
        if empty:
            raise TableError(f"{path} has no start of a gene; give a GTF, GFF3 or BED of genes")
        if not found:
            raise AssemblyError(
                f"no gene of {path} lies on a contig of {genome.path}, which begins with "
                f"{', '.join(list(genome.contigs)[:5])}; give the genes of the same assembly"
            )
        self._starts = {
            contig: sorted(starts, key=lambda start: (start.position, start.gene))
            for contig, starts in found.items()
        }
        self._positions = {
            contig: np.array([start.position for start in starts], np.int64)
            for contig, starts in self._starts.items()
        }

    def nearest(self, contig: str, position: int) -> tuple[str, int] | None:
        """Return the gene of the start that is nearest to a 0-based position, and how far it is.

        Returns:
            The gene and the distance in bp along the gene's strand, negative before its start; of
            two as near the one with the smaller position. None on a contig without genes.
        """
        starts = self._starts.get(contig)
        if starts is None:
            return None
        positions = self._positions[contig]
        after = int(np.searchsorted(positions, position))
        near = starts[after : after + 1]
        if after:  # the first of those that are equal
            near.insert(0, starts[int(np.searchsorted(positions, positions[after - 1]))])
        start = min(near, key=lambda one: abs(one.position - position))
        distance = position - start.position
        return start.gene, -distance if start.strand == "-" else distance


def read_starts(path: Path) -> Iterator[Start]:
    """Yield the starts of a GTF, GFF3 or BED file, in its order; see `Starts`."""
    streams.require_file(path)
    name = path.name.removesuffix(".gz").lower()
    if not name.endswith((".gtf", ".gff", ".gff3")):
        for interval in read_bed(path):
            first = interval.end - 1 if interval.strand == "-" else interval.start
            yield Start(interval.contig, first, interval.strand, interval.name)
        return
    for number, line in enumerate(streams.lines(path, TableError), start=1):
        columns = line.rstrip("\r").split("\t")
        if line.startswith("#") or not line.strip() or (columns[2:] and columns[2] not in _KINDS):
            continue
        at = whole(columns[4 if columns[6] == "-" else 3]) if len(columns) >= 9 else None
        if not at:
            raise TableError(
                f"{path}, line {number} is no gene; needed are nine columns separated by tabs, "
                "with start and end, 1-based, in the fourth and fifth"
            )
        gene = next((match[1] for name in _NAMES if (match := name.search(columns[8]))), "")
        yield Start(columns[0], at - 1, columns[6], gene)
