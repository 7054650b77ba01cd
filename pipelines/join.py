"""Several FASTA files -> one, for what reads a single file; any genome, no manifest needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from genobird.errors import UsageError
from genobird.files import refuse_existing
from genobird.genome.fasta import Genome
from pipelines import steps
from pipelines.grch37 import write_bgzf


def join(
    fastas: Annotated[list[Path], typer.Argument(help="FASTA files: plain, gzip or BGZF.")],
    output: Annotated[Path, typer.Option(help="BGZF FASTA to write (.fa.gz).")],
    force: steps.Force = False,
) -> None:
    """Write the contigs of several FASTA files, in their order, as one indexed BGZF FASTA.

    Raises:
        UsageError: a file is missing, a contig is in two of them, or `output` exists and `force` is
            not set.
        FastaError: a file cannot be read as FASTA.
    """
    refuse_existing(output, force)
    with ExitStack() as stack:
        genomes = [stack.enter_context(Genome(steps.require(path))) for path in fastas]
        _refuse_doubles(genomes)
        write_bgzf(_contigs(genomes), output, force)


def _contigs(genomes: Sequence[Genome]) -> Iterator[tuple[str, str]]:
    for genome in genomes:
        yield from genome.stream()


def _refuse_doubles(genomes: Sequence[Genome]) -> None:
    first: dict[str, Path] = {}
    for genome in genomes:
        for name in genome.contigs:
            if name in first:
                raise UsageError(
                    f"contig {name} is in {first[name]} and in {genome.path}; give one of them"
                )
            first[name] = genome.path


if __name__ == "__main__":
    steps.run(join)
