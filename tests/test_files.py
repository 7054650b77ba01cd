from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird import files
from genobird.bits_per_base import BaseBits
from genobird.corpus import build
from genobird.datasets import Predictions, write_arrays
from genobird.errors import OutputError, UsageError
from genobird.files import (
    Draft,
    Kind,
    file_sha256,
    locked,
    open_plain,
    refuse_existing,
    scratch,
    write_text,
)
from genobird.genome.vcf import VcfReader
from genobird.genome.vcf_writer import VcfWriter
from genobird.report.logo import draw_logo
from genobird.scoring.background import Background
from genobird.scoring.regions import _Track, require_backend
from genobird.scoring.table import TableWriter
from genobird.tokenizer import Tokenizer
from pipelines import grch37, steps
from tests.models import tiny_checkpoint

COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
VCF = "##fileformat=VCFv4.2\n##contig=<ID=1,length=9999>\n" + "\t".join(COLUMNS) + "\n"
EFFECTS = np.arange(99.0).reshape(-1, 3)[:, :2].astype(np.float32)
PLACES = np.array(["1"]), np.array([0])


def table(path: Path) -> None:
    with TableWriter(path, force=True) as writer:
        writer.write(pd.DataFrame({"chrom": ["1"] * 999, "start": np.arange(999)}))


def vcf(path: Path) -> None:
    source = path.parent.with_name("in.vcf")
    if not source.exists():
        lines = (f"1\t{at}\trs{at}\tA\tC\t.\t.\t.\n" for at in range(1, 999))
        source.write_text(VCF + "".join(lines))
    with VcfReader(source) as reader, VcfWriter(path, reader.header, [], force=True) as writer:
        for record in reader:
            writer.write(record, {})


def track(path: Path) -> None:
    with _Track(require_backend(), path, {"1": 999}) as file:
        frame = pd.DataFrame({"chrom": ["1"], "start": [0], "end": [9], "promoter": [0.5]})
        file.write(frame, "promoter")


def logo(path: Path) -> None:
    columns = ["chrom", "pos", "ref", "alt", "output", "delta"]
    rows = [("1", 1, "A", alt, "promoter", 0.5) for alt in "CGT"]
    draw_logo(pd.DataFrame(rows, columns=columns), path, force=True)


def corpus(path: Path) -> None:
    source = path.parent.with_name("in.fa")
    if not source.exists():
        source.write_text(">1\n" + "ACGTTGCAAC" * 5_000 + "\n")
    build([source], path, force=True)


def step_file(path: Path) -> None:
    with steps.new_file(path, force=True) as part:
        part.write_text("a" * 999)


def step_folder(path: Path) -> None:
    with steps.new_directory(path, True, Kind("step", "a", ("a",), "a")) as part:
        (part / "a").write_text("a" * 999)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: write_text(path, "a" * 999),
    "a.tsv": table,
    "a.tsv.gz": table,
    "a.parquet": table,
    "a.vcf": vcf,
    "a.vcf.gz": vcf,
    "a.bcf": vcf,
    "a.bw": track,
    "a.svg": logo,
    "p.npz": lambda path: Predictions(*PLACES, np.zeros((1, 1)), np.zeros((1, 1))).save(path),
    "h.npz": lambda path: write_arrays(path, pooled=np.zeros((99, 9), np.float16)),
    "e.npz": lambda path: Background.of(EFFECTS, ["a", "b"], [0, 1], model="0123").save(path),
    "b.npz": lambda path: BaseBits(*PLACES, np.array([9]), np.zeros(9)).save(path),
    "corpus": corpus,
    "step.txt": step_file,
    "step": step_folder,
    "a.fa.gz": lambda path: grch37.write_bgzf([("1", "ACGTC" * 99)], path, force=True),
    "t.model": lambda path: tokenizer.save(path),
    "model": lambda path: tiny_checkpoint(tokenizer).save(path, force=True),
}
tokenizer: Tokenizer

# The tests kill a fork of their own process; Python 3.12 warns of threads in such.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
every_writer = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(autouse=True)
def _tokenizer(tiny_tokenizer: Tokenizer) -> None:
    global tokenizer
    tokenizer = tiny_tokenizer


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder to write to."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def content(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in found}


def in_a_fork(work: Callable[[], object]) -> int:
    """Do something in another process; 0, 1 for an error of the disk, or minus a signal."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except OutputError as error:
            os._exit(1 if str(error).endswith("; check space and permissions") else 2)
        except BaseException:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@every_writer
def test_no_planted_name_leads_elsewhere(name, here, monkeypatch):
    WRITERS[name](here / name)
    expected = content(here)
    victim = here.with_name("victim")
    victim.mkdir()
    (victim / "file").write_text("precious")
    guessed = [f".{name}.aaaaaaaa.tmp", f".{name}.{os.getpid()}.tmp", f".{name}.part", f"{name}.x"]
    for planted in guessed:
        (here / planted).symlink_to(victim)
    for made in expected:  # the output itself may be a link: it is replaced, not followed
        if "/" not in made:
            (here / made).unlink()
            (here / made).symlink_to(victim / "file")
    names = iter(["aaaaaaaa", *(f"{n:08}" for n in range(99))])
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: names)
    WRITERS[name](here / name)
    assert content(victim) == {"file": file_sha256(victim / "file")}
    assert (victim / "file").read_text() == "precious"
    for planted in guessed:
        (here / planted).unlink()
    assert set(content(here)) == set(expected)
    assert not any(path.is_symlink() for path in here.rglob("*"))


@every_writer
def test_two_runs_at_once_do_not_write_one_output(name, here):
    with Draft(here / name) as part:
        with pytest.raises(OutputError, match=f"{name} is in use: another run writes the same"):
            WRITERS[name](here / name)
        part.write_text("of the first")
    assert content(here) == {name: file_sha256(here / name)}
    assert (here / name).read_text() == "of the first"


@every_writer
def test_a_kill_before_the_name_is_given_leaves_the_old_and_the_next_run_sweeps(
    name, here, monkeypatch
):
    WRITERS[name](here / name)
    before = content(here)

    def killed() -> None:
        monkeypatch.setattr(files, "_flush", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        WRITERS[name](here / name)

    assert in_a_fork(killed) == -signal.SIGKILL
    left = sorted(path.name for path in here.iterdir() if path.name.startswith("."))
    assert {one.rpartition(".")[2] for one in left} == {"tmp", "lock"}
    now = {made: sha for made, sha in content(here).items() if not made.startswith(".")}
    assert now == before
    WRITERS[name](here / name)
    assert set(content(here)) == set(before)
    assert not [path.name for path in here.iterdir() if path.name.startswith(".")]


@every_writer
def test_a_full_disk_is_one_error_and_leaves_nothing(name, here):
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        WRITERS[name](here / name)

    WRITERS[name](here / name)  # so that what it reads is there
    shutil.rmtree(here)
    here.mkdir()
    assert in_a_fork(full) == 1
    assert list(here.iterdir()) == []


@every_writer
def test_permissions_are_what_the_umask_gives(name, here):
    before = os.umask(0o027)
    try:
        WRITERS[name](here / name)
    finally:
        os.umask(before)
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in here.rglob("*")}
    assert modes <= {(False, 0o640), (True, 0o750)}


def test_each_output_of_a_run_is_locked_and_only_its_own_drafts_get_in(here):
    first, second = here / "a.tsv", here / "b.parquet"
    with locked(first, second, "-"):
        table(second)
        assert in_a_fork(lambda: os._exit(_refused(second))) == 7
        with pytest.raises(OutputError, match="in use"), locked(second):
            pass
    assert in_a_fork(lambda: os._exit(_refused(second))) == 0
    assert sorted(content(here)) == ["b.parquet"]


def test_a_lock_does_not_outlive_its_run_in_what_the_run_has_forked(here):
    reader, writer = os.pipe()
    ready, told = os.pipe()

    def ended() -> None:
        with locked(here / "a.tsv"):
            os.close(writer)
            if os.fork() == 0:
                os.write(told, b".")  # what a fork gives up is given up by now
                os.read(reader, 1)  # until the pipe is closed
                os._exit(0)
            os.read(ready, 1)
            os._exit(7)

    assert in_a_fork(ended) == 7
    with locked(here / "a.tsv"):
        pass
    for descriptor in (writer, reader, ready, told):
        os.close(descriptor)


def _refused(path: Path) -> int:
    files._held.set(frozenset())
    try:
        table(path)
    except OutputError:
        return 7
    return 0


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe", "second name"])
@pytest.mark.parametrize("opened", [table, lambda path: open_plain(path, os.O_RDWR | os.O_CREAT)])
def test_only_a_plain_file_is_opened(kind, opened, here):
    path, victim = here / "a.tsv", here / "victim"
    place = here / ".a.tsv.lock" if opened is table else path
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        if kind != "dangling link":
            victim.touch()
        (os.link if kind == "second name" else os.symlink)(victim, place)
    with pytest.raises(OutputError, match="is no file of its own"):
        opened(path)
    assert victim.exists() == (kind in ("link", "second name"))
    assert not (path.is_file() and opened is table)


def test_only_what_a_run_of_the_same_output_left_is_swept(here):
    left = [".a.tsv.k3x_09ab.tmp"]
    others = [".b.tsv.k3x_09ab.tmp", ".a.tsv.K3X_09AB.tmp", ".a.tsv.tmp", "a.tsv.k3x_09ab.tmp"]
    for name in (*left, *others):
        (here / name).mkdir()
    table(here / "a.tsv")
    assert sorted(path.name for path in here.iterdir()) == sorted(["a.tsv", *others])


def test_where_there_are_no_locks_a_run_sweeps_nothing(here, monkeypatch):
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    (here / ".a.tsv.k3x_09ab.tmp").mkdir()
    table(here / "a.tsv")
    assert sorted(path.name for path in here.iterdir()) == [".a.tsv.k3x_09ab.tmp", "a.tsv"]
    with scratch("genobird-test-") as folder:
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_put_into_a_folder_while_it_is_made_anew_is_not_lost(is_link, here):
    folder, kind = here / "a", Kind("step", "facts", ("facts",), "mark")
    lies = here.with_name("elsewhere") if is_link else folder
    lies.mkdir()
    (lies / "facts").write_text("mark, old")
    if is_link:
        folder.symlink_to(lies)
    with Draft(folder, kind) as part:
        part.mkdir()
        (part / "facts").write_text("mark, new")
        (lies / "notes.txt").write_text("precious")
        (lies / "plots").mkdir()
        (lies / "plots" / "1.png").write_text("precious too")
    assert (folder / "facts").read_text() == "mark, new"
    assert (lies / "notes.txt").read_text() == "precious"
    assert (lies / "plots" / "1.png").read_text() == "precious too"
    assert not folder.is_symlink()
    assert [path.name for path in here.iterdir()] == ["a"]


def test_a_folder_is_not_replaced_by_a_file(here):
    with pytest.raises(UsageError, match=r"here is a folder, a file is needed; choose another"):
        refuse_existing(here, force=True)


def test_a_file_that_takes_the_name_of_a_folder_meanwhile_stays(here):
    draft = Draft(here / "a")
    draft.part.mkdir()
    (here / "a").write_text("precious")
    with pytest.raises(OutputError, match="a cannot be written"):
        draft.publish()
    assert (here / "a").read_text() == "precious"


def test_the_longest_names_work(here):
    for name in ("a" * 251 + ".tsv", "é" * 125 + ".tsv"):
        table(here / name)
        assert (here / name).exists()
    assert len(list(here.iterdir())) == 2


def test_an_error_that_is_not_of_the_output_stays_what_it_is(here):
    with pytest.raises(FileNotFoundError), Draft(here / "a"):
        (here / "missing").read_text()
    with pytest.raises(BrokenPipeError), Draft(here / "a"):
        raise BrokenPipeError
    assert list(here.iterdir()) == []


def test_the_disk_has_a_file_before_it_gets_its_name(here, monkeypatch):
    steps: list[str] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("flush"), flush(file)))
    monkeypatch.setattr(
        os, "replace", lambda old, new: (steps.append(Path(new).name), rename(old, new))
    )
    vcf(here / "a.vcf.gz")
    assert steps == ["flush", "flush", "a.vcf.gz.tbi", "a.vcf.gz", "flush"]
