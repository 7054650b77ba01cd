"""The report of `genobird variants`: which table it is made from."""

from __future__ import annotations

from pathlib import Path

from genobird.errors import UsageError
from genobird.files import STDOUT


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
