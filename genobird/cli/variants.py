"""The verb variants."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from genobird.cli.options import (
    BatchSize,
    Device,
    Fasta,
    Features,
    Force,
    IgnoreBuild,
    Json,
    Liftover,
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
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANTS...",
            help="VCF or BCF; TSV or CSV with columns chrom pos ref alt; - for any of them on "
            "standard input; or variants, 1-based: chr20:1000:A>G.",
        ),
    ],
    fasta: Fasta,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help=".vcf, .vcf.gz (gets an index), .bcf or -; where the input is no VCF, the table: "
            ".parquet, .tsv, .tsv.gz or -.",
        ),
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
    liftover: Liftover = None,
    ignore_build: IgnoreBuild = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score variants. Each record of a VCF passes through, and gains INFO keys GB_*."""
    from genobird.genome.streams import Peeked
    from genobird.scoring.alleles import chain_file, is_table, named_input, policy_of
    from genobird.scoring.annotation import annotate_variants
    from genobird.scoring.listing import list_variants
    from genobird.scoring.table import ENDINGS, STDOUT, check_output

    source = named_input(sources)
    listed = not isinstance(source, Peeked) or is_table(source)
    if listed and (table is not None or output.endswith(VCF_ENDINGS)):
        raise UsageError(
            f"{table or output} is asked for, but variants that are no VCF give one table and no "
            "VCF; name it with --output: .parquet, .tsv, .tsv.gz or -"
        )
    check_output(output, ENDINGS if listed else VCF_ENDINGS, force)
    if table is not None:
        if table == output == STDOUT:
            raise UsageError("both outputs are standard output; name a file for --table")
        check_output(table, force=force)
    policy_of(ref_mismatch)
    chains = chain_file(liftover)
    genome = open_genome(fasta)
    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads)
    records = 0
    common: dict[str, Any] = {
        "ref_mismatch": ref_mismatch,
        "features": split_names(features),
        "liftover": chains,
        "ignore_build": ignore_build,
        "force": force,
        "command": command_line(),
    }
    with genome, progress_of("alleles" if listed else "records", None, quiet) as advance:

        def count(number: int) -> None:
            nonlocal records
            records += number
            advance(number)

        if listed:
            counts = list_variants(scorer, source, genome, output, progress=advance, **common)
        else:
            assert isinstance(source, Peeked)
            counts = annotate_variants(
                scorer, source, genome, output, table=table, progress=count, **common
            )
    summary: dict[str, Any] = {
        **({} if listed else {"records": records}),
        "alleles": counts.total(),
        "output": output,
    }
    if table is not None:
        summary["table"] = table
    data = STDOUT if STDOUT in (output, table) else output
    summarise("alleles", summary, counts, scorer, began, data, quiet, as_json)
