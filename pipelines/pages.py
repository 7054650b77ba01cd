"""Pages of a manual -> a Parquet table: chapter, page, part (train, validation, test), text.

Reads HTML that Sphinx wrote, such as that of Debian's `linux-doc-6.1` (the Linux kernel's
documentation, GPL-2, with the licence of each page in its source). The chapter of a page is its
first folder. A whole page belongs to one part, by a hash of its name.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from genobird.errors import InputError
from pipelines import steps

_MAIN = re.compile(r'<div role="main".*?>(.*?)<footer>', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def main(
    manual: Annotated[Path, typer.Argument(help="Folder with a folder of pages per chapter.")],
    chapters: Annotated[list[str], typer.Option("--chapter", help="A chapter to take.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    force: steps.Force = False,
) -> None:
    """Make a table of a manual's pages."""
    rows = [row for chapter in chapters for row in read_chapter(manual, chapter)]
    with steps.new_file(output, force) as part:
        pd.DataFrame(rows, columns=["chapter", "page", "part", "text"]).to_parquet(part)


def read_chapter(manual: Path, chapter: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield chapter, page, part and text of each page, in the order of their names.

    Raises:
        InputError: the chapter has no pages.
    """
    found = 0
    for path in sorted((manual / chapter).rglob("*.html")):
        body = _MAIN.search(path.read_text("utf-8", errors="replace"))
        if body is not None:
            found += 1
            page = path.relative_to(manual).as_posix()
            yield chapter, page, part_of(page), text_of(body.group(1))
    if not found:
        raise InputError(
            f"{manual / chapter} has no pages of Sphinx; give the manual's html folder"
        )


def text_of(body: str) -> str:
    """Return what a reader sees: no tags, single spaces."""
    return " ".join(html.unescape(_TAG.sub(" ", body)).split())


def part_of(page: str) -> str:
    """Return the part of a page: six in ten train, one validates, three test."""
    tenth = hashlib.sha256(page.encode()).digest()[0] * 10 // 256
    return "train" if tenth < 6 else "validation" if tenth == 6 else "test"


if __name__ == "__main__":
    steps.run(main)
