"""What is declared is imported and the other way round; without an extra, one line names it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

import genobird
from genobird import names
from genobird.checkpoint import bundled_model
from genobird.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NOT_IMPORTED = {"snakemake", "tensorboard"}
"""A program; and what a logger of Lightning needs."""

BASE_INSTALL = """
import contextlib, importlib.abc, io, json, sys
absent = set(json.loads(sys.argv[1]))

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from genobird.cli import main
for command in json.loads(sys.argv[2]):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(command.split())
    print(json.dumps([code, told.getvalue()]))
"""


def distribution(requirement: str) -> str:
    return re.split(r"[<>=!~;\\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def distributions(requirements: Iterable[str]) -> set[str]:
    return {distribution(one) for one in requirements} - {"genobird"}


def imported(package: str) -> set[str]:
    """Distributions whose modules the files of a package import."""
    modules = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
                modules |= {one.value for one in node.args[:1] if isinstance(one, ast.Constant)}
    return distributions_of({module.partition(".")[0] for module in modules} - {"pipelines"})


def distributions_of(modules: Iterable[str]) -> set[str]:
    known = importlib.metadata.packages_distributions()
    names = set()
    for module in set(modules) - sys.stdlib_module_names - {"genobird"}:
        names.add(distribution(known.get(module, [module])[0]))
    return names


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    base = distributions(PROJECT["dependencies"])
    optional = {
        name: distributions(PROJECT["optional-dependencies"][name])
        for name in ("train", "anndata", "bigwig", "gpu", "hf", "serve", "workflow")
    }
    declared = base.union(*optional.values())
    found = imported("genobird") | imported("pipelines")
    assert found <= declared
    assert declared - NOT_IMPORTED <= found
    assert base - NOT_IMPORTED <= imported("genobird")


def test_the_extra_of_each_module_is_where_it_is_declared():
    for extra, modules in names.EXTRAS.items():
        declared = distributions(PROJECT["optional-dependencies"][extra])
        assert distributions_of(modules) == declared


def test_every_direct_dependency_has_one_tested_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if line and not line.startswith("#")}
    extras_of = PROJECT["optional-dependencies"]
    groups = [extras_of[name] for name in extras_of if name != "slurm"]  # installed by itself
    assert pinned == distributions(PROJECT["dependencies"]).union(*map(distributions, groups))


def test_a_module_that_is_not_there_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"^x\.mat needs h5py, .* 'genobird\[train\]'$"):
        names.require("h5py", "x.mat")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        names.require("no_such_module", "x")


def test_a_public_name_that_needs_an_extra_names_it(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name="pytorch_lightning")

    monkeypatch.setattr(names, "import_module", absent)
    monkeypatch.delitem(vars(genobird), "pretrain", raising=False)
    with pytest.raises(UsageError, match=r"^genobird\.pretrain needs .* 'genobird\[train\]'$"):
        genobird.pretrain  # noqa: B018


def test_verbs_that_need_an_extra_end_with_one_line_that_names_it(tiny_checkpoint, tmp_path):
    absent = [module for modules in names.EXTRAS.values() for module in modules]
    out, bundled = tmp_path / "out", bundled_model()
    commands = [
        f"serve --model {tiny_checkpoint}",
        f"pretrain --output {out}",
        f"finetune chromatin --output {out}",
        f"finetune promoter --output {out}",
        f"finetune mlm --output {out}",
        f"baselines --output {out}",
        f"evaluate {tiny_checkpoint} --output {out}",
        f"card {bundled} --evaluation {bundled}/evaluation.json --output {out}.md",
    ]
    result = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, json.dumps(absent), json.dumps(commands)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line) for line in result.stdout.splitlines()]
    for command, (code, text) in zip(commands, told, strict=True):
        assert code == 2, text
        verb = command.split()[0]
        assert re.fullmatch(
            rf"genobird: error: genobird {verb} needs \w+, which is not installed; "
            rf"pip install 'genobird\[{'serve' if verb == 'serve' else 'train'}\]'\n",
            text,
        )
