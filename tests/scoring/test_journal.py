from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from genobird import __version__
from genobird.errors import OutputError, UsageError
from genobird.genome.fasta import Genome
from genobird.runs import Start, may_replace, partial_of
from genobird.scoring import journal as module
from genobird.scoring.journal import (
    hash_of_file,
    hash_of_genome,
    identity_of,
    is_scored,
    kept,
    pack_frame,
    unpack_frame,
)

RESUME = Start(resume=True)
IDENTITY = {"model": "0123", "genome": "abcd", "chunk": 2}


def frame_of(number: int, scored: bool = True) -> pd.DataFrame:
    value = number + 0.1 if scored else np.nan
    return pd.DataFrame(
        {"chrom": ["chr1"], "record": [number], "a|delta": np.array([value], np.float32)}
    )


class Work:
    """Scores chunks, and notes which."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int, scored: bool = True) -> Callable[[], pd.DataFrame]:
        def make() -> pd.DataFrame:
            self.made.append(number)
            return frame_of(number, scored)

        return make


class Killed(BaseException):
    pass


def run(
    output: Path,
    numbers: Sequence[int],
    *,
    stop: type[BaseException] | None = None,
    unscored: Sequence[int] = (),
    contents: Sequence[str] | None = None,
    identity: dict[str, str | int] | None = None,
    **options: bool,
) -> tuple[list[int], list[pd.DataFrame]]:
    """A run over these chunks that stops behind the last one; what was scored, and all frames."""
    work, frames = Work(), []
    try:
        with kept([output], identity or IDENTITY, Start(**options)) as journal:
            for number in numbers:
                content = f"item {number}" if contents is None else contents[number]
                make = work(number, number not in unscored)
                frames.append(journal.begin(number, [content], lambda made=make: made)())
            if stop is not None:
                raise stop
    except Killed:
        pass
    return work.made, frames


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_run_leaves_nothing(tmp_path):
    made, _ = run(tmp_path / "out.tsv", [0, 1, 2])
    assert made == [0, 1, 2]
    assert names(tmp_path) == []


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, caplog):
    output = tmp_path / "out.tsv"
    with caplog.at_level(logging.WARNING):
        run(output, [0, 1], stop=Killed)
    assert "out.tsv.partial keeps what is done; the same command with --resume" in caplog.text
    assert names(tmp_path) == ["out.tsv.partial"]
    made, frames = run(output, [0, 1, 2, 3], resume=True, stop=Killed)
    assert made == [2, 3]
    made, frames = run(output, [0, 1, 2, 3, 4], resume=True)
    assert made == [4]
    for number, frame in enumerate(frames):
        pd.testing.assert_frame_equal(frame, frame_of(number))
    assert names(tmp_path) == []


def test_each_chunk_is_on_disk_before_the_next_is_scored(tmp_path, monkeypatch):
    output = tmp_path / "out.tsv"
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(partial_of(output).read_bytes()))
    with kept([output], IDENTITY, Start()) as journal:
        for number in range(3):
            before = partial_of(output).read_bytes()
            assert synced[-1] == before
            journal.begin(number, [f"item {number}"], partial(Work(), number))()
            assert len(synced[-1]) > len(before)
        journal.seal()
        assert synced[-1].startswith(b"genobird run 1 done")


def test_resume_without_an_earlier_run_begins(tmp_path):
    made, _ = run(tmp_path / "out.tsv", [0, 1], resume=True)
    assert made == [0, 1]


def test_chunks_that_cost_nothing_are_not_kept(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [0, 1], unscored=[0, 1], stop=Killed)
    assert names(tmp_path) == []
    run(output, [0, 1, 2, 3], unscored=[0, 2], stop=Killed)
    made, _ = run(output, [0, 1, 2, 3, 4], unscored=[0, 2], resume=True)
    assert made == [0, 2, 4]


def test_a_chunk_that_was_not_scored_before_later_ones_is_of_another_input(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [0, 1], unscored=[0], stop=Killed)
    with kept([output], IDENTITY, Start(resume=True)) as journal:
        begun = [journal.begin(number, [f"item {number}"], lambda: Work()(0)) for number in (0, 1)]
        with pytest.raises(UsageError, match="a run over another input"):
            begun[0]()


def test_chunks_of_a_shard_have_gaps(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [1, 4], stop=Killed)
    made, _ = run(output, [1, 4, 7], resume=True)
    assert made == [7]


def test_earlier_work_is_neither_lost_nor_taken_over_silently(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [0, 1], stop=Killed)
    before = partial_of(output).read_bytes()
    with pytest.raises(UsageError, match=r"out\.tsv\.partial holds .* pass --resume .* --force"):
        run(output, [0, 1])
    assert partial_of(output).read_bytes() == before
    made, _ = run(output, [0, 1], force=True)
    assert made == [0, 1]


def test_force_with_resume_goes_on(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [0, 1], stop=Killed)
    made, _ = run(output, [0, 1, 2], force=True, resume=True)
    assert made == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "4567"},
            r"another run \(model 4567, before 0123\); give what it was begun with",
        ),
        ({"model": "4567", "chunk": 3}, r"\(model 4567, before 0123; chunk 3, before 2\)"),
        ({"shard": "1/2"}, r"\(shard 1/2, before not given\)"),
    ],
)
def test_work_of_another_run_is_refused_with_what_differs(tmp_path, changes, message):
    output = tmp_path / "out.tsv"
    run(output, [0], stop=Killed)
    before = partial_of(output).read_bytes()
    with pytest.raises(UsageError, match=message):
        run(output, [0], identity=IDENTITY | changes, resume=True)
    assert partial_of(output).read_bytes() == before


@pytest.mark.parametrize("contents", [["other", "item 1"], ["item 0", "other"], ["item 0"], []])
def test_another_input_is_refused(tmp_path, contents):
    output = tmp_path / "out.tsv"
    run(output, [0, 1], stop=Killed)
    before = partial_of(output).read_bytes()
    with pytest.raises(UsageError, match="of a run over another input; give the same one"):
        run(output, range(len(contents)), contents=contents, resume=True)
    assert partial_of(output).read_bytes() == before


def test_an_input_without_work_where_there_was_some_is_refused(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [0, 1, 2], unscored=[0, 2], stop=Killed)
    before = partial_of(output).read_bytes()
    with kept([output], IDENTITY, RESUME) as journal:
        journal.skip(0)
        with pytest.raises(UsageError, match="another input"):
            journal.skip(1)
        assert partial_of(output).read_bytes() == before
        journal.begin(1, ["item 1"], lambda: lambda: frame_of(1))()
        journal.skip(2)


def test_an_input_with_work_where_there_was_none_is_refused(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, [0, 1], unscored=[0], stop=Killed)
    with pytest.raises(UsageError, match="another input"):
        run(output, [0, 1], resume=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), junk=st.binary(max_size=40))
def test_a_journal_cut_at_any_byte_loses_only_what_was_not_whole(tmp_path, cut, junk):
    output = tmp_path / "out.tsv"
    path = partial_of(output)
    path.unlink(missing_ok=True)
    run(output, range(5), stop=Killed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))] + junk)
    assume(whole.startswith(path.read_bytes()[:24]))  # no other head is ever written
    made, frames = run(output, range(7), resume=True)
    assert made == list(range(made[0], 7))
    for number, frame in enumerate(frames):
        pd.testing.assert_frame_equal(frame, frame_of(number))


def test_every_whole_entry_of_a_cut_journal_is_used(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, range(3), stop=Killed)
    path = partial_of(output)
    path.write_bytes(path.read_bytes()[:-1])
    made, _ = run(output, range(3), resume=True)
    assert made == [2]


def test_a_damaged_entry_is_scored_again(tmp_path):
    output = tmp_path / "out.tsv"
    run(output, range(3), stop=Killed)
    data = bytearray(partial_of(output).read_bytes())
    data[-20] ^= 1
    partial_of(output).write_bytes(data)
    made, _ = run(output, range(3), resume=True)
    assert made == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notes of mine\n", "no ledger of genobird, whose place it takes; move it away"),
        ("genobird run 2 open\n{}\n", "by another version of genobird; finish with that"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"force": True}, {"resume": True}])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, text, message, options):
    output = tmp_path / "out.tsv"
    partial_of(output).write_text(text)
    with pytest.raises(UsageError, match=message):
        run(output, [0], **options)
    assert partial_of(output).read_text() == text


def test_two_runs_never_write_the_same_output(tmp_path):
    output = tmp_path / "out.tsv"
    with kept([output], IDENTITY, Start()) as journal:
        journal.begin(0, ["item 0"], lambda: Work()(0))()
        for options in ({"resume": True}, {"force": True}):
            with pytest.raises(OutputError, match="in use: another run writes the same output"):
                run(output, [0], **options)
    assert names(tmp_path) == []


def test_a_run_killed_while_its_outputs_got_their_names_may_replace_them(tmp_path):
    output = tmp_path / "out.tsv"
    assert not may_replace(output, RESUME)
    run(output, [0], stop=Killed)
    assert not may_replace(output, RESUME)
    with pytest.raises(Killed), kept([output], IDENTITY, RESUME) as journal:  # noqa: PT012
        journal.begin(0, ["item 0"], lambda: Work()(0))()
        journal.seal()
        raise Killed
    assert may_replace(output, RESUME)
    with pytest.raises(UsageError, match="pass --resume"):
        may_replace(output, Start())
    made, _ = run(output, [0], resume=True)
    assert made == []


def test_nothing_can_be_resumed_without_a_file_or_a_saved_model(tmp_path):
    with pytest.raises(UsageError, match="standard output cannot be resumed"):
        may_replace("-", RESUME)
    with kept(["-"], IDENTITY, Start()) as journal:
        journal.begin(0, ["item 0"], lambda: Work()(0))()
    unsaved = IDENTITY | {"model": ""}
    with pytest.raises(UsageError, match="never saved cannot resume"):
        run(tmp_path / "out.tsv", [0], identity=unsaved, resume=True)
    made, _ = run(tmp_path / "out.tsv", [0, 1], identity=unsaved)
    assert made == [0, 1]
    assert names(tmp_path) == []


def test_a_journal_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    output = tmp_path / "out.tsv"
    with kept([output], IDENTITY, Start()) as journal:
        size = partial_of(output).stat().st_size
        monkeypatch.setattr(os, "pwrite", _full_disk)
        with pytest.raises(OutputError, match=r"out\.tsv\.partial cannot be written: No space"):
            journal.seal()
    assert size > 0
    with pytest.raises(OutputError, match=r"out\.tsv cannot be written: .*; check space and perm"):
        run(Path("/sys/out.tsv"), [0])


def _full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("second", ["", "{", "[]", "3", "\xff", "[" * 9_000, '{"a": 1}trailing'])
def test_a_damaged_head_is_one_clear_error(tmp_path, second):
    output = tmp_path / "out.tsv"
    partial_of(output).write_bytes(b"genobird run 1 open\n" + second.encode() + b"\nmore")
    for options in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(UsageError, match=r"out\.tsv\.partial is damaged in its second line"):
            run(output, [0], **options)
    assert names(tmp_path) == ["out.tsv.partial"]


@pytest.mark.parametrize("there", [True, False])
def test_a_journal_is_never_written_through_a_link(tmp_path, there):
    output, victim = tmp_path / "out.tsv", tmp_path / "victim"
    if there:
        victim.touch()
    partial_of(output).symlink_to(victim)
    for options in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(OutputError, match=r"out\.tsv\.partial is no file of its own"):
            run(output, [0], **options)
    assert victim.exists() == there
    assert not there or victim.read_bytes() == b""


def test_identity_holds_what_decides_scores(scorer):
    found = identity_of(scorer, None, genome="abc")
    assert (
        found.items()
        >= {
            "version": __version__,
            "model": scorer.model_hash,
            "--features": "all",
            "--device": "cpu",
            "chunk": scorer.chunk,
            "genome": "abc",
        }.items()
    )
    assert identity_of(scorer, ["TF", "DNase"])["--features"] == "TF,DNase"


def test_a_file_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"ACGT")
    assert hash_of_file(path) == hashlib.sha256(b"ACGT").hexdigest()[:16]


@pytest.mark.parametrize("size", [1 << 16, 64])  # all bytes, or samples
def test_a_genome_is_known_wherever_it_lies_and_by_any_name(tmp_path, monkeypatch, size):
    monkeypatch.setattr(module, "_SAMPLE", size)
    monkeypatch.setattr(module, "_SAMPLES", 4)

    def hash_of(name: str, text: str) -> str:
        path = tmp_path / name
        packed = name.endswith(".gz")
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
        with Genome(path) as genome:
            return hash_of_genome(genome)

    text = ">chr1\n" + "ACGTTGCA" * 200 + "\n"
    original = hash_of("a.fa", text)
    assert hash_of("b.fa", text) == original
    others = [
        hash_of("c.fa", text.replace("chr1", "chr2")),
        hash_of("d.fa", text[:-2] + "\n"),
        hash_of("e.fa", text.replace("AC", "AT")),
    ]
    assert original not in others
    assert hash_of("f.fa.gz", text) != hash_of("g.fa.gz", text.replace("GCA", "GCG", 1))


FLOATS = st.floats(width=32, allow_nan=True)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Columns of every type that scores have, mixed, of the same number of rows."""
    rows = draw(st.integers(0, 5))

    def several(values: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    kinds = {
        "text": lambda: pd.Series(several(st.text(max_size=4)), dtype="str"),
        "gaps": lambda: pd.Series(several(st.none() | st.text(max_size=4)), dtype="str"),
        "none": lambda: pd.Series([None] * rows, dtype=object),
        "int": lambda: np.array(several(st.integers(-9, 2**40)), np.int64),
        "Int": lambda: pd.array(several(st.none() | st.integers(-9, 2**40)), "Int64"),
        "flag": lambda: np.array(several(st.booleans()), bool),
        "single": lambda: np.array(several(FLOATS), np.float32),
        "double": lambda: np.array(several(st.floats()), np.float64),
    }
    order = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=12))
    return pd.DataFrame({f"{kind}|{place}": kinds[kind]() for place, kind in enumerate(order)})


@settings(max_examples=60)
@given(frame=frames())
def test_a_frame_comes_back_as_it_was(frame):
    pd.testing.assert_frame_equal(unpack_frame(pack_frame(frame)), frame, check_exact=True)


def test_hundreds_of_columns_cost_little_more_than_their_floats():
    values = np.arange(16 * 700, dtype=np.float32).reshape(16, 700)
    frame = pd.DataFrame(values, columns=[f"cell|mark|{place}|delta" for place in range(700)])
    frame.insert(0, "chrom", "chr20")
    assert len(pack_frame(frame)) < 1.25 * values.nbytes


@pytest.mark.parametrize(
    ("values", "scored"),
    [([np.nan, np.nan], False), ([np.nan, 0.5], True), ([], False), ([np.inf, np.nan], False)],
)
def test_scored_is_a_frame_with_a_number_in_a_float_column(values, scored):
    numbers = np.arange(len(values), dtype=np.int64)
    frame = pd.DataFrame({"pos": numbers, "a|delta": np.array(values, np.float32)})
    assert is_scored(frame) == scored
    assert not is_scored(frame[["pos"]])
