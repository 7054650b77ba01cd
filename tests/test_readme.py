from __future__ import annotations

import json
import re
import shlex
import sys
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest

import genobird
from genobird import demo
from genobird.report.page import difference, feature_label, probability
from tests import examples, readme

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODEL = Path(str(resources.files("genobird"))) / "bundled" / "model"
EXAMPLES = [page for page in sorted((ROOT / "docs").glob("*.md")) if examples.code_of(page)]
LINK = re.compile(r"\]\(([^)#:]+)\)")
VERB = re.compile(r"(?:\$ |`)genobird ([a-z][a-z-]*)")
COMMAND = re.compile(r"^(?:\$ (?:.*\| )?|exec srun )(genobird [a-z].*)$", re.MULTILINE)

needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="no model is bundled yet")


@pytest.fixture(scope="session")
def user_folder(tmp_path_factory):
    """The files that the README speaks of, cut from the bundled demo."""
    folder = tmp_path_factory.mktemp("user")
    readme.make_folder(folder)
    return folder


@needs_model
@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(user_folder):
    blocks = examples.RUN.findall(README)
    assert len(blocks) >= 4
    for language, text in blocks:
        if language == "python":
            commands = [[sys.executable, "-W", "error", "-c", text]]
        else:
            lines = [line.removeprefix("$ ") for line in text.splitlines() if line[:2] == "$ "]
            assert lines
            commands = [["bash", "-c", line] for line in lines]
        for command in commands:
            readme.run(command, user_folder)
    made = {path.name for path in user_folder.iterdir()}
    assert made >= {"scores.tsv", "sequences.tsv", "scored.vcf.gz", "scored.vcf.gz.tbi"}
    assert made >= {"scored.parquet", "report.html"}


@pytest.fixture(scope="session")
def called_by(user_folder):
    """Runs the examples of a page, once, and returns the public functions that they call."""

    @cache
    def called_by(page):
        program = str(ROOT / "tests" / "examples.py")
        told = readme.run([sys.executable, "-W", "error", program, str(page)], user_folder)
        return frozenset(json.loads(told.splitlines()[-1]))

    return called_by


@needs_model
@pytest.mark.slow
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_in_one_notebook(called_by, user_folder, page):
    assert called_by(page)
    if page.name == "python.md":
        made = {path.name for path in user_folder.iterdir()}
        assert made >= {"states.parquet", "region.png", "mpra", "figures"}


@needs_model
@pytest.mark.slow
def test_every_public_function_is_called_by_an_example_that_runs(called_by):
    assert frozenset().union(*map(called_by, EXAMPLES)) == examples.functions().keys()


@needs_model
@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_the_most_wanted_calls_give_the_output_that_the_readme_shows(user_folder, programs, number):
    block = readme.blocks()[number]
    if not readme.can_run(block):
        pytest.skip("no chain file is at hand")
    made = readme.renewed(block, user_folder, programs)
    assert readme.same(block, made), f"renew it with `python -m tests.readme --write`:\n{made}"


@needs_model
@pytest.mark.slow
def test_the_lines_of_the_demo_are_what_the_bundled_model_predicts(tmp_path):
    region, variant = (
        re.search(rf"^1 +{name} .*$", README, re.MULTILINE)[0].split()
        for name in ("RTFDC1_1", "CTCF_site_broken")
    )
    scorer, genome = genobird.load(), demo.bundled(demo.GENOME)
    place, strand, shown = region[2:]
    found = scorer.score_regions(f"{place}:{strand}", genome)
    assert probability(found["promoter"][0]) == shown
    lines = demo.bundled(demo.VARIANTS).read_text().splitlines(keepends=True)
    one = tmp_path / "one.vcf"
    one.write_text("".join(line for line in lines if line[0] == "#" or variant[1] in line))
    [row] = scorer.screen_variants(one, genome).to_dict("records")
    assert f"{row['chrom']}:{row['pos']}" == variant[2]
    assert difference(row[f"{row['top']}|delta"]) == variant[3]
    assert feature_label(row["top"]) == " ".join(variant[4:])


def test_there_are_five_most_wanted_calls():
    assert len(readme.blocks()) == 5
    assert all("genobird" in block.splitlines()[0] for block in readme.blocks())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("chr20\t5\t0.510\n", "chr20\t5\t0.512\n", True),
        ("chr20\t5\t0.510\n", "chr20\t5\t0.530\n", False),
        ("chr20\t5\t0.510\n", "chr20\t6\t0.510\n", False),
        ("K562|Nrf1 0.5\n", "K562|CTCF 0.5\n", False),
        ('{"seconds": 1.5}\n', '{"seconds": 20.1}\n', True),
    ],
)
def test_output_may_differ_in_rounding_and_time_alone(one, other, same):
    assert readme.same(one, other) == same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    for target in LINK.findall(page.read_text()):
        if target.startswith("genobird/bundled/model/") and not MODEL.is_dir():
            continue
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_was_left_to_be_filled_in(page):
    assert not re.findall(r"@@|TODO|TBD", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_named_exists(page):
    from genobird.cli.app import VERBS

    known = {verb.split()[0] for verb in VERBS}
    assert set(VERB.findall(page.read_text())) <= known


def commands_of(page):
    """Yield the verb of each command of a page, and what stands behind it, without the shell's."""
    from genobird.cli.app import VERBS

    for text in COMMAND.findall(page.read_text()):
        words = shlex.split(text, comments=True)
        stops = [place for place, word in enumerate(words) if word in ("|", ">", "\\")]
        words = words[1 : min([*stops, len(words)])]
        both = " ".join(words[:2])
        yield (both, words[2:]) if both in VERBS else (words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_of_every_command_exist(page):
    import typer

    from genobird.cli import app, options

    for verb, words in commands_of(page):
        alone = typer.Typer()
        options.add(alone, verb, app.load_verb(verb))
        command = typer.main.get_command(alone)
        command.make_context(verb, words, resilient_parsing=True)  # refuses an unknown option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_of_the_project_takes_what_a_command_sets(page):
    from genobird.cli.training import CONFIGURATIONS, configuration
    from genobird.config import load_config

    for verb, words in commands_of(page):
        given = list(pairwise(words))
        files = [ROOT / value for option, value in given if option == "--config"]
        if verb in CONFIGURATIONS and files and files[0].is_file():
            settings = [value for option, value in given if option == "--set"]
            load_config(configuration(verb), files[0], settings)


def test_every_path_of_the_tree_exists():
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("## What is where")[1].split("```")[1]
    names = re.findall(r"(?<!\S)([\w.]+(?:/|\.py|\.md))(?=[\s;,]|$)", tree)
    for name in names:
        here = [ROOT / name, ROOT / "genobird" / name, ROOT / "docs" / name]
        here.append(ROOT / "workflows" / name)
        assert any(path.exists() for path in here), name
    assert len(names) >= 8


def test_the_readme_says_on_its_first_screen_how_to_begin():
    first = "\n".join(README.splitlines()[:24])
    assert "make demo" in first
    assert "make test" in first
