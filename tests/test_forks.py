from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_native_id

import numpy as np
import pysam
import pytest
import torch

from genobird.errors import UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.inference import Passes
from genobird.scoring.scorer import Scorer, load
from tests.genome.packing import pack

# A process with several threads is forked on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


HANGING_S = 300.0
"""Far longer than a fork takes under any load."""


def in_a_fork(work):
    """What a forked process returns, in this process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            sender.send(work())
        finally:
            os._exit(0)
    sender.close()
    ready = receiver.poll(HANGING_S)
    if not ready:  # it would be waited for without an end
        os.kill(pid, signal.SIGKILL)
    try:
        assert ready, "the forked process hangs"
        return receiver.recv()
    finally:
        os.waitpid(pid, 0)


def wait_until_gone(threads):
    """Python joins a thread before the system has ended it, in the middle of what its libraries do
    then; a lock that one of them holds would stay held in a fork."""
    while any(Path(f"/proc/self/task/{number}").exists() for number in threads):
        os.sched_yield()


@pytest.fixture
def scorer(tiny_checkpoint):
    before = torch.get_num_threads()
    yield load(tiny_checkpoint, device="cpu", threads=2)
    torch.set_num_threads(before)


@pytest.fixture(params=["plain", "bgzf"])
def genome(request, tiny_genome_path, tmp_path):
    with Genome(pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa", request.param)) as genome:
        yield genome


def numbers(scorer: Scorer, genome: Genome) -> np.ndarray:
    """What a model makes of stretches of a genome: both are shared."""
    return scorer.embed([genome.fetch(Interval("chr1", at, at + 900)) for at in (0, 7, 40_000)])


def test_threads_and_forked_processes_get_the_same_numbers(scorer, genome):
    expected = numbers(scorer, genome)
    with ThreadPoolExecutor(3) as pool:
        asked = pool.map(lambda _: (get_native_id(), numbers(scorer, genome)), range(6))
        threads, several = zip(*asked, strict=True)
    for found in several:
        np.testing.assert_array_equal(found, expected)
    wait_until_gone(threads)
    np.testing.assert_array_equal(in_a_fork(lambda: numbers(scorer, genome)), expected)
    np.testing.assert_array_equal(numbers(scorer, genome), expected)


def test_a_fork_while_another_thread_holds_the_locks_does_not_wait_for_it(scorer, genome):
    expected = numbers(scorer, genome)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with genome._lock, scorer.inference.passes._lock:
            inside.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        found = in_a_fork(lambda: numbers(scorer, genome))
    finally:
        done.set()
        thread.join()
    np.testing.assert_array_equal(found, expected)


def test_a_genome_is_read_from_threads_and_forks_at_once(genome, tiny_contigs):
    def read(seed: int) -> bool:
        starts = np.random.default_rng(seed).integers(0, 59_000, 50).tolist()
        return all(
            genome.fetch(Interval("chr1", at, at + 700)) == tiny_contigs["chr1"][at : at + 700]
            for at in starts
        )

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(read, seed) for seed in range(8)]
        assert in_a_fork(lambda: read(9))
        assert all(future.result() for future in threads)


def test_a_scorer_and_a_genome_can_be_pickled(scorer, genome):
    again = pickle.loads(pickle.dumps((scorer, genome)))
    np.testing.assert_array_equal(numbers(*again), numbers(scorer, genome))


def test_a_model_on_a_gpu_is_refused_in_a_fork(monkeypatch):
    passes = Passes(torch.device("cuda"))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UsageError, match="cannot be used in a forked process; load it there"):
        passes.run([1], lambda part: part, lambda part: torch.zeros(1))


class OfPyfaidx:
    """What genobird sees of a `pyfaidx.Fasta`."""

    def __init__(self, filename: str) -> None:
        self.filename = filename


def test_the_open_file_of_another_library_is_a_genome(tiny_genome_path):
    region = Interval("chr2", 7, 99)
    expected = Genome(tiny_genome_path).fetch(region)
    with pysam.FastaFile(str(tiny_genome_path)) as opened:
        assert Genome(opened).fetch(region) == expected
    assert Genome(OfPyfaidx(str(tiny_genome_path))).fetch(region) == expected
