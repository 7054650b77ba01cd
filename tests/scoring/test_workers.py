from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from genobird.cli.options import Passes
from genobird.cli.running import open_scorer
from genobird.errors import AssemblyError, GenobirdError, UsageError
from genobird.genome.interval import Interval
from genobird.scoring.journal import Journal
from genobird.scoring.regions import site_frames
from genobird.scoring.scorer import load
from genobird.scoring.sites import sites_of
from genobird.scoring.workers import Workers
from tests.scoring.calls import annotate_variants, list_variants
from tests.scoring.quick_logits import stub_logits
from tests.scoring.stubs import HEADER, records, stub_screen

# A process with several threads is forked on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SEVERAL = pytest.mark.parametrize("number", [1, 2, 3])


def results(function, items, number, taken=None):
    """What workers make of items, in order; also in `taken`, for a run that fails."""
    taken = [] if taken is None else taken
    with Workers(function, number) as workers:
        taken += (result() for result in workers.ahead(map(workers.begin, items)))
    return taken


@SEVERAL
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_results_come_in_order(number, count):
    assert results(lambda item: item**2, range(count), number) == [i**2 for i in range(count)]


@pytest.mark.parametrize("number", [2, 3])
def test_items_are_computed_in_so_many_other_processes(number):
    pids = results(lambda _: os.getpid(), range(9), number)
    assert len(set(pids)) == number
    assert os.getpid() not in pids


def test_items_and_results_larger_than_a_pipe_go_through():
    items = [bytes([number]) * 3_000_000 for number in range(9)]
    assert results(lambda item: item + b".", items, 2) == [item + b"." for item in items]


@SEVERAL
def test_what_fails_in_a_worker_fails_here_behind_what_came_before(number):
    def compute(item: int) -> int:
        if item == 5:
            raise AssemblyError("REF A is C")
        return item

    taken: list[int] = []
    with pytest.raises(AssemblyError, match="REF A is C") as caught:
        results(compute, range(9), number, taken)
    assert taken == list(range(5))
    assert str(caught.value) == "REF A is C"
    assert number == 1 or "in compute" in caught.value.__notes__[0]


@SEVERAL
def test_items_that_cannot_be_read_fail_behind_what_came_before(number):
    def items():
        yield from range(5)
        raise UsageError("line 6")

    taken: list[int] = []
    with pytest.raises(UsageError, match="line 6"):
        results(lambda item: item, items(), number, taken)
    assert taken == list(range(5))


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda: os._exit(3), "exit code 3"),
    ],
)
def test_a_worker_that_is_gone_ends_the_run(end, how):
    taken: list[int] = []
    with pytest.raises(GenobirdError, match=rf"has ended \({how}\); .* fewer --processes"):
        results(lambda item: end() if item == 5 else item, range(20), 2, taken)
    assert taken == list(range(5))


def test_an_interrupt_is_left_to_the_parent():
    here = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pids = results(lambda _: os.kill(os.getpid(), signal.SIGINT) or os.getpid(), range(4), 2)
    assert len(set(pids)) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == here


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    """A pipe that forks hold open: it ends when the last of them is gone, and the second closed."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        yield reader, writer


def test_workers_end_with_the_run_even_when_they_compute(ends):
    reader, writer = ends
    with Workers(lambda _: signal.pause(), 2) as workers:
        for _ in range(4):
            workers.begin(0)
    writer.close()
    with pytest.raises(EOFError):
        reader.recv()


def test_workers_end_when_their_parent_is_killed(ends):
    reader, writer = ends

    def kill(_: int) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    pid = os.fork()
    if pid == 0:
        results(kill, range(4), 2)
    writer.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with pytest.raises(EOFError):
        reader.recv()


@pytest.fixture
def vcf(tmp_path) -> Path:
    """Nine chunks of four records, with a phased sample."""
    lines = [*HEADER[:-1], f"{HEADER[-1]}\tFORMAT\tme"]
    for record in records(36):
        has_alt = record.split("\t")[4] != "."
        lines.append(f"{record}\tGT\t0|{int(has_alt)}")
    path = tmp_path / "in.vcf"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


class Stop(Exception):
    pass


def test_processes_write_the_bytes_of_one_and_continue_its_runs(
    tiny_checkpoint, short, vcf, tmp_path, monkeypatch
):
    stub_logits(monkeypatch)
    stub_screen(monkeypatch)
    scorer = load(tiny_checkpoint, device="cpu")
    scorer.chunk = 4
    output, table = tmp_path / "out.vcf", tmp_path / "out.tsv"

    def annotated(**how: object) -> tuple[bytes, bytes]:
        annotate_variants(scorer, vcf, short, output, table=table, phased="me", force=True, **how)
        return output.read_bytes(), table.read_bytes()

    def stopped(chunks: int, processes: int) -> None:
        left = iter(range(chunks))

        def stop(_: int) -> None:
            if next(left, None) is None:
                raise Stop

        with pytest.raises(Stop):
            annotated(processes=processes, progress=stop)

    one = annotated()
    assert annotated(processes=2) == one
    for chunks, before, after in ((3, 2, 3), (5, 1, 2)):
        stopped(chunks, before)
        assert annotated(processes=after, resume=True) == one


def test_tables_and_regions_are_those_of_one_process(tiny_checkpoint, genome, tmp_path):
    """With the model itself."""
    scorer = load(tiny_checkpoint, device="cpu")
    scorer.chunk = 1
    regions = [Interval("chr1", at, at + 200) for at in (9_000, 20_000, 30_000)]
    variants = [(one.contig, one.start, genome.fetch(one)[0], "<DEL>") for one in regions]
    found = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.tsv"
        list_variants(scorer, variants, genome, output, processes=processes)
        frames = site_frames(
            scorer, sites_of(regions, genome), journal=Journal(processes=processes)
        )
        found.append((output.read_bytes(), pd.concat(list(frames))))
    assert found[0][0] == found[1][0]
    pd.testing.assert_frame_equal(found[0][1], found[1][1], check_exact=True)


def test_processes_of_several_threads_or_on_a_gpu_are_refused(monkeypatch):
    with pytest.raises(
        UsageError, match=r"--processes 2 and --threads 3 found; .* leave --threads"
    ):
        open_scorer(None, Passes(threads=3), processes=2)
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr("genobird.scoring.scorer.load", lambda *_, **__: on_gpu)
    assert open_scorer(None, Passes()) is on_gpu
    with pytest.raises(UsageError, match=r"device cuda found; .* leave --processes out"):
        open_scorer(None, Passes(), processes=2)
