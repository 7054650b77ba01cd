"""The verb variants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from genobird.cli.options import (
    BatchSize,
    Device,
    Fasta,
    Features,
    Force,
    Json,
    Model,
    Quiet,
    Threads,
)
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    split_names,
    summarise,
)
from genobird.errors import UsageError

VCF_ENDINGS = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(variants)


def variants(
    source: Annotated[
        str, typer.Argument(metavar="VCF", help="VCF or BCF, or - for standard input.")
    ],
    fasta: Fasta,
    output: Annotated[
        str, typer.Option("--output", "-o", help=".vcf, .vcf.gz (gets an index), .bcf or -.")
    ],
    table: Annotated[
        str | None, typer.Option(help="All outputs of each ALT: .parquet, .tsv or .tsv.gz.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    features: Features = None,
    ref_mismatch: Annotated[
        str,
        typer.Option(
            help="REF is not the genome's: flag (status, no score), skip (left as it is), swap "
            "(score if ALT is the genome's) or error."
        ),
    ] = "flag",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score the variants of a VCF: each record passes through, and gains INFO keys GB_*."""
    from genobird.scoring.table import STDOUT, check_output

    check_output(output, VCF_ENDINGS, force)
    if table is not None:
        if table == output == STDOUT:
            raise UsageError("both outputs are standard output; name a file for --table")
        check_output(table, force=force)
    if source != STDOUT and not Path(source).exists():
        raise UsageError(f"{source} does not exist; check the path")
    genome = open_genome(fasta)
    from genobird.scoring.alleles import policy_of
    from genobird.scoring.annotation import annotate_variants

    policy_of(ref_mismatch)
    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads)
    records = 0
    with genome, progress_of("records", None, quiet) as advance:

        def count(number: int) -> None:
            nonlocal records
            records += number
            advance(number)

        counts = annotate_variants(
            scorer,
            source,
            genome,
            output,
            table=table,
            ref_mismatch=ref_mismatch,
            features=split_names(features),
            force=force,
            command=command_line(),
            progress=count,
        )
    summary: dict[str, Any] = {"records": records, "alleles": counts.total(), "output": output}
    if table is not None:
        summary["table"] = table
    data = STDOUT if STDOUT in (output, table) else output
    summarise("alleles", summary, counts, scorer, began, data, quiet, as_json)
