"""The report of `genobird variants`: which table it is made from, and its making."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import genobird
from genobird.cli.running import command_line
from genobird.errors import UsageError
from genobird.files import STDOUT

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from genobird.genome.fasta import Genome
    from genobird.report.page import Key
    from genobird.scoring.scorer import Scorer


def table_of(report: Path, table: str | None, *, shard: bool, replace: bool) -> str:
    """Return the table that a report is made from; beside the report where none is named.

    Raises:
        UsageError: the report cannot be written there, or there is no whole table to read.
    """
    from genobird.report.page import check_report

    check_report(report, replace)
    if shard:
        raise UsageError(
            "--report is for a whole run; merge the shards, then: genobird report --variants TABLE"
        )
    if table == STDOUT:
        raise UsageError("--report is made from the table; name a file for it instead of -")
    return table or str(report.with_suffix(".parquet"))


def write_report(
    report: Path,
    table: str,
    scorer: Scorer,
    genome: Genome,
    *,
    vcf: Path | None,
    logos: int,
    replace: bool,
) -> None:
    """Write the report of a table that has just been made.

    Args:
        report: the HTML file.
        table: the variant table.
        scorer: the model that made it.
        genome: what it was scored on.
        vcf: where identifiers come from, if there is a file.
        logos: how many variants get logos.
        replace: replace an existing report.
    """
    from genobird.report.page import report as make

    def draw(rows: pd.DataFrame) -> Iterable[tuple[Key, str]]:
        from genobird.report.alleles import allele_logos

        return allele_logos(scorer, rows, genome)

    facts = {
        "genome": f"{genome.path.name}, {genome.assembly or 'unknown assembly'}",
        "model": f"{scorer.model_hash or 'unsaved'}, on {scorer.device}",
        "command": command_line(),
        "version": genobird.__version__,
    }
    make(
        report,
        variants=Path(table),
        source=vcf,
        logos=logos,
        draw=draw,
        facts=facts,
        force=replace,
    )
