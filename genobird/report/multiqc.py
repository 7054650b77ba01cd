"""How many rows of score tables have which status, as MultiQC shows it.

Enter tables of `genobird score` and of `genobird variants`, one per sample; leaves one table whose
first lines tell MultiQC how to draw it, so that MultiQC needs no plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from genobird.errors import UsageError
from genobird.files import TABLES, check_output, write_text
from genobird.genome.variant import Status
from genobird.report.summary import count_statuses

ENDING: Final = "_mqc.tsv"
"""By this MultiQC finds a file that is meant for it."""
_HEADING: Final = """\
# id: genobird_status
# section_name: genobird
# description: "Regions and ALTs by status. OK is scored; any other says why there is no score."
# plot_type: bargraph
# pconfig:
#   id: genobird_status_plot
#   title: "genobird: regions and ALTs by status"
#   ylab: "Regions or ALTs"
"""


def write_statuses(output: Path, tables: Sequence[Path], force: bool = False) -> None:
    """Write one row per table: `Sample`, its file's name without ending, and rows of each status.

    There is a column for each status that occurs, and for OK, which comes first.

    Raises:
        UsageError: two tables have one name, one has none, begins with # or has several lines, one
            is missing, or the output exists or is named otherwise.
        TableError: a table is none of genobird's.
        OutputError: the file cannot be written.
    """
    check_output(output, (ENDING,), force)
    counts = {}
    for path in tables:
        sample = _sample(path)
        if not sample or sample.startswith("#") or len(sample.splitlines()) > 1:
            raise UsageError(
                f"{path} is no name of a sample for MultiQC, which takes lines that begin with # "
                "for settings, and one line for a sample; rename the file"
            )
        if sample in counts:
            raise UsageError(f"two tables of one sample {sample} found; name their files apart")
        counts[sample] = count_statuses(path)
    found = pd.DataFrame(counts).T.rename_axis("Sample")
    others = sorted(set(found.columns) - {Status.OK})
    found = found.reindex(columns=[Status.OK, *others]).fillna(0).astype(int)
    write_text(output, _HEADING + found.to_csv(sep="\t", lineterminator="\n"))


def _sample(path: Path) -> str:
    ending = next((ending for ending in TABLES if path.name.endswith(ending)), "")
    return path.name.removesuffix(ending)
