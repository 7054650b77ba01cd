from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genobird import demo
from genobird.cli import main
from genobird.cli.app import VERBS
from pipelines import steps
from tests.golden.cases import CASES, LOOSE
from tests.golden.transcript import ABSOLUTE, differences, transcript
from tests.golden.world import make_world

RECORDED = Path(__file__).with_name("recorded")
# What `doctor` shows is of the machine, a schema follows the settings, and a page stays open.
NOT_RECORDED = {"doctor", "export-hf", "import-hf", "schema", "serve"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, tiny_tokenizer)
    return folder


@pytest.fixture
def folder(world, tmp_path, monkeypatch):
    """An empty folder to work in, with the world as `in`."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "in").symlink_to(world)
    monkeypatch.chdir(here)
    monkeypatch.setattr(demo, "bundled", lambda name: world / "demo" / name)
    return here


def run(command, *arguments):
    """Run a verb of genobird or a step of `pipelines`; return its exit code."""
    if not command.startswith("pipelines."):
        return main([command, *arguments])
    step = steps.command(import_module(command).main)
    return CliRunner().invoke(step, arguments).exit_code


@pytest.mark.parametrize("name", CASES)
def test_commands_write_what_they_wrote(name, folder, capsys, pytestconfig):
    streams = {}
    for number, words in enumerate(CASES[name].split(" && "), start=1):
        code = run(*shlex.split(words))
        out, err = capsys.readouterr()
        streams |= {
            f"{number} exit code": str(code),
            f"{number} output": out,
            f"{number} errors": err,
        }
    found = transcript(folder, streams)
    path = RECORDED / f"{name}.txt"
    if pytestconfig.getoption("update_golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in found))
        return
    expected = path.read_text().splitlines()
    exact, absolute = pytestconfig.getoption("exact_golden"), LOOSE.get(name, ABSOLUTE)
    different = list(differences(expected, found, exact, absolute))
    assert not different, "\n".join([f"genobird {CASES[name]}", *different[:20]])


def test_every_recording_has_its_commands():
    assert {path.stem for path in RECORDED.iterdir()} == set(CASES)


def test_every_verb_is_recorded():
    commands = [f"{words} " for line in CASES.values() for words in line.split(" && ")]
    missing = {verb for verb in VERBS if not any(c.startswith(f"{verb} ") for c in commands)}
    assert missing == NOT_RECORDED
