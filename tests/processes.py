"""Commands in processes of their own, which start at once: forks of a server that has torch loaded.

They can be killed and limited as a user's process can, and end with the exit code of the command.
When a signal hits one is counted in what it does, so no clock is asked.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from ctypes import c_int64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CHUNK = 4
_LOADED = (
    "numpy.lib.npyio",
    "genobird.cli",
    "genobird.scoring.variant_vcf",
    "hypothesis",
    "pytest",
    "genobird.scoring.parts",
    "pyarrow.parquet",
    "torch._dynamo",
)


@dataclass(frozen=True)
class Hit:
    """A signal that a command gets.

    Attributes:
        what: `call` is any function called by its main thread, `chunk` one that is scored by the
            stub of `screen`, `name` an output that gets its name.
        number: of the `what` before which the signal comes; with a half more, behind which.
        signal: what comes.
        to: the process that it comes to: the one that counts, or its parent.
    """

    what: Literal["call", "chunk", "name"]
    number: float
    signal: signal.Signals = signal.SIGKILL
    to: Callable[[], int] = os.getpid

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are counted until one of them is hit."""
        calls = 0

        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.number:
                os.kill(self.to(), self.signal)
            result = function(*arguments)
            if calls + 0.5 == self.number:
                os.kill(self.to(), self.signal)
            return result

        return call


class Command:
    """A `genobird` command that is running.

    Args:
        arguments: of the command line.
        log: file that its standard output and standard error go to.
        limit: largest file that it may write, in bytes.
        hit: a signal, and when it comes.
        stub: numbers that cost nothing stand for the model's; the assembly is told from the first
            few records alone then.
        counts: count its calls, which takes a little time, also without a hit.
    """

    def __init__(
        self,
        *arguments: object,
        log: Path,
        limit: int | None = None,
        hit: Hit | None = None,
        stub: bool = True,
        counts: bool = False,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_LOADED))
        texts = [str(argument) for argument in arguments]
        self.log = log
        self._calls = context.RawValue(c_int64, -1 + counts)
        self._process = context.Process(
            target=_run, args=(texts, str(log), limit, hit, stub, self._calls), daemon=True
        )
        self._process.start()

    def wait(self) -> tuple[int, str]:
        """Return exit code and output; the code is negative for the signal that ended it."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        return code, self.log.read_text()

    @property
    def calls(self) -> int:
        """Functions that its main thread called, if they were counted."""
        return self._calls.value


def _run(
    arguments: list[str], log: str, limit: int | None, hit: Hit | None, stub: bool, calls: c_int64
) -> None:
    # Ignored where the tests themselves run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from genobird.cli import main
    from genobird.scoring.scorer import Scorer

    # Small chunks, so that a short run has many.
    Scorer.chunk = property(lambda _: CHUNK, lambda *_: None)  # type: ignore[assignment]
    if stub:
        from genobird.scoring import alleles, scan
        from tests.scoring.stubs import Screen

        screen = Screen()
        of_chunks = hit is not None and hit.what == "chunk"
        scan.screen = hit.counted(screen) if of_chunks else screen  # type: ignore
        alleles.SAMPLE = CHUNK  # type: ignore[attr-defined]
    if hit is not None and hit.what == "name":
        os.replace = hit.counted(os.replace)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if calls.value == 0 or (hit is not None and hit.what == "call"):
        _count_calls(calls, hit)
    sys.exit(main(arguments))


def _count_calls(calls: c_int64, hit: Hit | None) -> None:
    def count(_frame: object, event: str, _argument: object) -> None:
        if event == "call":
            calls.value += 1
            if hit is not None and calls.value == hit.number:
                os.kill(os.getpid(), hit.signal)

    sys.setprofile(count)
