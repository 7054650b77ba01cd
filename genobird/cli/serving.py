"""The verb serve."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import typer

from genobird.cli.options import MODEL, Compute
from genobird.cli.running import open_genome, open_scorer
from genobird.config import Settings, option
from genobird.names import deferred

with deferred():
    from genobird.serve import question, server


class ServeOptions(Settings):
    """What a page is about, and how much it takes."""

    fasta: Path | None = option(
        "The genome: plain, gzip or BGZF; the demo's stretch of GRCh37 chr20 by default.", "-f"
    )
    model: Path | None = MODEL
    port: int = option("Port of 127.0.0.1; 0 is any that is free.", ge=0, le=65_535, default=0)
    max_mib: int = option("Largest file, in MiB.", ge=1, le=1_024, default=20)
    max_places: int = option("Most regions or ALTs of one question.", ge=1, default=2_000)


def serve(options: ServeOptions, compute: Compute) -> None:
    """Open a page on this machine to look up variants, regions and short VCF files.

    Only this machine reaches it, by the address that is written; nothing is kept. Ctrl-C ends it.
    """
    place = server.place_of(None if options.fasta is None else open_genome(options.fasta))
    scorer = open_scorer(options.model, compute, compute.precision)
    limits = question.Limits(options.max_mib << 20, options.max_places)
    with place.genome, suppress(KeyboardInterrupt):
        server.serve(scorer, place, options.port, limits, _announce)


def _announce(address: str) -> None:
    typer.echo(f"open {address}")
    typer.echo("Ctrl-C ends it", err=True)
