"""The verb variants merge."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.options import Force, Json, Quiet
from genobird.cli.outputs import VCF_ENDINGS, as_named, refuse_early
from genobird.cli.running import command_line, progress_of, refuse_same_file, summarise
from genobird.scoring.table import ENDINGS


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("variants merge")(merge)


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(metavar="SHARD", help="All shards of a run: all .vcf.gz, or all .parquet."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            callback=as_named,
            help=".vcf, .vcf.gz (with index), .bcf or - for VCF; .parquet, .tsv, .tsv.gz or - "
            "for tables.",
        ),
    ],
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Join the shards of genobird variants --shard into the file of a single run."""
    refuse_same_file({"--output": output}, {f"the shard {path}": path for path in shards})
    refuse_early(output, (*VCF_ENDINGS, *ENDINGS), force=force)
    from genobird.scoring.merge import merge as join

    began = time.monotonic()
    with progress_of("records", None, quiet) as advance:
        counts = join(shards, output, force=force, command=command_line(), progress=advance)
    summary = {"shards": len(shards), "alleles": counts.total(), "output": output}
    summarise("alleles", summary, counts, None, began, output, quiet, as_json)
