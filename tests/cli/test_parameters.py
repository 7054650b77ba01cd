"""Settings become options: named, described and bounded as their fields are."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from genobird.cli.app import VERBS, load_verb
from genobird.cli.options import QUIET, add
from genobird.config import COMMAS, Settings, argument, option
from genobird.errors import UsageError


class Fruit(Settings):
    """What is eaten."""

    baskets: tuple[Path, ...] = argument("Where it lies.", "BASKET")
    number: int = option("How much is eaten.", "-n", ge=1, le=9, default=2)
    kinds: Annotated[Sequence[str] | None, COMMAS] = option("Which kinds, separated by commas.")
    leave_out: tuple[str, ...] = option("What is not eaten.", metavar="NAME", default=())
    peeled: bool = option("Without the skin.", default=False)
    cook: str | None = option("Who cooks.", "--chef")


class Place(Settings):
    """Where it is eaten."""

    table: str = option("Which table.", default=...)


@pytest.fixture
def run():
    """Run a verb of two settings; returns the result and what the verb was given."""
    given: list[tuple[Fruit, Place, bool]] = []

    def eat(
        fruit: Fruit, place: Place, now: Annotated[bool, typer.Option("--now")] = False
    ) -> None:
        """Eat."""
        given.append((fruit, place, now))

    app = typer.Typer(rich_markup_mode=None)
    add(app, "eat", eat)

    def run(*words: str):
        return CliRunner().invoke(app, words), given

    return run


def test_a_verb_gets_its_settings_made_of_the_options(run):
    result, given = run(
        "a",
        "b",
        "-n",
        "3",
        "--kinds",
        "plum, pear",
        "--leave-out",
        "x",
        "--leave-out",
        "y",
        "--peeled",
        "--chef",
        "Ada",
        "--table",
        "old",
        "--now",
    )
    assert result.exit_code == 0
    fruit = Fruit(
        baskets=(Path("a"), Path("b")),
        number=3,
        kinds=["plum", "pear"],
        leave_out=("x", "y"),
        peeled=True,
        cook="Ada",
    )
    assert given == [(fruit, Place(table="old"), True)]


def test_what_is_not_given_has_the_default_of_its_field(run):
    _, given = run("a", "--table", "old")
    assert given == [(Fruit(baskets=(Path("a"),)), Place(table="old"), False)]


@pytest.mark.parametrize(
    "words", [["--table", "old"], ["a"], ["a", "--table", "old", "-n", "10"]], ids=" ".join
)
def test_what_is_missing_or_out_of_range_is_misuse(words, run):
    result, given = run(*words)
    assert (result.exit_code, given) == (2, [])


def test_the_help_is_that_of_the_fields(run):
    result, _ = run("--help")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "-n, --number <int range> How much is eaten. [default: 2; 1<=x<=9]" in lines
    assert "--leave-out NAME What is not eaten." in lines
    assert "--peeled Without the skin." in lines
    assert "--chef <str> Who cooks." in lines
    assert "--table <str> Which table. [required]" in lines


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"table": 3}, "table: Input should be a valid string"),
        ({}, "table: Field required; give it as table=..."),
        ({"tabel": "old"}, "unknown key tabel; allowed here: table"),
    ],
)
def test_settings_refuse_nonsense_from_python_in_one_line(wrong, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        Place(**wrong)


def test_a_list_without_names_is_misuse():
    with pytest.raises(UsageError, match="a list ' , ' without names found"):
        Fruit(baskets=("a",), kinds=" , ")


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_write_files_may_be_quiet_and_all_mean_the_same(verb):
    parts = [p.annotation for p in signature(load_verb(verb), eval_str=True).parameters.values()]
    fields = {
        name: field for part in parts for name, field in getattr(part, "model_fields", {}).items()
    }
    assert ("quiet" in fields) == bool({"output", "folder"} & fields.keys())
    if "quiet" in fields:
        assert fields["quiet"].description == QUIET.description
