from __future__ import annotations

from pathlib import Path

import pytest

from genobird.errors import UsageError
from genobird.runs import (
    FRESH,
    Start,
    begun,
    differences,
    flat,
    may_replace,
    partial_of,
    refuse_other,
)

RESUME = Start(resume=True)
ASKED = {"model": "0123", "limit": None, "exclude": ["chr1:1-5"]}


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
    message = r"another run \(limit not given, now 5; exclude \['chr1:1-5'\], now \[\]\); give what"
    with pytest.raises(UsageError, match=message), begun([tmp_path / "out"], other, RESUME):
        pass
    assert partial_of(tmp_path / "out").exists()
    refuse_other(tmp_path, ASKED, dict(ASKED))
    assert differences(ASKED, ASKED) == []


def test_facts_by_section_are_flat_and_places_are_no_facts():
    facts = {"fit": {"steps": 3, "betas": (0.9, 0.99)}, "data": {"path": Path("x"), "more": None}}
    assert flat(facts) == {"fit.steps": 3, "fit.betas": [0.9, 0.99], "data.more": None}
