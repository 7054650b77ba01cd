"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.outputs import as_named

Fasta = Annotated[Path, typer.Option("--fasta", "-f", help="The genome: plain, gzip or BGZF.")]
Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="Model directory; the bundled one by default.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
BatchSize = Annotated[str, typer.Option(help="Sequences per pass: auto or a number.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's choice by default.")]
Precision = Annotated[
    str,
    typer.Option(
        help="float32, or bf16: about twice as fast on processors that multiply bfloat16."
    ),
]
TableOutput = Annotated[
    str,
    typer.Option("--output", "-o", callback=as_named, help=".tsv, .tsv.gz, .parquet or -."),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Chromatin features, separated by commas: cells (K562), targets (CTCF), classes (TF) "
        "or names, as genobird info lists them; a name without its #number stands for all that "
        "differ only in that."
    ),
]
Liftover = Annotated[
    Path | None,
    typer.Option(
        metavar="CHAIN",
        help="UCSC chain file from the assembly of the input to that of the FASTA; the output "
        "keeps the input's coordinates.",
    ),
]
IgnoreBuild = Annotated[
    bool,
    typer.Option("--ignore-build", help="Only warn where the assembly is not the FASTA's."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue an interrupted run of the same command, if there is one."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Summary as JSON on standard output; on standard error if data go there."
    ),
]
