"""Answer: a question is scored, and lies as files of fixed names in the folder of its job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from genobird.genome.fasta import Genome
from genobird.report.scored import write_report
from genobird.report.summary import read_pieces
from genobird.runs import Start
from genobird.scoring.regions import region_frames, write_scores
from genobird.scoring.scorer import Scorer
from genobird.scoring.table import TableWriter
from genobird.scoring.variant_vcf import annotate_variants
from genobird.serve.question import ASKED, Question

COMMAND = "genobird serve"
REPORT = "report.html"
DOWNLOADS = {
    "scored.vcf.gz": "VCF with the scores in INFO",
    "scored.tsv": "table for spreadsheets and R",
    "scored.parquet": "table for Python",
}
"""Files of an answer, and what they are; regions have no VCF."""


def answer(
    question: Question,
    folder: Path,
    scorer: Scorer,
    genome: Genome,
    progress: Callable[[int], None],
) -> Counter[str]:
    """Score what is asked; the report is the last file, and is written again with each logo.

    Args:
        question: what is asked.
        folder: where the files go, and where the VCF is.
        scorer: the model.
        genome: where it is scored.
        progress: called with the number of regions or records that were scored.

    Returns:
        How many regions or ALTs have each status.

    Raises:
        GenobirdError: see `annotate_variants`.
    """
    vcf, tsv, parquet = (folder / name for name in DOWNLOADS)
    if question.regions:
        meta = {"model": scorer.model_hash, "command": COMMAND}
        with TableWriter(parquet, meta=meta) as writer:
            frames = region_frames(scorer, question.regions, genome)
            counts = write_scores(frames, writer, progress)
    else:
        counts = annotate_variants(
            *(scorer, folder / ASKED, genome, vcf),
            table=parquet,
            start=Start(command=COMMAND, progress=progress, is_kept=False),
        )
    with TableWriter(tsv) as writer:
        for piece in read_pieces(parquet):
            writer.write(piece)
    is_vcf = not question.regions
    write_report(
        *(folder / REPORT, scorer, genome, COMMAND),
        regions=None if is_vcf else parquet,
        variants=parquet if is_vcf else None,
        logos=question.logos,
    )
    return counts
