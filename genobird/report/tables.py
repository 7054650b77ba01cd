"""One HTML page of the paper's tables, as they come out on the data at hand.

Enters what `evaluate` wrote for the models of each table; leaves one file that needs nothing else.
Every cell has its bootstrap interval, and the paper's own figure stands beside it where there is
one: measured on other data, by rules that are not all known, and not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import genobird
from genobird.errors import InputError, UsageError
from genobird.files import refuse_existing, write_text
from genobird.report.evaluation import read_json, read_table
from genobird.report.page import environment
from genobird.report.sections import (
    Section,
    chromatin_section,
    masked_section,
    promoter_section,
    training_section,
)

NAMES = ("table1", "figure8", "table5", "table6", "table7")


@dataclass(frozen=True)
class Sources:
    """What the page is made of.

    Attributes:
        tables: `evaluation.json` by the table's name; those of table 6 are `table6-<negatives>`.
        runs: pretraining run directories by name, for their curves.
        published: table of published figures by feature, with `index`, `<model>_AUROC` and
            `<model>_AUPRC`.
    """

    tables: Mapping[str, Path]
    runs: Mapping[str, Path] = field(default_factory=dict)
    published: Path | None = None


def write_tables(sources: Sources, output: Path, force: bool = False) -> None:
    """Write the page.

    Args:
        sources: what it is made of.
        output: the HTML file.
        force: replace an existing file.

    Raises:
        UsageError: no table, an unknown one, a missing file, or an existing output.
        InputError: a file that does not hold what it should.
    """
    if not sources.tables:
        raise UsageError(f"no table is given; give one or more of {', '.join(NAMES)}")
    refuse_existing(output, force)
    write_text(output, render(sources))


def render(sources: Sources) -> str:
    """Return the page as text; errors are those of `write_tables`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, path in sources.tables.items():
        table, _, variant = name.partition("-")
        if table not in NAMES or (variant != "") != (table == "table6"):
            raise UsageError(
                f"table {name!r} is not one of table1, figure8, table5, table6-<negatives>, table7"
            )
        found.setdefault(table, {})[variant] = read_json(path)
    sections: list[Section] = []
    for table in (name for name in NAMES if name in found):
        try:
            if table == "table6":
                sections.append(promoter_section(found[table]))
            elif table == "table7":
                features = _features(sources.tables[table])
                published = _published(sources.published)
                sections.append(chromatin_section(found[table][""], features, published))
            else:
                sections.append(masked_section(table, found[table][""]))
        except (KeyError, TypeError, AttributeError) as error:
            fault = f"has no {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
            raise InputError(
                f"the evaluation of {table} {fault}; it measures something else, or was "
                "written by another version"
            ) from error
    if sources.runs:
        sections.append(training_section(sources.runs))
    page = environment().get_template("tables.html.j2")
    return page.render(sections=sections, version=genobird.__version__)


def _features(evaluation: Path) -> pd.DataFrame:
    path = evaluation.with_name("per_feature.tsv")
    if not path.is_file():
        raise UsageError(f"there is no {path}, which `genobird evaluate` writes beside its figures")
    return read_table(path, ["index"])


def _published(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    if not path.is_file():
        raise UsageError(f"there is no table of published figures {path}")
    table = read_table(path, [])
    figures = [c for c in table.columns if c.endswith(("_AUROC", "_AUPRC"))]
    if "index" not in table.columns or not figures:
        raise InputError(
            f"{path} has the columns {', '.join(table.columns)}; `index` and `<model>_AUROC` or "
            "`<model>_AUPRC` are needed"
        )
    return read_table(path, ["index", *figures])[["index", *figures]].set_index("index")
