"""The site: what `make docs` builds has a way to every page, and an entry for every public name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))
TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)
CELL = re.compile(r"```\{code-cell\}\n(?::[^\n]*\n)*(.*?)```", re.DOTALL)
ENTRY = re.compile(
    r"^\.\. (?:auto|py:)(?:class|data|exception|function):: (genobird[\w.]*)$", re.MULTILINE
)
KEY = re.compile(r"`((?:GB_|[A-Z]+_)[A-Z_]+)`")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
MODULES = ("", "attention", "cli", "genome", "hf", "report")  # that the pages name


def entries(page: Path) -> list[Path]:
    """The pages of the toctrees of a page."""
    lines = "\n".join(TOCTREE.findall(page.read_text())).splitlines()
    names = [line.split("<")[-1].rstrip(">") for line in lines if line and line[0] != ":"]
    return [(page.parent / f"{name}.md").resolve() for name in names]


def public_names(module: str) -> set[str]:
    """What a package offers: `__all__`, or what is loaded when it is first used."""
    tree = ast.parse((ROOT / "genobird" / module / "__init__.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname}
    assert names
    return {".".join(filter(None, ("genobird", module, name))) for name in names}


def test_every_page_is_in_one_toctree_and_every_entry_is_a_page():
    found = entries(DOCS / "index.md")
    assert len(found) == len(set(found))
    assert all(page.is_file() for page in found)
    pages = set(DOCS.rglob("*.md")) - {DOCS / "index.md"}
    assert pages <= set(found)
    outside = {page.relative_to(ROOT).as_posix() for page in set(found) - pages}
    assert outside >= {"README.md", "CONTRIBUTING.md", "genobird/bundled/model/README.md"}


def test_the_reference_has_every_public_name():
    text = (DOCS / "api.md").read_text()
    listed = ENTRY.findall(text)
    assert len(listed) == len(set(listed))
    public = set().union(*map(public_names, MODULES)) - {"genobird.__version__"}
    assert public <= set(listed)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_is_run_when_the_site_is_built(page):
    text = page.read_text()
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n")
    cells = CELL.findall(text)
    assert len(cells) == text.count("{code-cell}") >= 3
    for cell in cells:
        ast.parse(cell)
    assert "shared" not in text


def test_the_page_of_numbers_is_short_and_has_none_of_its_own():
    text = (DOCS / "which-number.md").read_text()
    assert len(re.findall(r"\S*\w\S*", text)) <= 700
    sources = [DOCS / "scores.md", DOCS / "variants.md"]
    sources.append(ROOT / "genobird" / "bundled" / "model" / "README.md")
    known = "\n".join(source.read_text() for source in sources)
    questions = re.sub("(?m)^## .*$", "", text)
    assert set(NUMBER.findall(questions)) <= set(NUMBER.findall(known))
    assert set(KEY.findall(text)) <= set(KEY.findall(known))
