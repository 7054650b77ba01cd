"""EPDnew as EPD publishes it -> one base a promoter on GRCh37, for `pipelines.promoters`.

Read are EPD's own downloads, told apart by their lines:

    .bed   60 bp a promoter, 49 before the transcription start, the start itself and 10 behind it,
           along the strand; or one base, the start (`EPDnew_select`)
    .sga   RefSeq accession, `TSS`, position (1-based), strand, count, name

With `--chain` the starts are lifted from GRCh38; what has no place, or several, is counted and
named in the output's header. A start is kept when its base has exactly one place, on a contig that
is no patch or haplotype; its strand is turned where the chain turns. With `--fasta` the initiator
is looked for: at most human starts a pyrimidine stands before a purine, and nowhere else near them,
which tells an off-by-one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from genobird.errors import AssemblyError, BedError, InputError
from genobird.files import refuse_existing
from genobird.genome import assemblies, streams
from genobird.genome.chain import ChainFile
from genobird.genome.interval import Interval, read_bed
from genobird.genome.sequence import reverse_complement
from genobird.genome.streams import whole
from pipelines import grch37, manifest, steps

logger = logging.getLogger(__name__)

UPSTREAM, DOWNSTREAM = 49, 10
"""Bases before and behind the start in EPD's BED files."""
SHIFTS = range(-3, 4)
_FEWEST = 100  # promoters that the initiator is judged by


def lift(
    promoters: Iterable[Interval], chain: Path, contigs: Iterable[str]
) -> tuple[list[Interval], Counter[str]]:
    """Lift intervals of one base.

    Args:
        promoters: intervals of one base, 0-based half-open.
        chain: UCSC chain file, plain or gzip, from their assembly to the other.
        contigs: contigs of the other assembly that a promoter may lie on.

    Returns:
        Those with one place, sorted, and how many were dropped, by reason.

    Raises:
        UsageError: there is no such chain.
        ChainError: it cannot be read.
    """
    chains = ChainFile(steps.require(chain))
    wanted = set(contigs)
    lifted: list[Interval] = []
    dropped: Counter[str] = Counter()
    for promoter in promoters:
        place = chains.lift(promoter)
        if place is None:
            several = chains.places(promoter.contig, promoter.start, promoter.end)
            dropped["several places" if several else "no place"] += 1
        elif place.contig not in wanted:
            dropped["on a contig that is not listed"] += 1
        else:
            lifted.append(place)
    return sorted(lifted), dropped


def read_promoters(path: Path) -> tuple[list[Interval], str | None]:
    """Read transcription starts of EPDnew.

    Returns:
        Intervals of one base with strand and name, in file order, and the assembly that the
        accessions name; None where there are none.

    Raises:
        UsageError: there is no such file.
        BedError: a line is neither of the formats.
        AssemblyError: accessions of several assemblies.
    """
    steps.require(path)
    lines = streams.lines(path, BedError)
    first = next((line for line in lines if line.strip() and line[0] != "#"), "")
    if first.split("\t")[1:2] == ["TSS"]:
        return _read_sga(path)
    return [_start(interval, path) for interval in read_bed(path)], None


def _start(interval: Interval, path: Path) -> Interval:
    """Return the transcription start of a line of BED."""
    length = UPSTREAM + 1 + DOWNSTREAM
    if interval.strand not in "+-" or interval.length not in (1, length):
        raise BedError(
            f"{path}: {interval.name or interval} covers {interval.length} bp on strand "
            f"{interval.strand}; promoters of EPDnew are {length} bp or 1 bp on strand + or -"
        )
    offset = UPSTREAM if interval.strand == "+" else DOWNSTREAM
    start = interval.start + (offset if interval.length > 1 else 0)
    return Interval(interval.contig, start, start + 1, interval.strand, interval.name)


def _read_sga(path: Path) -> tuple[list[Interval], str | None]:
    promoters = []
    found: set[str] = set()
    for number, line in enumerate(streams.lines(path, BedError), start=1):
        columns = line.rstrip("\r\n").split("\t")
        if not line.strip():
            continue
        known = assemblies.chromosome(columns[0])
        start = whole(columns[2]) if len(columns) >= 6 else None
        if known is None or not start:
            raise BedError(
                f"{path}, line {number}: an SGA line is a chromosome's accession, TSS, a position "
                "from 1 on, strand, count and name, separated by tabs"
            )
        chromosome, assembly = known
        if assembly is not None:
            found.add(assembly)
        contig = f"chr{'M' if chromosome == assemblies.MITOCHONDRION else chromosome}"
        promoters.append(Interval(contig, start - 1, start, columns[3], columns[5]))
    if len(found) > 1:
        raise AssemblyError(f"{path} has accessions of {' and '.join(sorted(found))}; give one")
    return promoters, next(iter(found), None)


def initiator_rates(
    promoters: Sequence[Interval], sequences: Mapping[str, str]
) -> tuple[dict[int, float], int]:
    """Return how often a pyrimidine stands before a purine at each shift from the start.

    Promoters, of one base each, that lie on none of the contigs or near N are passed over.

    Returns:
        Shift in bp along the strand -> share, and the number of promoters that were looked at.
    """
    hits: Counter[int] = Counter()
    seen = 0
    reach = max(SHIFTS) + 1
    for promoter in promoters:
        text = sequences.get(promoter.contig, "")
        around = text[max(0, promoter.start - reach) : promoter.start + reach + 1]
        if len(around) < 2 * reach + 1 or "N" in around:
            continue
        if promoter.strand == "-":
            around = reverse_complement(around)
        seen += 1
        for shift in SHIFTS:
            at = reach + shift
            hits[shift] += around[at - 1] in "CT" and around[at] in "AG"
    return {shift: hits[shift] / max(seen, 1) for shift in SHIFTS}, seen


def check_initiators(promoters: Sequence[Interval], sequences: Mapping[str, str]) -> None:
    """Refuse promoters whose initiator lies elsewhere.

    Raises:
        InputError: it is more frequent at another place than at the start itself.
    """
    rates, seen = initiator_rates(promoters, sequences)
    if seen < _FEWEST:
        logger.warning("%d promoters with sequence are too few to look for the initiator", seen)
        return
    best = max(rates, key=lambda shift: rates[shift])
    logger.info("initiator at %.1f %% of %d starts", 100 * rates[0], seen)
    if best:
        raise InputError(
            f"the initiator stands {best:+d} bp from the stated starts ({rates[best]:.0%} against "
            f"{rates[0]:.0%} at them); are the promoters of this assembly, 0-based as BED is?"
        )


def main(
    download: Annotated[Path, typer.Option(help="EPDnew as downloaded: .bed or .sga.")],
    output: Annotated[Path, typer.Option(help="BED on GRCh37 to write, one base each.")],
    chain: Annotated[Path | None, typer.Option(help="hg38ToHg19.over.chain.gz, to lift.")] = None,
    fasta: Annotated[
        list[Path] | None, typer.Option(help="GRCh37, to look for the initiator; repeatable.")
    ] = None,
    facts: Annotated[str, typer.Option("--manifest", help="Contigs to keep.")] = "grch37",
    force: steps.Force = False,
) -> None:
    """Make one base a promoter on GRCh37 of EPDnew's own file."""
    refuse_existing(output, force)
    target = manifest.load(facts)
    promoters, assembly = read_promoters(download)
    counts = {"read": len(promoters)}
    if chain is not None:
        if assembly == target.assembly:
            raise AssemblyError(f"{download} is on {assembly} already; leave out --chain")
        promoters, dropped = lift(promoters, chain, target.contigs)
        counts |= {"lifted": len(promoters), **dict(sorted(dropped.items()))}
    elif assembly not in (None, target.assembly):
        raise AssemblyError(f"{download} is on {assembly}; lift it with --chain")
    else:
        kept = [promoter for promoter in promoters if promoter.contig in target.contigs]
        counts["on a contig that is not listed"] = len(promoters) - len(kept)
        promoters = kept
    if not promoters:
        raise InputError(f"no promoter of {download} has a place on {target.assembly}")
    if fasta:
        with grch37.locate(fasta, list(dict.fromkeys(p.contig for p in promoters))) as contigs:
            check_initiators(promoters, {name: c.sequence() for name, c in contigs.items()})
    header = "".join(f"# {what}: {count}\n" for what, count in counts.items())
    steps.write(output, header + steps.bed(promoters), force)
    for what, count in counts.items():
        logger.info("%s: %d", what, count)


if __name__ == "__main__":
    steps.run(main)
