"""Outputs of a command: how they may be named, and what is refused before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from genobird.files import STDOUT
from genobird.scoring.table import check_output

VCF_ENDINGS = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
_STDOUT_FILES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def as_named(output: str | None) -> str | None:
    """Return `-` for the file that a system has for standard output; a callback of options."""
    return STDOUT if output in _STDOUT_FILES else output


def refuse_early(
    output: Path | str | None, endings: tuple[str, ...], *, force: bool, resume: bool = False
) -> None:
    """Refuse an output while the command has cost nothing; torch alone takes seconds to load.

    What an interrupted run has left is no reason yet: see `runs.may_replace`.

    Raises:
        UsageError, OutputError: see `check_output`.
    """
    if output is not None:
        begun = os.path.exists(f"{output}.partial")
        check_output(output, endings, force or resume or begun)
