from __future__ import annotations

import logging
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from genobird.errors import TableError, UsageError
from genobird.files import Kind
from pipelines import steps

KIND = Kind("index", "index.json", ("index.json", "new"), "")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with suppress(RuntimeError), steps.new_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with steps.new_file(tmp_path / "deep" / "a.txt") as part:
        part.write_text("whole")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with suppress(RuntimeError), steps.new_directory(tmp_path / "a", False, KIND) as part:
        (part / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with steps.new_directory(tmp_path / "a", False, KIND) as part:
        (part / "x").write_text("whole")
    assert (tmp_path / "a" / "x").read_text() == "whole"


def test_what_exists_is_only_replaced_with_force(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "index.json").touch()
    (tmp_path / "f").write_text("old")
    with pytest.raises(UsageError, match="--force"), steps.new_directory(folder, False, KIND):
        pass
    with pytest.raises(UsageError, match="--force"), steps.new_file(tmp_path / "f"):
        pass
    with steps.new_directory(folder, True, KIND) as part:
        (part / "new").touch()
    with steps.new_file(tmp_path / "f", force=True) as part:
        part.write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert (tmp_path / "f").read_text() == "new"


def test_force_spares_what_is_no_result_of_the_step(tmp_path):
    for name in ("other", "empty", "result"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "chapter.txt").touch()
    (tmp_path / "result" / "index.json").touch()
    (tmp_path / "file").touch()
    for name in ("other", "file"):
        message = f"{name} exists and is no index: it .*; choose another name"
        with (
            pytest.raises(UsageError, match=message),
            steps.new_directory(tmp_path / name, True, KIND),
        ):
            pass
    for name in ("empty", "result"):
        with steps.new_directory(tmp_path / name, True, KIND) as part:
            (part / "new").touch()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]
    assert (tmp_path / "other" / "chapter.txt").exists()
    assert (tmp_path / "file").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            UsageError, match=r"file is a file, and output .*a\.txt needs a folder there"
        ),
        steps.new_file(tmp_path / "file" / "a.txt"),
    ):
        pass


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"pipelines\.fetch"):
        steps.sha256(tmp_path / "absent")


@pytest.mark.parametrize(("error", "code"), [(UsageError("bad option"), 2), (TableError("x"), 1)])
def test_errors_end_in_one_line_and_their_exit_code(error, code, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["step"])
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        steps.run(fail)
    assert end.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_the_help_of_a_step_is_what_its_function_says_first():
    def step(output: steps.OutputFolder, force: steps.Force = False) -> None:
        """Do something.

        Raises:
            UsageError: never.
        """

    shown = CliRunner().invoke(steps.command(step), ["--help"]).output
    assert "Do something." in shown
    assert "--output" in shown
    assert "UsageError" not in shown


def test_a_table_without_a_column_or_of_something_else_is_refused(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\n1\t2\n")
    assert steps.read_table(path, ["b"])["b"].tolist() == [2]
    with pytest.raises(TableError, match="has no column c; needed are a, c"):
        steps.read_table(path, ["a", "c"])
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(TableError, match="is no table"):
        steps.read_table(path, ["a"])
