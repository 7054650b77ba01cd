"""The genome: which contigs FASTA files hold, whether they are GRCh37's, and one file of all."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated

import pysam
import typer
from Bio.bgzf import BgzfWriter

from genobird.errors import AssemblyError, ContigError, UsageError
from genobird.files import refuse_existing
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import n_runs
from pipelines import manifest, steps
from pipelines.manifest import Manifest

logger = logging.getLogger(__name__)

LINE = 60
CHUNK = 1000 * LINE


@dataclass(frozen=True)
class Contig:
    """One contig, opened for reading."""

    genome: Genome
    name: str
    """Its name in the FASTA file."""
    length: int
    """Base pairs."""

    def sequence(self) -> str:
        """The whole contig, upper-case."""
        return self.genome.fetch(Interval(self.name, 0, self.length))


@contextmanager
def locate(fastas: Sequence[Path], contigs: Sequence[str]) -> Iterator[dict[str, Contig]]:
    """Open FASTA files and yield those of `contigs` that they hold, by the names asked for.

    Names may differ in style (`20`, `chr20`, `NC_000020.10`). A contig that no file holds is left
    out.

    Raises:
        UsageError: a file is missing, two files hold one contig, or no contig is found.
    """
    with ExitStack() as stack:
        found: dict[str, Contig] = {}
        for path in fastas:
            genome = stack.enter_context(Genome(steps.require(path)))
            for asked in contigs:
                try:
                    name = genome.resolve(asked)
                except ContigError:
                    continue
                if asked in found:
                    raise UsageError(
                        f"{asked} is in {found[asked].genome.path} and in {path}; give one of them"
                    )
                found[asked] = Contig(genome, name, genome.contigs[name])
        if not found:
            files = ", ".join(str(path) for path in fastas)
            raise UsageError(f"{files}: none of the contigs {', '.join(contigs)} is there")
        missing = [contig for contig in contigs if contig not in found]
        if missing:
            logger.info("no sequence for %s", ", ".join(missing))
        yield {contig: found[contig] for contig in contigs if contig in found}


@dataclass(frozen=True)
class ContigReport:
    """What a FASTA file has of one contig of the assembly."""

    path: Path
    contig: str
    """Name in the manifest."""
    name: str
    """Name in the file."""
    length: int
    expected: int
    known: int
    """Bases that are not N."""

    @property
    def whole(self) -> bool:
        """Whether the contig has its full length."""
        return self.length == self.expected


def check(
    fastas: Sequence[Path], facts: Manifest, allow_prefix: bool = False
) -> list[ContigReport]:
    """Compare contig names and lengths with the manifest's.

    Contigs that the manifest does not list (patches, decoys) are passed over with a log line. With
    `allow_prefix` a contig may end early; coordinates in it are true all the same.

    Returns:
        One report a listed contig, in file order.

    Raises:
        AssemblyError: a contig is longer than the manifest's, or is shorter without `allow_prefix`.
        UsageError: a file is missing or holds no listed contig.
    """
    reports: list[ContigReport] = []
    for path in fastas:
        with Genome(steps.require(path)) as genome:
            names = {}
            for contig in facts.contigs:
                try:
                    names[genome.resolve(contig)] = contig
                except ContigError:
                    continue
            for name, length in genome.contigs.items():
                if name not in names:
                    logger.info("%s: %s is no contig of %s", path, name, facts.assembly)
                    continue
                expected = facts.contigs[names[name]]
                if length > expected or (length < expected and not allow_prefix):
                    raise AssemblyError(
                        f"{path}: {name} has {length:,} bp, {facts.assembly} has {expected:,} bp; "
                        "is it another assembly? (--allow-prefix accepts a contig that ends early)"
                    )
                text = genome.fetch(Interval(name, 0, length))
                known = length - sum(end - start for start, end in n_runs(text))
                reports.append(ContigReport(path, names[name], name, length, expected, known))
    if not reports:
        files = ", ".join(str(path) for path in fastas)
        raise UsageError(f"{files}: no contig of {facts.assembly} is there")
    return reports


def write_bgzf(
    contigs: Iterable[tuple[str, str]], output: Path, force: bool = False, level: int = 6
) -> None:
    """Write contigs (name, sequence) as a BGZF FASTA with lines of 60 bases, and its indexes.

    Raises:
        UsageError: `output` exists and `force` is not set, or it does not end in `.gz`.
    """
    if output.suffix != ".gz":
        raise UsageError(f"{output} must end in .fa.gz: it is written as BGZF")
    with steps.new_file(output, force) as part:
        with BgzfWriter(str(part), "wb", compresslevel=level) as file:
            for name, sequence in contigs:
                file.write(f">{name}\n".encode())
                for start in range(0, len(sequence), CHUNK):
                    chunk = sequence[start : start + CHUNK]
                    lines = [chunk[i : i + LINE] for i in range(0, len(chunk), LINE)]
                    file.write(("\n".join(lines) + "\n").encode())
        pysam.faidx(str(part))  # both indexes lie beside it, and get their names with it


app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Check, join or prepare a genome."
)

Fastas = Annotated[list[Path], typer.Argument(help="FASTA files: plain, gzip or BGZF.")]
Output = Annotated[Path, typer.Option(help="BGZF FASTA to write (.fa.gz).")]
Facts = Annotated[str, typer.Option("--manifest", help="Manifest with the contig lengths.")]
Prefix = Annotated[bool, typer.Option("--allow-prefix", help="Accept contigs that end early.")]


@app.command("check")
def check_command(fastas: Fastas, facts: Facts = "grch37", allow_prefix: Prefix = False) -> None:
    """Report which contigs are there, how long they are and how much of them is known."""
    reports = check(fastas, manifest.load(facts), allow_prefix)
    typer.echo("file\tcontig\tname\tlength\texpected\tknown_bp\tstatus")
    for report in reports:
        status = "whole" if report.whole else "prefix"
        typer.echo("\t".join(map(str, (*astuple(report), status))))


@app.command("join")
def join(fastas: Fastas, output: Output, force: steps.Force = False) -> None:
    """Write the contigs of several FASTA files, in their order, as one indexed BGZF FASTA.

    Any genome will do. A contig that is in two files is refused.
    """
    refuse_existing(output, force)
    first: dict[str, Path] = {}
    with ExitStack() as stack:
        genomes = [stack.enter_context(Genome(steps.require(path))) for path in fastas]
        for genome in genomes:
            for name in genome.contigs:
                if name in first:
                    raise UsageError(
                        f"contig {name} is in {first[name]} and in {genome.path}; give one of them"
                    )
                first[name] = genome.path
        write_bgzf((contig for genome in genomes for contig in genome.stream()), output, force)


@app.command("prepare")
def prepare(
    fastas: Fastas,
    output: Output,
    facts: Facts = "grch37",
    allow_prefix: Prefix = False,
    force: steps.Force = False,
) -> None:
    """Write the assembly's contigs as one indexed BGZF FASTA, in its order and with UCSC names."""
    refuse_existing(output, force)
    known = manifest.load(facts)
    check(fastas, known, allow_prefix)
    with locate(fastas, list(known.contigs)) as contigs:
        whole = ((name, contig.sequence()) for name, contig in contigs.items())
        write_bgzf(whole, output, force)


if __name__ == "__main__":
    steps.run(app)
