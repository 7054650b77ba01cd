from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from genobird.demo import GENOME, REGIONS, VARIANTS, bundled
from genobird.genome.fasta import Genome

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODEL = Path(str(resources.files("genobird"))) / "bundled" / "model"
RUN = re.compile(r"<!-- run -->\n```(console|python)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
VERB = re.compile(r"(?:\$ |`)genobird ([a-z]+)")

needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="no model is bundled yet")


@pytest.fixture(scope="session")
def user_folder(tmp_path_factory):
    """The files that the README speaks of, cut from the bundled demo."""
    folder = tmp_path_factory.mktemp("user")
    for ending in ("", ".fai", ".gzi"):
        (folder / f"hg19.fa.gz{ending}").write_bytes(bundled(f"{GENOME}{ending}").read_bytes())
    bed = bundled(REGIONS).read_text().splitlines(keepends=True)
    (folder / "regions.bed").write_text("".join(bed[:2]))
    vcf = bundled(VARIANTS).read_text().splitlines(keepends=True)
    (folder / "calls.vcf").write_text("".join(vcf[:6]))
    with Genome(folder / "hg19.fa.gz") as genome:
        bases, _ = genome.fetch_clipped("chr20", 55_000_000, 55_003_000)
    (folder / "sequences.fa").write_text(f">one\n{bases}\n")
    return folder


@needs_model
@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(user_folder):
    blocks = RUN.findall(README)
    assert len(blocks) >= 4
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for language, text in blocks:
        if language == "python":
            commands = [[sys.executable, "-W", "error", "-c", text]]
        else:
            lines = [line.removeprefix("$ ") for line in text.splitlines() if line[:2] == "$ "]
            assert lines
            commands = [["bash", "-c", line] for line in lines]
        for command in commands:
            result = subprocess.run(
                command, cwd=user_folder, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, (command, result.stderr)
    made = {path.name for path in user_folder.iterdir()}
    assert made >= {"scores.tsv", "sequences.tsv", "scored.vcf.gz", "scored.vcf.gz.tbi"}
    assert made >= {"scored.parquet", "report.html"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    for target in LINK.findall(page.read_text()):
        if target.startswith("genobird/bundled/model/") and not MODEL.is_dir():
            continue
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_named_exists(page):
    from genobird.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert set(VERB.findall(page.read_text())) <= known


def test_every_path_of_the_tree_exists():
    tree = README.split("## What is where")[1].split("```")[1]
    names = re.findall(r"(?<!\S)([\w.]+(?:/|\.py|\.md))(?=[\s;,]|$)", tree)
    for name in names:
        here = [ROOT / name, ROOT / "genobird" / name, ROOT / "docs" / name]
        here.append(ROOT / "workflows" / name)
        assert any(path.exists() for path in here), name
    assert len(names) > 15


def test_the_readme_says_on_its_first_screen_how_to_begin():
    first = "\n".join(README.splitlines()[:24])
    assert "make demo" in first
    assert "make test" in first
