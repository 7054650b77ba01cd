"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.outputs import as_named

Fasta = Annotated[Path, typer.Option("--fasta", "-f", help="The genome: plain, gzip or BGZF.")]
Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="Model directory; default the bundled one.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
BatchSize = Annotated[str, typer.Option(help="Sequences a pass: auto or a number.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default torch's own.")]
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
        help="Chromatin columns, separated by commas: names (one without its #number stands for "
        "all that differ in that alone), or classes such as TF; genobird info lists them."
    ),
]
Liftover = Annotated[
    Path | None,
    typer.Option(
        metavar="CHAIN",
        help="UCSC chain file from the assembly of the input to that of the FASTA; what is written "
        "keeps its coordinates.",
    ),
]
IgnoreBuild = Annotated[
    bool,
    typer.Option("--ignore-build", help="Warn of another assembly than the FASTA's, and go on."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on where an interrupted run of the same command stopped, if one did."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Summary as JSON on standard output (errors when data go there)."),
]
