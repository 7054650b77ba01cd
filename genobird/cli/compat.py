"""The verbs compat kipoi-veff2 and compat selene: command lines and tables of older tools."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genobird.cli.options import BatchSize, Device, Force, Json, Model, Precision, Quiet, Threads
from genobird.cli.outputs import as_named
from genobird.cli.running import (
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    summarise,
)
from genobird.errors import UsageError
from genobird.scoring.table import check_output

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

RETIRED = ("DeepSEA/predict", "DeepSEA/variantEffects")
"""Models of the retired tool that the bundled model can stand in for."""

Vcf = Annotated[str, typer.Argument(metavar="VCF", help="VCF or BCF, or - for standard input.")]
Fasta = Annotated[Path, typer.Argument(metavar="FASTA", help="The genome: plain, gzip or BGZF.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    compat = typer.Typer(
        help="Variant tables as older tools write them.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    compat.command("kipoi-veff2")(kipoi_veff2)
    compat.command()(selene)
    app.add_typer(compat, name="compat")


def kipoi_veff2(
    source: Vcf,
    fasta: Fasta,
    output: Annotated[
        str, typer.Argument(metavar="TSV", callback=as_named, help=".tsv, .tsv.gz or -.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model directory; or DeepSEA/predict, for which the bundled model stands in.",
        ),
    ],
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--scoring_function",
            "-s",
            help="diff, logit, ref, alt, logit_ref, logit_alt or deepsea_effect; may be repeated; "
            "default diff.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in the columns; default as --model.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--seq-length", "-l", help="Accepted but not used: windows are 16,200 bp."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    precision: Precision = "float32",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take the command line of kipoi_veff2_predict and write its table.

    Columns are #CHROM POS ID REF ALT, then MODEL/LABEL/SCORE; one row per ALT. Probabilities are
    genobird's calibrated ones, not those of the model whose name the columns may bear.
    """
    refuse_same_file({"the table": output}, {"the VCF": source, "the FASTA": fasta})
    check_output(output, (".tsv", ".tsv.gz"), force)
    from genobird.scoring.compat import KIPOI_SCORES, choose, write_kipoi

    chosen = list(choose(scores or ["diff"], KIPOI_SCORES))
    began = time.monotonic()
    scorer = _scorer(model, device, batch_size, threads, precision)
    if length is not None and not quiet:
        logger.info("--seq-length %d is not used: the model sees 16,200 bp", length)
    with open_genome(fasta) as genome, progress_of("records", None, quiet) as advance:
        counts = write_kipoi(
            *(scorer, source, genome, output),
            prefix=name or model,
            scores=chosen,
            force=force,
            progress=advance,
        )
    summary = {"alleles": counts.total(), "output": output}
    summarise("alleles", summary, counts, scorer, began, output, quiet, as_json)


def selene(
    source: Vcf,
    fasta: Fasta,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the tables go.")],
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--save-data",
            "-s",
            help="abs_diffs, diffs, logits or predictions; may be repeated; default diffs.",
        ),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    precision: Precision = "float32",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the tables of Selene's variant effect prediction, one per score.

    Columns are chrom pos name ref alt strand ref_match contains_unk, then the features; a row an
    ALT, also for those that cannot be scored. Files are FOLDER/STEM_SCORE.tsv.
    """
    if not folder.absolute().parent.is_dir() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is no folder in an existing folder; make that first")
    from genobird.scoring.compat import SELENE_SCORES, choose, write_selene

    chosen = list(choose(scores or ["diffs"], SELENE_SCORES))
    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads, precision)
    with open_genome(fasta) as genome, progress_of("records", None, quiet) as advance:
        counts, paths = write_selene(
            *(scorer, source, genome, folder),
            scores=chosen,
            force=force,
            progress=advance,
        )
    output = ", ".join(str(path) for path in paths)
    summary = {"alleles": counts.total(), "output": output}
    summarise("alleles", summary, counts, scorer, began, output, quiet, as_json)


def _scorer(
    model: str, device: str, batch_size: str, threads: int | None, precision: str
) -> Scorer:
    """Load the model; the bundled one where a model of the retired tool is named."""
    if model not in RETIRED or Path(model).is_dir():
        return open_scorer(Path(model), device, batch_size, threads, precision)
    scorer = open_scorer(None, device, batch_size, threads, precision)
    logger.warning(
        "%s is no model of genobird: the bundled model %s scores in its place, with %d features; "
        "the columns bear that name all the same",
        *(model, scorer.model_hash, len(scorer.features)),
    )
    return scorer
