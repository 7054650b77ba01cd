"""A page with the tiny model, and the queue behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from genobird.genome.fasta import Genome
from genobird.scoring.scorer import Scorer, load
from genobird.serve.jobs import Job, Jobs, answer
from genobird.serve.question import Limits
from genobird.serve.site import Place, Site

TOKEN = "secret"

# A shell ignores SIGINT for what it starts in the background, as the tests may be.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from genobird.cli import main
sys.exit(main())
"""


@dataclass
class Desk:
    """A page without a network; `client` asks under its token."""

    client: TestClient
    jobs: Jobs
    folder: Path

    def ask(self, text: str = "", **more: object) -> Job:
        """Ask, and return the job that the answer leads to."""
        answered = self.client.post("", data={"text": text}, follow_redirects=False, **more)
        assert answered.status_code == 303, answered.text
        job = self.jobs.find(answered.headers["location"].split("/")[1])
        assert job is not None
        return job

    def wait(self, *jobs: Job) -> None:
        """Wait until nothing more happens to jobs."""
        with self.jobs._change:
            self.jobs._change.wait_for(lambda: all(job.state.is_over for job in jobs))

    def page(self, job: Job, name: str = "") -> str:
        """The text of the page of a job, or of one of its files."""
        got = self.client.get(f"jobs/{job.id}/{name}")
        assert got.status_code == 200, got.text
        return got.text


@pytest.fixture(scope="session")
def tiny_scorer(tiny_checkpoint: Path) -> Scorer:
    return load(tiny_checkpoint, "cpu")


@pytest.fixture
def desk(tmp_path: Path, tiny_scorer: Scorer, tiny_genome_path: Path) -> Iterator[Desk]:
    """A page whose model answers."""
    with Genome(tiny_genome_path) as genome:

        def work(job: Job) -> Counter[str]:
            return answer(job.question, job.folder, tiny_scorer, genome, job.advance)

        yield from desk_of(tmp_path, work, genome)


def desk_of(folder, work, genome, limits=Limits()) -> Iterator[Desk]:  # noqa: B008
    """A page over a queue."""
    jobs = Jobs(folder, work)
    site = Site(jobs, Place(genome, "tiny.fa", examples=("chr1:5 A>C",)), TOKEN, limits)
    try:
        with TestClient(site.app, base_url=f"http://127.0.0.1:8000/{TOKEN}/") as client:
            yield Desk(client, jobs, folder)
    finally:
        jobs.close()


@contextmanager
def served(model: Path, fasta: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`genobird serve` in a process, with its temporary files in a folder, and its address."""
    options = ["--fasta", fasta, "--model", model, "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().removeprefix("open ").strip()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def address(
    tiny_checkpoint: Path, tiny_genome_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a page that is served."""
    folder = tmp_path_factory.mktemp("served")
    with served(tiny_checkpoint, tiny_genome_path, folder) as (_, address):
        yield address
