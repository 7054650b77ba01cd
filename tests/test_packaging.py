"""What is built from this project: wheel, sdist and the recipes of other package managers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

import genobird
from tests.test_conventions import commit_files, relative
from tests.test_extras import PROJECT, distributions

ROOT = Path(__file__).resolve().parents[1]
NAME = f"genobird-{genobird.__version__}"
CONDA = {"matplotlib": "matplotlib-base", "torch": "pytorch"}


def build(kind: str, source: Path, output: Path) -> Path:
    """Build with hatchling, and return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", output]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = output.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, sdist):
    """The wheel, from the sdist: what pip makes where there is no wheel."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", folder / NAME, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_with_model_and_licences_and_nothing_else(wheel):
    package = {name for name in map(relative, commit_files()) if name.startswith("genobird/")}
    model = "genobird/bundled/model/"
    assert package >= {"genobird/py.typed", "genobird/bundled/README.md"}
    assert package >= {f"{model}{name}" for name in ("model.safetensors", "background.npz")}
    information = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    with zipfile.ZipFile(wheel) as archive:
        assert {*archive.namelist()} == package | {
            f"{NAME}.dist-info/{name}" for name in information
        }


def test_the_sdist_makes_the_wheel_that_the_checkout_makes(wheel, tmp_path):
    assert build("wheel", ROOT, tmp_path).read_bytes() == wheel.read_bytes()


def test_the_conda_recipe_wants_what_the_project_wants():
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert recipe["package"] == {"name": "genobird", "version": genobird.__version__}
    (command,) = PROJECT["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(command)]
    python, *run = recipe["requirements"]["run"]
    assert python == f"python {PROJECT['requires-python']}" == recipe["requirements"]["host"][0]
    wanted = [re.split("(?=>)", requirement) for requirement in PROJECT["dependencies"]]
    assert sorted(run) == sorted(f"{CONDA.get(name, name)} {least}" for name, least in wanted)
    about = recipe["about"]
    assert (about["summary"], about["license"]) == (PROJECT["description"], PROJECT["license"])


def test_the_container_copies_what_the_wheel_is_built_from():
    text = (ROOT / "Containerfile").read_text()
    copied = {name for line in re.findall("COPY (.*) /source", text) for name in line.split()}
    build_files = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "genobird"}
    assert copied == build_files
    least = PROJECT["requires-python"].removeprefix(">=")
    assert set(re.findall("^FROM (\\S+)", text, re.MULTILINE)) == {
        f"docker.io/library/python:{least}-slim"
    }


@pytest.mark.install
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_an_installation_without_extras_scores_with_the_bundled_model(kind, request, tmp_path):
    """On the Python of TEST_INSTALL_PYTHON, by default that of the tests."""
    python = os.environ.get("TEST_INSTALL_PYTHON", sys.executable)
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / "bin"
    constraints = ["--constraint", str(ROOT / "constraints.txt")]

    def run(program: str, *words: object) -> str:
        command = [programs / program, *map(str, words)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("python", "-m", "pip", "install", *constraints, request.getfixturevalue(kind))
    installed = run("python", "-m", "pip", "list", "--format=freeze").lower()
    extras = distributions(PROJECT["optional-dependencies"]["train"]) | {"snakemake"}
    assert not {line.split("==")[0] for line in installed.splitlines()} & extras
    assert run("genobird", "--version").split()[-1] == genobird.__version__
    run("genobird", "demo", "--output", "demo", "--threads", 1)
    assert set(pd.read_csv(tmp_path / "demo" / "regions.tsv", sep="\t")["status"]) == {"OK"}
