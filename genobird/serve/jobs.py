"""Jobs: questions that wait for their turn, one that is worked on, and those with an answer.

An answer lies as files of fixed names in the folder of its job.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from genobird.errors import GenobirdError, UsageError
from genobird.genome.fasta import Genome
from genobird.report.scored import write_report
from genobird.report.summary import read_pieces
from genobird.runs import Progress, Start
from genobird.scoring.regions import write_regions
from genobird.scoring.scorer import Scorer
from genobird.scoring.sites import sites_of
from genobird.scoring.table import TableWriter
from genobird.scoring.variant_vcf import annotate_variants
from genobird.serve.question import ASKED, Question, plain

logger = logging.getLogger(__name__)

COMMAND = "genobird serve"
REPORT = "report.html"
DOWNLOADS = {
    "scored.vcf.gz": "VCF with the scores in INFO",
    "scored.tsv": "table for spreadsheets and R",
    "scored.parquet": "table for Python",
}
"""Files of an answer, and what they are; regions have no VCF."""

MOST_WAITING: Final = 50
KEPT: Final = 20
"""Answers that are kept; an older one gives way."""


class State(StrEnum):
    """How far a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (State.WAITING, State.RUNNING)


class Cancelled(Exception):
    """A job is not wanted any more."""


@dataclass(eq=False)
class Job:
    """One question and what became of it."""

    question: Question
    folder: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = State.WAITING
    done: int = 0
    """Regions or records that were scored."""
    counts: Counter[str] = field(default_factory=Counter)
    """Regions or ALTs of each status."""
    message: str = ""
    """Why it failed."""
    notes: list[str] = field(default_factory=list)
    """What genobird warned of."""
    unwanted: bool = False

    @property
    def has_report(self) -> bool:
        """Whether there is an answer, if perhaps without its pictures."""
        return (self.folder / REPORT).is_file()

    def advance(self, number: int) -> None:
        """Count what was scored."""
        self.done += number

    def plain(self, text: str) -> str:
        """Return a message as its user can read it."""
        return plain(text, self.folder, self.question.title)


class Jobs:
    """A queue with one thread that works, and with a folder for each job.

    Work returns how many have each status, and calls `require_wanted` now and then.
    """

    def __init__(self, folder: Path, work: Callable[[Job], Counter[str]]) -> None:
        self._folder = folder
        self._work = work
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="genobird-serve", daemon=True)
        self._thread.start()

    def add(self, ask: Callable[[Path], Question]) -> Job:
        """Make a folder, ask there, and let the question wait.

        Raises:
            UsageError: too many wait already.
            GenobirdError: what `ask` raises.
        """
        self._require_room()
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            job = Job(ask(folder), folder)
            with self._change:
                self._require_room()  # others may have asked in the meantime
                self._jobs[job.id] = job
                self._waiting.append(job)
                self._change.notify_all()
        except BaseException:
            shutil.rmtree(folder)
            raise
        return job

    def _require_room(self) -> None:
        if len(self._waiting) >= MOST_WAITING:
            raise UsageError(f"{MOST_WAITING} questions wait already; try again later")

    def find(self, id: str) -> Job | None:
        """Return a job."""
        return self._jobs.get(id)

    def before(self, job: Job) -> int:
        """Return how many jobs come before one that waits."""
        with self._change:
            ahead = list(self._waiting)
            return (self._current is not None) + ahead.index(job) if job in ahead else 0

    def cancel(self, job: Job) -> None:
        """Stop a job, at once where it waits, else after the pass that the model is in."""
        with self._change:
            job.unwanted = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = State.CANCELLED
                self._forget_old()

    def forget(self, job: Job) -> None:
        """Remove a job and all its files."""
        self.cancel(job)
        with self._change:
            self._jobs.pop(job.id, None)
            if job is not self._current:  # else `_run` does
                shutil.rmtree(job.folder, ignore_errors=True)

    def require_wanted(self) -> None:
        """Stop the job that is worked on by `Cancelled`, if it is not wanted any more."""
        if self._closed or (self._current is not None and self._current.unwanted):
            raise Cancelled

    def close(self) -> None:
        """Stop all work."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                job = self._current = self._waiting.popleft()
                job.state = State.RUNNING
            state = self._answer(job)
            with self._change:
                self._current = None
                if job.id not in self._jobs:
                    shutil.rmtree(job.folder, ignore_errors=True)
                job.state = state
                self._forget_old()
                self._change.notify_all()

    def _answer(self, job: Job) -> State:
        try:
            with _warnings_of(job):
                job.counts = self._work(job)
        except Cancelled:
            return State.CANCELLED
        except GenobirdError as error:
            job.message = job.plain(str(error))
        except Exception as error:
            logger.exception("a question failed")
            job.message = f"this is a fault of genobird, please report it: {error!r}"
        else:
            return State.DONE
        return State.FAILED

    def _forget_old(self) -> None:
        for job in [job for job in self._jobs.values() if job.state.is_over][:-KEPT]:
            self.forget(job)


class _Notes(logging.Handler):
    def __init__(self, job: Job) -> None:
        super().__init__(logging.WARNING)
        self._job, self._thread = job, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._job.notes.append(self._job.plain(record.getMessage()))


@contextmanager
def _warnings_of(job: Job) -> Iterator[None]:
    """Keep what genobird warns of, for the user who asked."""
    root, handler = logging.getLogger("genobird"), _Notes(job)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def answer(
    question: Question, folder: Path, scorer: Scorer, genome: Genome, progress: Progress
) -> Counter[str]:
    """Score what is asked; the report is the last file, and is written again with each picture.

    Files go where the VCF is. Progress is called with the number of new regions or records.

    Returns:
        How many regions or ALTs have each status.

    Raises:
        GenobirdError: see `annotate_variants`.
    """
    vcf, tsv, parquet = (folder / name for name in DOWNLOADS)
    start = Start(command=COMMAND, progress=progress, is_kept=False)
    if question.regions:
        counts = write_regions(scorer, sites_of(question.regions, genome), parquet, start=start)
    else:
        counts = annotate_variants(scorer, folder / ASKED, genome, vcf, table=parquet, start=start)
    with TableWriter(tsv) as writer:
        for piece in read_pieces(parquet):
            writer.write(piece)
    is_vcf = not question.regions
    write_report(
        folder / REPORT,
        scorer,
        genome,
        COMMAND,
        regions=None if is_vcf else parquet,
        variants=parquet if is_vcf else None,
        logos=question.logos,
    )
    return counts
