"""The report of tables that have just been made, with the model and the genome still open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import genobird
from genobird.genome.fasta import Genome
from genobird.report.alleles import allele_logos
from genobird.report.page import Key, report
from genobird.scoring.scorer import Scorer


def write_report(
    output: Path,
    scorer: Scorer,
    genome: Genome,
    command: str,
    *,
    regions: Path | None = None,
    variants: Path | None = None,
    logos: int = 0,
    replace: bool = False,
) -> None:
    """Write the report of tables that have just been made.

    Args:
        output: the HTML file.
        scorer: the model that made them.
        genome: what was scored.
        command: command line.
        regions: the region table.
        variants: the variant table.
        logos: how many variants get logos.
        replace: replace an existing report.
    """

    def draw(rows: pd.DataFrame) -> Iterable[tuple[Key, str]]:
        return allele_logos(scorer, rows, genome)

    facts = {
        "genome": f"{genome.path.name}, {genome.assembly or 'unknown assembly'}",
        "model": f"{scorer.model_hash or 'unsaved'}, on {scorer.device}",
        "command": command,
        "version": genobird.__version__,
    }
    report(
        output,
        regions=regions,
        variants=variants,
        logos=logos,
        draw=draw,
        facts=facts,
        force=replace,
    )
