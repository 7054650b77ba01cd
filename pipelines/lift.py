"""EPDnew on GRCh38 -> the same promoters on GRCh37, base by base through a UCSC chain.

A promoter is kept when its base has exactly one place on the other assembly, on a contig that is no
patch or haplotype; its strand is turned where the chain turns. All others are counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from genobird.errors import BedError
from genobird.files import refuse_existing
from genobird.genome.chain import ChainFile
from genobird.genome.interval import Interval, read_bed
from pipelines import manifest, steps

logger = logging.getLogger(__name__)


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
        BedError: an interval is longer than one base.
    """
    chains = ChainFile(steps.require(chain))
    wanted = set(contigs)
    lifted: list[Interval] = []
    dropped: Counter[str] = Counter()
    for promoter in promoters:
        if promoter.length != 1:
            raise BedError(
                f"promoter {promoter.name or promoter} covers {promoter.length} bp, "
                "a TSS is one base"
            )
        place = chains.lift(promoter)
        if place is None:
            several = chains.places(promoter.contig, promoter.start, promoter.end)
            dropped["several places" if several else "no place"] += 1
        elif place.contig not in wanted:
            dropped["on a contig that is not listed"] += 1
        else:
            lifted.append(place)
    return sorted(lifted), dropped


app = typer.Typer(add_completion=False)


@app.command()
def main(
    bed: Annotated[Path, typer.Option(help="Promoters on GRCh38: BED, one base each.")],
    chain: Annotated[Path, typer.Option(help="hg38ToHg19.over.chain.gz.")],
    output: Annotated[Path, typer.Option(help="BED on GRCh37 to write.")],
    facts: Annotated[str, typer.Option("--manifest", help="Contigs to keep.")] = "grch37",
    force: steps.Force = False,
) -> None:
    """Lift promoters from GRCh38 to GRCh37."""
    refuse_existing(output, force)
    contigs = manifest.load(facts).contigs
    lifted, dropped = lift(read_bed(steps.require(bed)), chain, contigs)
    with steps.new_file(output, force) as part:
        rows = [f"{i.contig}\t{i.start}\t{i.end}\t{i.name}\t.\t{i.strand}\n" for i in lifted]
        part.write_text("".join(rows), encoding="utf-8")
    logger.info("lifted: %d", len(lifted))
    for reason, count in sorted(dropped.items()):
        logger.info("%s: %d", reason, count)


if __name__ == "__main__":
    steps.run(app)
