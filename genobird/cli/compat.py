"""The verbs compat kipoi-veff2 and compat selene: command lines and tables of older tools."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from genobird.cli.options import MODEL, NAMED, Compute, Run
from genobird.cli.running import open_genome, open_scorer, progress_of, refuse_same_file, summarise
from genobird.config import Settings, argument, option
from genobird.files import check_folder, check_output
from genobird.names import deferred

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

with deferred():
    from genobird.scoring import compat

logger = logging.getLogger(__name__)

RETIRED = ("DeepSEA/predict", "DeepSEA/variantEffects")
"""Models of the retired tool that the bundled model can stand in for."""

VCF: Final = argument("VCF or BCF, or - for standard input.", "VCF")
FASTA: Final = argument("The genome: plain, gzip or BGZF.", "FASTA")


class KipoiOptions(Settings):
    """The command line of kipoi_veff2_predict."""

    source: str = VCF
    fasta: Path = FASTA
    output: Annotated[str, NAMED] = argument(".tsv, .tsv.gz or -.", "TSV")
    model: str = option(
        "A model directory; or DeepSEA/predict, for which the bundled model stands in.",
        "-m",
        default=...,
    )
    scores: tuple[str, ...] = option(
        "diff, logit, ref, alt, logit_ref, logit_alt or deepsea_effect; may be repeated; default "
        "diff.",
        "--scoring_function",
        "-s",
        default=(),
    )
    name: str | None = option("Name of the model in the columns; default as --model.")
    length: int | None = option(
        "Accepted but not used: windows are 16,200 bp.", "--seq-length", "-l"
    )


class SeleneOptions(Settings):
    """Which tables are written from which variants."""

    source: str = VCF
    fasta: Path = FASTA
    folder: Path = argument("Where the tables go.", "FOLDER")
    scores: tuple[str, ...] = option(
        "abs_diffs, diffs, logits or predictions; may be repeated; default diffs.",
        "--save-data",
        "-s",
        default=(),
    )
    model: Path | None = MODEL


def kipoi_veff2(options: KipoiOptions, compute: Compute, run: Run) -> None:
    """Take the command line of kipoi_veff2_predict and write its table.

    Columns are #CHROM POS ID REF ALT, then MODEL/LABEL/SCORE; one row per ALT. Probabilities are
    genobird's calibrated ones, not those of the model whose name the columns may bear.
    """
    output = options.output
    refuse_same_file({"the table": output}, {"the VCF": options.source, "the FASTA": options.fasta})
    check_output(output, (".tsv", ".tsv.gz"), run.force, stdout=True)
    chosen = list(compat.choose(options.scores or ["diff"], compat.KIPOI_SCORES))
    began = time.monotonic()
    scorer = _scorer(options.model, compute)
    if options.length is not None:
        logger.info("--seq-length %d is not used: the model sees 16,200 bp", options.length)
    with open_genome(options.fasta) as genome, progress_of("records", None) as advance:
        counts = compat.write_kipoi(
            scorer,
            options.source,
            genome,
            output,
            prefix=options.name or options.model,
            scores=chosen,
            force=run.force,
            progress=advance,
        )
    summary = {"alleles": counts.total(), "output": output}
    summarise("allele", summary, counts, scorer, run, began)


def selene(options: SeleneOptions, compute: Compute, run: Run) -> None:
    """Write the tables of Selene's variant effect prediction, one per score.

    Columns are chrom pos name ref alt strand ref_match contains_unk, then the features; a row per
    ALT, also for those that cannot be scored. Files are FOLDER/STEM_SCORE.tsv.
    """
    folder = options.folder
    check_folder(folder)
    chosen = list(compat.choose(options.scores or ["diffs"], compat.SELENE_SCORES))
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, compute.precision)
    with open_genome(options.fasta) as genome, progress_of("records", None) as advance:
        counts, paths = compat.write_selene(
            scorer, options.source, genome, folder, scores=chosen, force=run.force, progress=advance
        )
    output = ", ".join(str(path) for path in paths)
    summary = {"alleles": counts.total(), "output": output}
    summarise("allele", summary, counts, scorer, run, began)


def _scorer(model: str, compute: Compute) -> Scorer:
    """Load the model; the bundled one where a model of the retired tool is named."""
    if model not in RETIRED or Path(model).is_dir():
        return open_scorer(Path(model), compute, compute.precision)
    scorer = open_scorer(None, compute, compute.precision)
    logger.warning(
        "%s is no model of genobird: the bundled model %s scores in its place, with %d features; "
        "the columns bear that name all the same",
        model,
        scorer.model_hash,
        len(scorer.features),
    )
    return scorer
