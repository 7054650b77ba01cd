"""Commands in processes of their own, which start at once: forks of a server that has torch loaded.

They can be killed and limited as a user's process can, and end with the exit code of the command.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

CHUNK = 4
_LOADED = (
    "numpy.lib.npyio",
    "genobird.cli",
    "genobird.scoring.annotation",
    "hypothesis",
    "pytest",
    "genobird.scoring.merge",
    "pyarrow.parquet",
    "torch",
)


class Command:
    """A `genobird` command that is running.

    Args:
        arguments: of the command line.
        log: file that its standard output and standard error go to.
        limit: largest file that it may write, in bytes.
        die_at: kill it at its n-th `os.replace`, before (n) or after it (n + 0.5).
        stub: seconds that the stub of `screen` takes for a chunk; None is the model itself. The
            assembly is told from the first few records alone then.
    """

    def __init__(
        self,
        *arguments: object,
        log: Path,
        limit: int | None = None,
        die_at: float | None = None,
        stub: float | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_LOADED))
        texts = [str(argument) for argument in arguments]
        self.log = log
        self._process: BaseProcess = context.Process(
            target=_run, args=(texts, str(log), limit, die_at, stub)
        )
        self._process.start()

    def wait(self) -> tuple[int, str]:
        """Return exit code and output; the code is negative for the signal that ended it."""
        self._process.join(60)
        code = self._process.exitcode
        self._process.kill()
        assert code is not None, "the command does not end"
        return code, self.log.read_text()

    def signal(self, number: signal.Signals, when: Callable[[], bool]) -> tuple[int, str]:
        """Send a signal as soon as something holds, or let it end before; see `wait`."""
        assert self._process.pid is not None
        while self._process.is_alive() and not when():
            time.sleep(0.001)
        if self._process.is_alive():
            os.kill(self._process.pid, number)
        return self.wait()


def _run(
    arguments: list[str],
    log: str,
    limit: int | None,
    die_at: float | None,
    stub: float | None,
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from genobird.cli import main
    from genobird.scoring.scorer import Scorer

    # Small chunks, so that a short run has many.
    Scorer.chunk = property(lambda _: CHUNK, lambda *_: None)  # type: ignore[assignment]
    if stub is not None:
        from genobird.scoring import annotation
        from tests.scoring.stubs import Screen

        annotation.screen = Screen(stub)  # type: ignore[assignment]
        annotation.SAMPLE = CHUNK  # type: ignore[attr-defined]
    sys.argv = ["genobird", *arguments]
    if die_at is not None:
        _die_at(die_at)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(arguments))


def _die_at(moment: float) -> None:
    replace, calls = os.replace, 0

    def counted(*names: str) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)
        if calls == int(moment):
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted  # type: ignore[assignment]
