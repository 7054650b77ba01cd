"""What holds for every file of the project."""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import genobird
from genobird import errors

ROOT = Path(__file__).resolve().parents[1]
BUNDLED_MODEL = "genobird/bundled/"
MODEL_LIMIT = 25_000_000
FILE_LIMIT = 2_000_000
MODULE_LINES, FUNCTION_LINES, FUNCTION_PARAMETERS = 600, 80, 12

# What was larger when the rule came; nothing may be added.
STILL_LARGE = {
    "genobird/tasks/evaluate.py:evaluate",
    "genobird/tasks/figures.py:evaluate_chromatin",
    "genobird/tasks/masked.py:predict_masked",
}

# Written in pieces, so that this file holds no such path.
MACHINE_FOLDERS = ("home", "Users", "root", "work", "tmp")
MACHINE_PATH = re.compile(rf"(?<![\w.:/~$}})>-])/(?:{'|'.join(MACHINE_FOLDERS)})/[\w.]+")

HEAVY = ("matplotlib", "pandas", "pyarrow", "pysam", "pytorch_lightning", "sentencepiece", "torch")
PUBLIC = {"Genome", "Interval", "Scorer", "Tokenizer", "Variant", "__version__", "load"}

DRAWN = re.compile(r"^(?P<branch>[│├└─ ]*)(?P<name>\w+)(?: +exit (?P<code>\d):?.*)?")


def commit_files() -> list[Path]:
    """The files that a commit would hold: tracked ones, and new ones that are not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name for name in listing.stdout.split("\0") if name}
    return sorted(path for path in (ROOT / name for name in names) if path.is_file())


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, lines and number of parameters of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            parameters += [one for one in (given.vararg, given.kwarg) if one is not None]
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1, len(parameters)


def error_classes(base: type[errors.GenobirdError]) -> list[type[errors.GenobirdError]]:
    classes = [base]
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            classes += error_classes(child)
    return classes


def drawn_errors() -> dict[str, tuple[str | None, str | None]]:
    """The tree in the docstring of `errors`: name -> (parent, exit code where one is written)."""
    assert errors.__doc__ is not None
    drawn: dict[str, tuple[str | None, str | None]] = {}
    ancestors: list[tuple[int, str]] = []
    for line in errors.__doc__.split("```")[1].strip().splitlines():
        match = DRAWN.match(line)
        assert match is not None
        depth = len(match["branch"])
        while ancestors and ancestors[-1][0] >= depth:
            ancestors.pop()
        drawn[match["name"]] = (ancestors[-1][1] if ancestors else None, match["code"])
        ancestors.append((depth, match["name"]))
    return drawn


def test_no_file_is_larger_than_two_megabytes_but_the_bundled_model():
    large = {}
    for path in commit_files():
        name, size = relative(path), path.stat().st_size
        is_model = name.startswith(BUNDLED_MODEL) and path.suffix == ".safetensors"
        if size > (MODEL_LIMIT if is_model else FILE_LIMIT):
            large[name] = size
    assert not large


def test_no_file_holds_a_path_of_one_machine():
    # The folder around this checkout is looked for under its own name too.
    parent = ROOT.parent.as_posix()
    here = re.compile(rf"(?<!\w){re.escape(parent)}/" if parent != "/" else r"(?!)")
    found = []
    for path in commit_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            found += [
                f"{relative(path)}:{number}: {match.group()}"
                for pattern in (MACHINE_PATH, here)
                if (match := pattern.search(line))
            ]
    assert not found


def test_the_search_for_machine_paths_finds_them_and_spares_addresses():
    for folder in MACHINE_FOLDERS:
        assert MACHINE_PATH.search(f'open("/{folder}/someone/file.txt")')
        assert not MACHINE_PATH.search(f"https://example.org/{folder}/file.txt")
        assert not MACHINE_PATH.search(f"results/{folder}/file.txt")


def test_every_module_has_a_docstring():
    # A test says what it claims by its name; any other file opens with what it is about.
    bare = [
        relative(path)
        for path in commit_files()
        if path.suffix == ".py"
        and not path.name.startswith("test_")
        and path.stat().st_size > 0
        and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert not bare


def test_no_module_is_longer_than_a_chapter():
    lengths = {
        relative(path): len(path.read_text().splitlines())
        for path in commit_files()
        if path.suffix == ".py"
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MODULE_LINES}


def test_no_function_is_long_or_takes_many_parameters():
    found = {
        f"{relative(path)}:{name}": size
        for path in commit_files()
        if path.suffix == ".py" and path.name != "kernels.py"  # Triton's take what CUDA's take
        for name, *size in functions(path.read_text())
    }
    assert found
    large = {
        name: f"{lines} lines, {parameters} parameters"
        for name, (lines, parameters) in found.items()
        if lines > FUNCTION_LINES or parameters > FUNCTION_PARAMETERS
    }
    assert not {name: size for name, size in large.items() if name not in STILL_LARGE}


def test_the_size_of_a_function_is_counted_with_all_its_parameters():
    text = "class A:\n    def f(self, a, /, b, *c, d=1, **e):\n        pass\n"
    assert list(functions(text)) == [("f", 2, 6)]


def test_every_yaml_file_can_be_read():
    files = [path for path in commit_files() if path.suffix in {".yaml", ".yml", ".cff"}]
    assert files
    for path in files:
        assert yaml.safe_load(path.read_text()) is not None, relative(path)


def test_importing_genobird_is_silent_and_light():
    code = "import genobird, json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    assert set(json.loads(result.stdout)).isdisjoint(HEAVY)


def test_public_names_are_sorted_few_and_resolve():
    names = genobird.__all__
    assert names == sorted(names)
    assert len(names) == len(set(names)) <= 16
    assert set(names) >= PUBLIC
    for name in names:
        assert getattr(genobird, name) is not None
    assert set(names) <= set(dir(genobird))


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(genobird, "no_such_name")  # noqa: B009


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == genobird.__version__


def test_import_contracts_are_kept():
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_layers_are_drawn_as_they_are():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    drawn = "\n".join(["```", *layers, "```"])
    assert drawn in (ROOT / "docs/architecture.md").read_text()


def test_the_tree_of_errors_is_drawn_as_it_is():
    classes = error_classes(errors.GenobirdError)
    drawn = {name: parent for name, (parent, _) in drawn_errors().items()}
    assert drawn == {
        cls.__name__: None if cls is errors.GenobirdError else cls.__mro__[1].__name__
        for cls in classes
    }


@pytest.mark.parametrize("cls", error_classes(errors.GenobirdError), ids=lambda cls: cls.__name__)
def test_every_error_ends_with_the_exit_code_that_is_drawn(cls):
    drawn = drawn_errors()
    name: str | None = cls.__name__
    code = None
    while code is None:
        assert name is not None
        name, code = drawn[name]
    assert cls("what was found").exit_code == int(code)
    assert cls.exit_code == (2 if issubclass(cls, errors.UsageError) else 1)
    assert cls.__doc__


def test_the_manifest_of_features_is_the_919_in_order():
    with (ROOT / "data_manifests" / "chromatin_features.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["index"]) for row in rows] == list(range(919))
    assert len({row["column"] for row in rows}) == 919
    for row in rows:
        assert row["column"] in {row["name"], f"{row['name']}#{row['index']}"}
    changes = [
        (int(after["index"]), after["class"])
        for before, after in pairwise(rows)
        if after["class"] != before["class"]
    ]
    assert rows[0]["class"] == "DNase"
    assert changes == [(125, "TF"), (815, "histone")]
