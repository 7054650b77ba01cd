from contextvars import Context
from pathlib import Path

import pytest
from pydantic import BaseModel

from genobird.errors import GenobirdError, InputError, OutputError, UsageError
from genobird.tasks.fit import FitSettings
from genobird.tasks.run_folder import run_folder


class Settings(BaseModel):
    fit: FitSettings


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(folder, *, resume=False, force=False, steps=5, log=True, save=True, bad=False, fail=None):
    """A run that logs, saves its state, fails if asked to, and writes its model."""
    settings = Settings(fit=FitSettings(steps=steps))
    with run_folder(folder, settings, resume=resume, force=force):
        if log:
            (folder / "logs").mkdir(exist_ok=True)
            (folder / "logs" / "metrics.csv").write_text(f"{steps}\n")
        if save:
            (folder / "states").mkdir(exist_ok=True)
            (folder / "states" / "plan.json").write_text(f"{steps}\n")
        if bad:
            (folder / "not-finite.pt").write_text("batch")
        if fail is not None:
            raise fail
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "provenance.json").write_text(f"model.safetensors {steps}\n")


@pytest.fixture
def finished(tmp_path):
    """A finished run, with a file of its user in it."""
    folder = tmp_path / "run"
    run(folder)
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"force": True}], ids=repr)
def test_a_folder_has_one_run_at_a_time(tmp_path, how):
    # The second one found an empty folder, or set aside what the first was writing.
    folder = tmp_path / "run"
    with run_folder(folder, Settings(fit=FitSettings()), resume=False, force=False):
        before = contents(tmp_path)
        with pytest.raises(OutputError, match="run is in use: another run writes the same output"):
            Context().run(run, folder, **how)  # as another process has it
        assert contents(tmp_path) == before
    run(folder, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


FAILURES = [InputError("no such file"), KeyboardInterrupt(), SystemExit(143)]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_what_is_replaced_stays_if_the_new_run_saves_nothing(finished, failure):
    before = contents(finished)
    with pytest.raises(type(failure)):
        run(finished, force=True, steps=9, save=False, fail=failure)
    assert contents(finished) == before


def test_what_is_replaced_is_kept_until_the_new_run_has_ended(finished):
    with pytest.raises(KeyboardInterrupt):
        run(finished, force=True, steps=9, fail=KeyboardInterrupt())
    assert contents(finished)["states/plan.json"] == "9\n"
    assert contents(finished)[".replaced/model/provenance.json"] == "model.safetensors 5\n"
    run(finished, resume=True, steps=9)
    assert not (finished / ".replaced").exists()
    found = contents(finished)
    assert found["model/provenance.json"] == "model.safetensors 9\n"
    assert "steps: 9" in found["config.yaml"]
    assert found["notes.txt"] == "mine"


def test_a_run_that_was_killed_before_it_saved_anything_gives_the_old_one_back(finished):
    before = contents(finished)
    settings = Settings(fit=FitSettings())
    with run_folder(finished, settings, resume=False, force=True):
        (finished / "logs").mkdir()
        killed = contents(finished)
    # As kill -9 leaves it.
    for name, text in killed.items():
        path = finished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (finished / "logs").mkdir(exist_ok=True)
    with pytest.raises(UsageError, match="run/model exists; choose another name"):
        run(finished)
    assert contents(finished) == before


def test_force_replaces_runs_alone(tmp_path):
    folder = tmp_path / "project"
    (folder / "logs").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "logs" / "thesis.txt").write_text("years")
    with pytest.raises(
        UsageError, match="project exists and is no run of genobird: it holds logs, m"
    ):
        run(folder, force=True)
    (folder / "config.yaml").write_text("theirs: 1")
    with pytest.raises(UsageError, match="and is no run of genobird"):
        run(folder, force=True)
    assert (folder / "logs" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}])
@pytest.mark.parametrize("name", ["thesis.txt", "config.yaml", "held_out.json"])
def test_a_folder_of_other_files_is_no_place_for_a_run(tmp_path, name, how):
    (tmp_path / name).write_text("years: 5")
    message = f"exists and is no run of genobird: it holds {name}, which --force does not remove"
    with pytest.raises(UsageError, match=message):
        run(tmp_path, **how)
    assert contents(tmp_path) == {name: "years: 5"}


def test_a_run_of_an_older_version_goes_on_and_is_known_from_then_on(tmp_path):
    with pytest.raises(GenobirdError):
        run(tmp_path, fail=InputError("stopped"))
    settings = tmp_path / "config.yaml"
    written = settings.read_text()
    settings.write_text(written.removeprefix("# Settings of a run of genobird\n"))
    with pytest.raises(UsageError, match=r"is no run of genobird: it holds config\.yaml"):
        run(tmp_path, force=True)
    run(tmp_path, resume=True)
    assert settings.read_text() == written
    run(tmp_path, force=True)


@pytest.mark.parametrize("how", [{"force": True}, {"resume": True}])
def test_a_folder_called_model_is_no_run(tmp_path, how):
    # --resume trained beside it, and was refused only when the model was written.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="exists and is no run of genobird: it holds model"):
        run(tmp_path, **how)
    assert contents(tmp_path) == {"model/thesis.txt": "years"}


SETTINGS = "fit:\n  max_epochs: 3\n"  # what LightningCLI calls config.yaml begins so


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}])
@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": SETTINGS, "logs/thesis.txt": "years"},
        {"config.yaml": SETTINGS, "model/thesis.txt": "years"},
        {"not-finite.pt": "theirs"},
    ],
    ids=repr,
)
def test_a_run_of_another_program_is_no_run_of_genobird(tmp_path, files, how):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="exists and is no run of genobird: it holds"):
        run(tmp_path, **how)
    assert contents(tmp_path) == files


@pytest.mark.parametrize("how", [{"force": True}, {"resume": True}])
@pytest.mark.parametrize("inner", ["model", "logs", "states", "encoded"])
def test_a_file_of_its_user_in_a_folder_of_a_run_is_spared(finished, inner, how):
    (finished / inner).mkdir(exist_ok=True)
    (finished / inner / "thesis.txt").write_text("years")
    before = contents(finished)
    with pytest.raises(
        UsageError, match=rf"{inner} holds thesis\.txt, which genobird does not wri"
    ):
        run(finished, **how)
    assert contents(finished) == before


def test_a_folder_with_the_batch_that_ended_a_run_takes_another(tmp_path):
    with pytest.raises(GenobirdError):
        run(tmp_path, log=False, save=False, bad=True, fail=GenobirdError("is not finite"))
    assert sorted(contents(tmp_path)) == ["config.yaml", "not-finite.pt"]
    run(tmp_path, steps=9)
    assert "steps: 9" in contents(tmp_path)["config.yaml"]


def test_an_empty_folder_with_what_a_scheduler_notes_takes_a_run(tmp_path):
    (tmp_path / ".snakemake_timestamp").touch()
    run(tmp_path, resume=True)
    assert (tmp_path / "model" / "provenance.json").exists()


@pytest.mark.parametrize("inner", ["model", "model/model.safetensors", "encoded"])
def test_what_a_run_reads_is_not_replaced_by_it(tmp_path, finished, inner):
    class Continued(Settings):
        checkpoint: Path

    settings = Continued(fit=FitSettings(), checkpoint=finished / inner)
    before = contents(tmp_path)
    with (
        pytest.raises(UsageError, match=r"checkpoint .*run/.* lies in the output .*/run, where"),
        run_folder(finished, settings, resume=False, force=True),
    ):
        pass
    assert contents(tmp_path) == before
    beside = Continued(fit=FitSettings(), checkpoint=finished / "notes.txt")
    with run_folder(finished, beside, resume=False, force=True):
        assert (finished / "notes.txt").read_text() == "mine"


def test_a_refused_run_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, fail=KeyboardInterrupt())
    before = contents(folder)
    with pytest.raises(
        UsageError, match="run holds what an interrupted run has done; pass --resume to"
    ):
        run(folder, steps=77)
    with pytest.raises(UsageError, match="choose one"):
        run(folder, steps=77, resume=True, force=True)
    assert contents(folder) == before
    with pytest.raises(KeyboardInterrupt):  # resumed with other settings: those it began with stay
        run(folder, steps=77, resume=True, fail=KeyboardInterrupt())
    assert contents(folder)["config.yaml"] == before["config.yaml"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path, resume):
    with pytest.raises(InputError):
        run(tmp_path / "new", resume=resume, log=False, save=False, fail=InputError("no file"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [False, True])
def test_the_batch_that_ended_a_run_before_it_saved_anything_stays(tmp_path, finished, force):
    folder = finished if force else tmp_path / "new"
    before = contents(finished)
    with pytest.raises(GenobirdError, match="is not finite"):
        run(folder, force=force, steps=9, save=False, bad=True, fail=GenobirdError("is not finite"))
    found = contents(folder)
    assert found.pop("not-finite.pt") == "batch"
    if force:
        assert found == before
    else:
        assert found["logs/metrics.csv"] == "9\n"
        assert "steps: 9" in found["config.yaml"]


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}])
def test_a_link_that_leads_nowhere_is_no_folder(tmp_path, how):
    (tmp_path / "link").symlink_to("gone")
    for output in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(UsageError, match="link is a link that leads nowhere, and output"):
            run(output, **how)
    assert not (tmp_path / "gone").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "g.fa").write_text(">chr1")
    with pytest.raises(UsageError, match=r"g\.fa is a file, and .* needs a folder there"):
        run(tmp_path / "g.fa", force=True)
    with pytest.raises(UsageError, match=r"g\.fa is a file, and .* needs a folder there"):
        run(tmp_path / "g.fa" / "run", force=True)
