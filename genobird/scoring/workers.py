"""Workers: forked processes that compute the chunks of one run, which stays one run.

    worker 0    chunks 0, 2, 4, ...
    worker 1    chunks 1, 3, 5, ...
    parent      hands chunks out, a few ahead, and takes their results in order

A fork shares the model and all else that the function refers to, so that only chunks and results
are sent. Each worker computes with one thread (`Passes`): threads that wait for one another cost
more than they compute.

The parent alone ends a run. SIGINT, which a terminal sends to all, is blocked in workers. They are
killed when the run ends, and end by themselves, in the middle of a chunk too, when the parent is
gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Final, Generic, TypeVar, cast

from genobird.errors import GenobirdError

Item = TypeVar("Item")
Result = TypeVar("Result")
Begun = TypeVar("Begun")

_EACH: Final = 2  # chunks that a worker has: one is computed, one waits


class Workers(Generic[Item, Result]):
    """Compute one function of many items in several processes, as a context.

    Args:
        function: what is computed; it and all it refers to are as they were at the fork.
        number: of processes; 1 is this one.
    """

    def __init__(self, function: Callable[[Item], Result], number: int = 1) -> None:
        self._function, self._number = function, number
        self._workers: list[tuple[int, Connection]] = []
        self._begun = 0

    def __enter__(self) -> Workers[Item, Result]:
        if self._number > 1:
            for _ in range(self._number):
                self._workers.append(self._fork())
        return self

    def __exit__(self, *_: object) -> None:
        while self._workers:
            pid, pipe = self._workers.pop()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _end_of(pid)
            pipe.close()

    def begin(self, item: Item) -> Callable[[], Result]:
        """Begin to compute an item; what is returned waits for the result.

        Results are taken in the order in which they were begun.

        Raises:
            GenobirdError: when the result is taken: the worker has ended.
        """
        if not self._workers:
            return partial(self._function, item)
        pid, pipe = self._workers[self._begun % self._number]
        self._begun += 1
        with suppress(ConnectionError):  # the worker has ended, which shows when it is asked
            pipe.send(item)
        return partial(self._take, pid, pipe)

    def ahead(self, begun: Iterable[Begun]) -> Iterator[Begun]:
        """Yield items when so many more have been begun that no worker waits.

        Args:
            begun: begins an item when it is asked for the next one. Where it fails, the items
                before come first.
        """
        waiting: deque[Begun] = deque()
        try:
            for one in begun:
                waiting.append(one)
                if len(waiting) >= _EACH * len(self._workers):
                    yield waiting.popleft()
        except Exception:
            yield from waiting
            raise
        yield from waiting

    def _fork(self) -> tuple[int, Connection]:
        ours, theirs = multiprocessing.Pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    # A copy of the parent's end would hide from a worker that the parent is gone.
                    for pipe in (ours, *(pipe for _, pipe in self._workers)):
                        pipe.close()
                    self._work(theirs)
                finally:
                    os._exit(1)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return pid, ours

    def _take(self, pid: int, pipe: Connection) -> Result:
        """Return what a worker sends next."""
        try:
            result, error = pipe.recv()
        except (EOFError, ConnectionError):
            self._workers.remove((pid, pipe))
            raise GenobirdError(
                f"a worker process has ended ({_end_of(pid)}); if memory is short, try fewer "
                "--processes"
            ) from None
        if error is not None:
            raise error
        return cast(Result, result)

    def _work(self, pipe: Connection) -> None:
        items: SimpleQueue[Item] = SimpleQueue()
        Thread(target=_receive, args=(pipe, items), daemon=True).start()
        while True:
            item = items.get()
            try:
                pipe.send((self._function(item), None))
            except Exception as error:
                error.add_note(f"In a worker process:\n{traceback.format_exc()}")
                pipe.send((None, error))


def _receive(pipe: Connection, items: SimpleQueue[Item]) -> None:
    """Receive items at once, so that the parent never waits to send one; end with the parent."""
    try:
        while True:
            items.put(pipe.recv())
    finally:
        os._exit(1)


def _end_of(pid: int) -> str:
    """Wait for the end of a worker, and say how it ended."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # SIGCHLD is ignored, so nobody can tell
        return "unknown how"
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
