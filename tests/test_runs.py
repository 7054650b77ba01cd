from __future__ import annotations

import json
from pathlib import Path

import pytest

from genobird.errors import UsageError
from genobird.files import Kind
from genobird.runs import (
    FRESH,
    Start,
    begun,
    begun_folder,
    differences,
    flat,
    may_replace,
    partial_of,
    refuse_other,
)

RESUME = Start(resume=True)
ASKED = {"model": "0123", "limit": None, "exclude": ["chr1:1-5"]}


KIND = Kind("folder of tests", "asked", ("asked", "work"), "model")


class Killed(BaseException):
    pass


def stopped(output: Path, *entries: bytes, sealed: bool = False) -> None:
    """A run that is killed when it has done this much."""
    with pytest.raises(Killed), begun([output], ASKED) as ledger:  # noqa: PT012
        for entry in entries:
            ledger.append(entry)
        if sealed:
            ledger.seal()
        raise Killed


def entries_of(ledger) -> list[bytes]:
    found = []
    while (entry := ledger.peek()) is not None:
        found.append(entry)
        ledger.advance()
    return found


def test_a_run_goes_on_behind_what_an_earlier_one_did(tmp_path):
    output = tmp_path / "out"
    stopped(output, b"one", b"two")
    with pytest.raises(Killed), begun([output], ASKED, RESUME) as ledger:  # noqa: PT012
        assert entries_of(ledger) == [b"one", b"two"]
        ledger.append(b"three")
        raise Killed
    with begun([output], ASKED, RESUME) as ledger:
        assert entries_of(ledger) == [b"one", b"two", b"three"]
    assert not partial_of(output).exists()


def test_work_that_is_not_read_is_not_lost(tmp_path):
    output = tmp_path / "out"
    stopped(output, b"one", b"two")
    before = partial_of(output).read_bytes()
    with (
        pytest.raises(UsageError, match="a run over another input"),
        begun([output], ASKED, RESUME) as ledger,
    ):
        ledger.append(b"other")
    with (
        pytest.raises(UsageError, match="a run over another input"),
        begun([output], ASKED, RESUME) as ledger,
    ):
        ledger.advance()
    assert partial_of(output).read_bytes() == before


def test_outputs_of_a_shorter_input_get_no_names(tmp_path):
    output = tmp_path / "out"
    stopped(output, b"one", b"two")
    with begun([output], ASKED, RESUME) as ledger:
        ledger.advance()
        with pytest.raises(UsageError, match="a run over another input"):
            ledger.seal()
        assert may_replace(output, RESUME) is False  # it is not marked as complete
        ledger.advance()


def test_an_identity_that_could_not_be_read_back_is_not_written(tmp_path):
    long = {"exclude": "chr1:1-5 " * 200_000}
    with pytest.raises(ValueError, match="goes in as its hash"), begun([tmp_path / "out"], long):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_may_keep_nothing(tmp_path):
    with pytest.raises(Killed), begun([tmp_path / "out"], ASKED, Start(is_kept=False)) as ledger:  # noqa: PT012
        assert ledger is None
        raise Killed
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_did_nothing_leaves_nothing(tmp_path):
    stopped(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_a_run_whose_outputs_were_complete_may_be_replaced_when_it_is_resumed(tmp_path):
    for name, sealed in (("open", False), ("done", True)):
        stopped(tmp_path / name, b"one", sealed=sealed)
        assert may_replace(tmp_path / name, RESUME) == sealed
        with pytest.raises(UsageError, match=r"\.partial holds what an interrupted run has done"):
            may_replace(tmp_path / name, FRESH)


def test_another_run_is_refused_with_each_key_that_differs(tmp_path):
    stopped(tmp_path / "out", b"one")
    other = {"model": "0123", "limit": 5, "exclude": []}
    message = r"another run \(limit 5, before not given; exclude none, before chr1:1-5\); give what"
    with pytest.raises(UsageError, match=message), begun([tmp_path / "out"], other, RESUME):
        pass
    assert partial_of(tmp_path / "out").exists()
    refuse_other(tmp_path, ASKED, dict(ASKED))
    assert differences(ASKED, ASKED) == []


def test_facts_by_section_are_flat_and_places_are_no_facts():
    facts = {"fit": {"steps": 3, "betas": (0.9, 0.99)}, "data": {"path": Path("x"), "more": None}}
    assert flat(facts) == {"fit.steps": 3, "fit.betas": [0.9, 0.99], "data.more": None}


def known(folder):
    """The identity of the work in a folder, which is anything beside what was asked."""
    is_work = (folder / "work").exists()
    return json.loads((folder / "asked").read_text()) if is_work else None


def run_in_folder(output, asked=ASKED, start=FRESH, *work, kill=False):
    """A run that adds words to its work, and is killed if asked to; what it found there."""
    with begun_folder(output, KIND, asked, start, known) as folder:
        file = folder / "work"
        found = file.read_text().split() if file.exists() else []
        (folder / "asked").write_text(json.dumps(asked))
        if work:
            file.write_text(" ".join([*found, *work]))
        if kill:
            raise Killed
    return found


def test_what_is_put_into_a_folder_during_the_run_that_replaces_it_is_not_lost(tmp_path):
    output = tmp_path / "out"
    run_in_folder(output, ASKED, FRESH, "one")
    with begun_folder(output, KIND, ASKED, Start(resume=False, force=True), known) as folder:
        (folder / "asked").write_text("anew")
        (output / "notes.txt").write_text("precious")
    assert (output / "asked").read_text() == "anew"
    assert (output / "notes.txt").read_text() == "precious"
    assert not (output / "work").exists()


def test_the_folder_of_a_run_goes_on_or_is_dropped_and_becomes_the_output(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(Killed):
        run_in_folder(output, ASKED, FRESH, "one", kill=True)
    with pytest.raises(
        UsageError, match=r"out\.partial holds what an interrupted run has done; pass"
    ):
        run_in_folder(output)
    for start in (RESUME, Start(resume=True, force=True)):
        with pytest.raises(
            UsageError, match=r"another run \(limit 5, before not given\); give what"
        ):
            run_in_folder(output, {**ASKED, "limit": 5}, start)
    assert run_in_folder(output, ASKED, RESUME, "two") == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (output / "work").read_text() == "one two"
    with pytest.raises(UsageError, match="out exists; choose another name or pass --force"):
        run_in_folder(output, ASKED, RESUME)
    with pytest.raises(Killed):
        run_in_folder(output, ASKED, Start(force=True), "other", kill=True)
    assert (output / "work").read_text() == "one two"
    assert run_in_folder(output, {"model": "4567"}, Start(force=True), "new") == []
    assert (output / "work").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_without_work_is_not_kept(tmp_path, caplog):
    with pytest.raises(Killed):
        run_in_folder(tmp_path / "out", kill=True)
    assert list(tmp_path.iterdir()) == []
    assert "keeps what is done" not in caplog.text


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "work").write_text("years")
    partial_of(tmp_path / "out").symlink_to(tmp_path / "theirs")
    with pytest.raises(
        UsageError, match=r"out\.partial is a link where a folder of the run would lie"
    ):
        run_in_folder(tmp_path / "out", ASKED, Start(force=True))
    assert (tmp_path / "theirs" / "work").read_text() == "years"


@pytest.mark.parametrize("target", ["earlier", "gone"])
def test_a_link_in_the_place_of_the_output_is_told_before_work_begins(tmp_path, target):
    # A folder cannot be put there: the run failed at its end.
    run_in_folder(tmp_path / "earlier", ASKED, FRESH, "one")
    (tmp_path / "out").symlink_to(target)
    with pytest.raises(UsageError, match="out is a link where a folder of the run would lie"):
        run_in_folder(tmp_path / "out", ASKED, Start(force=True))
    assert not partial_of(tmp_path / "out").exists()
    assert (tmp_path / "earlier" / "work").exists()


def test_a_folder_of_other_things_is_spared(tmp_path):
    theirs = partial_of(tmp_path / "out")
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years")
    for start in (FRESH, RESUME, Start(force=True)):
        with pytest.raises(UsageError, match=r"out\.partial exists and is no folder of tests: it"):
            run_in_folder(tmp_path / "out", ASKED, start)
    assert (theirs / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_a_folder_of_a_run_with_a_file_of_its_user_is_spared(tmp_path, name):
    if name == "out":
        run_in_folder(tmp_path / "out", ASKED, FRESH, "one")
    else:
        with pytest.raises(Killed):
            run_in_folder(tmp_path / "out", ASKED, FRESH, "one", kill=True)
    (tmp_path / name / "notes.txt").write_text("mine")
    with pytest.raises(
        UsageError, match=rf"{name} holds notes\.txt, which genobird does not write"
    ):
        run_in_folder(tmp_path / "out", ASKED, Start(force=True))
    assert (tmp_path / name / "notes.txt").read_text() == "mine"
    assert (tmp_path / name / "work").read_text() == "one"
