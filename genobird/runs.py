"""Unfinished runs: what each was asked to do, what it has done so far, and who may go on with it.

What a run has done lies in `OUTPUT.partial` until its outputs are complete: a file (`begun`) or a
folder (`begun_folder`); a training has it in its own folder (`tasks/run_folder.py`). A later run
without `resume` or `force` is refused there, and so is one that is resumed and asks for something
else.

The ledger is the file. It holds the run's identity, which is all that decides its result (model,
data, settings), then an entry for each piece of work that is done. It is only ever appended to,
each entry with its length and checksum, so a process may be killed at any byte: what follows the
last whole entry is cut off. An entry is on disk before the next piece of work begins, so a machine
may lose its power too. A later run with `resume` reads the entries and goes on behind them.

```
genobird run 1 open      "done" once the outputs are complete and get their names
{"model": "0123...", ...}
entry entry ...          of each: length, CRC-32, bytes
```

A file, not a folder of pieces: the scores of a genome are hundreds of thousands of them.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from genobird.errors import GenobirdError, OutputError, UsageError
from genobird.files import (
    STDOUT,
    Kind,
    keep_others,
    locked,
    open_plain,
    refuse_existing,
    require_place,
    write_all,
    writing,
)

logger = logging.getLogger(__name__)

Identity = Mapping[str, Any]
"""What decides the result of a run, as JSON holds it."""

_KIND: Final = b"genobird run "
_OPEN: Final = _KIND + b"1 open\n"
_DONE: Final = _KIND + b"1 done\n"
_LENGTH: Final = struct.Struct("<QI")  # length and CRC-32 of an entry
_MOST: Final = 1 << 20  # bytes of an identity


Progress = Callable[[int], None]
"""Called with the number of new items."""


def ignore(_: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a run is started; none of it decides what comes out."""

    resume: bool = False
    """Go on with an interrupted run of the same output, if there was one."""
    force: bool = False
    """Replace existing outputs and, without `resume`, what an interrupted run has done."""
    command: str = ""
    """Command line, for the metadata of the outputs."""
    progress: Progress = ignore
    processes: int = 1
    """How many share the work."""
    is_kept: bool = True
    """Keep what is done for a later run, should this one be interrupted."""


FRESH: Final = Start()


def partial_of(output: Path | str) -> Path:
    """Return where the ledger of an output lies."""
    return Path(f"{output}.partial")


def may_replace(output: Path | str, start: Start) -> bool:
    """Tell whether a run may replace existing outputs, and refuse one that would lose work.

    It may with `force`, and when it goes on with a run that was stopped while its complete outputs
    got their names. Standard output has no ledger.

    Raises:
        UsageError: an earlier run left work, and neither `force` nor `resume` is given; or there is
            nothing beside which a ledger could lie.
        OutputError: no ledger can be written there.
    """
    if str(output) == STDOUT:
        if start.resume:
            raise UsageError("standard output cannot be resumed; name a file with --output")
        return start.force
    for place in (Path(output), partial_of(output)):
        require_place(place)
    head = _read_head(partial_of(output))
    if head is None:
        return start.force
    if not (start.force or start.resume):
        refuse_unfinished(partial_of(output))
    return start.force or head.done


@contextmanager
def begun(
    outputs: Sequence[Path | str], identity: Identity | None, start: Start = FRESH
) -> Iterator[Ledger | None]:
    """Open the ledger of an output, and lock all outputs, for the length of a run.

    When the block ends without an error the ledger is removed; else it stays, if it holds work.

    Args:
        outputs: what the run writes; the first names the ledger. See `files.locked`.
        identity: what decides the result; the ledger of another one is refused. None for a model
            that was never saved, of which nothing is kept, as of standard output.
        start: whether to go on with the work of an earlier run, or to drop it.

    Raises:
        UsageError: see `may_replace`; or the work is of another run.
        OutputError: the ledger cannot be written, or another run is writing one of the outputs.
    """
    with locked(*outputs):
        # Only now: another run may have left work, or gone on with it, until just before.
        may_replace(outputs[0], start)
        if str(outputs[0]) == STDOUT or identity is None or not start.is_kept:
            if start.resume:
                raise UsageError("a model that was never saved cannot resume; save it first")
            yield None
            return
        ledger = Ledger(partial_of(outputs[0]), identity, start)
        try:
            yield ledger
            ledger.require_end()
        except BaseException as error:
            ledger.close(hint=not isinstance(error, UsageError))
            raise
        ledger.remove()


@contextmanager
def begun_folder(
    output: Path,
    kind: Kind,
    identity: Identity,
    start: Start,
    known: Callable[[Path], Identity | None],
) -> Iterator[Path]:
    """Give a folder to work in, and lock the output, for the length of a run.

    When the block ends without an error the folder becomes the output; else it stays, if it holds
    work.

    Args:
        output: the folder.
        kind: of the folder; no other one is replaced.
        identity: what decides the result; the work of another run is refused.
        start: whether to go on with the work of an earlier run, or to drop it.
        known: returns the identity of the run whose work a folder holds; None where there is none.

    Raises:
        UsageError: see `refuse_existing`; an earlier run left work, and neither `force` nor
            `resume` is given; the work is of another run; or a link is in the place of a folder.
        OutputError: another run is writing the output.
    """
    folder = partial_of(output)
    with locked(output):
        refuse_existing(output, start.force, kind)
        for place in (output, folder):
            if place.is_symlink():
                raise UsageError(f"{place} is a link where a folder of the run would lie; move it")
        if not _goes_on(folder, known(folder), identity, start):
            refuse_existing(folder, True, kind)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            if known(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                tell_kept(folder)
            raise
        if output.exists():
            keep_others(output, folder, kind)
            shutil.rmtree(output)
        os.replace(folder, output)


def _goes_on(where: Path, known: Identity | None, asked: Identity, start: Start) -> bool:
    """Tell whether a run goes on with earlier work, and refuse one that would lose it."""
    if known is None:
        return False
    if not (start.resume or start.force):
        refuse_unfinished(where)
    if start.resume:
        refuse_other(where, known, asked)
    return start.resume


def refuse_unfinished(where: Path, progress: str = "") -> NoReturn:
    """Refuse to begin a run where an interrupted one has left work, with its progress."""
    raise UsageError(
        f"{where} holds what an interrupted run has done{progress and f' ({progress})'}; pass "
        "--resume to go on from there, or --force to begin anew"
    )


def tell_kept(where: Path, progress: str = "") -> None:
    """Tell that what an interrupted run has done is kept; arguments as `refuse_unfinished`."""
    logger.warning(
        "%s keeps what is done%s; the same command with --resume goes on from there",
        where,
        progress and f" ({progress})",
    )


def flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts by section under one key each, `fit.steps`; places on disk are left out."""
    return dict(_leaves(facts))


def differences(known: Identity, asked: Identity, where: str = "before") -> list[str]:
    """Tell in what a run differs from a known one, key by key; `where` says which that is."""
    return [
        f"{key} {_shown(asked.get(key))}, {where} {_shown(known.get(key))}"
        for key in dict.fromkeys((*known, *asked))
        if known.get(key) != asked.get(key)
    ]


def refuse_other(
    where: Path, known: Identity, asked: Identity, *, of_any_version: bool = False
) -> None:
    """Refuse to go on with a run as another one.

    Args:
        where: the work.
        known: what the run was asked to do when it began.
        asked: what it is asked to do now.
        of_any_version: leave out keys that only one of them knows: another version of genobird may
            have begun the run. What may be left out is therefore recorded as None; a section that
            was left out then and is given now, or the other way round, is known to both
            (`head.local`, `head.local.filters`).

    Raises:
        UsageError: naming each key that differs.
    """
    if of_any_version:
        shared = [key for key in {**known, **asked} if _has(known, key) and _has(asked, key)]
        known, asked = ({key: one.get(key, "given") for key in shared} for one in (known, asked))
    if changed := differences(known, asked):
        raise UsageError(
            f"{where} is of another run ({'; '.join(changed)}); give what it was begun with, or "
            "begin anew with --force alone"
        )


def _has(facts: Identity, key: str) -> bool:
    """Tell whether facts have a key, or a section of that name."""
    return key in facts or any(other.startswith(f"{key}.") for other in facts)


class Ledger:
    """See the module; use it through `begun`."""

    def __init__(self, path: Path, identity: Identity, start: Start = FRESH) -> None:
        self.path: Final = path
        self._end = 0
        self._next: tuple[bytes, int] | None = None
        self._file = self._open()
        try:
            head = _read_head(self.path)
            if head and _goes_on(self.path, head.identity, identity, start):
                self._next = self._read_entry(head.end)
            else:
                self._write(_OPEN + _line_of(identity))
        except BaseException:
            self.close(hint=False)
            raise

    def peek(self) -> bytes | None:
        """Return the next entry of an earlier run; None behind the last one."""
        return None if self._next is None else self._next[0]

    def advance(self) -> None:
        """Go to the entry behind the next one."""
        if self._next is not None:
            self._next = self._read_entry(self._next[1])

    def append(self, entry: bytes) -> None:
        """Keep a piece of work; all entries of an earlier run have been read.

        Raises:
            UsageError: they have not, so the earlier run had another input.
            OutputError: it cannot be written.
        """
        self.require_end()
        self._write(_LENGTH.pack(len(entry), zlib.crc32(entry)) + entry)

    def seal(self) -> None:
        """Note that all outputs are complete, and about to get their names.

        Raises:
            UsageError: the input ended before the work of the earlier run did.
            OutputError: it cannot be written.
        """
        self.require_end()
        with writing(self.path):
            os.pwrite(self._file.fileno(), _DONE, 0)
            os.fsync(self._file.fileno())

    def require_end(self) -> None:
        """Refuse an input that ended before the work of the earlier run did by a UsageError."""
        if self._next is not None:
            raise self.other_input()

    def other_input(self) -> UsageError:
        """Return the error for work of an earlier run that does not fit."""
        return UsageError(
            f"{self.path} is of a run over another input; give the same one, or --force without "
            "--resume to begin anew"
        )

    def close(self, hint: bool = True) -> None:
        """Leave the ledger for a later run, if it holds work; say so with `hint`."""
        with suppress(OSError, GenobirdError):
            if _read_head(self.path) is None:
                self.path.unlink()
            elif hint:
                tell_kept(self.path)
        self._file.close()

    def remove(self) -> None:
        """End the run: its outputs are complete."""
        with suppress(OSError):
            self.path.unlink()
        self._file.close()

    def _open(self) -> io.FileIO:
        with writing(self.path):
            return io.FileIO(open_plain(self.path, os.O_RDWR | os.O_CREAT), "r+")

    def _read_entry(self, start: int) -> tuple[bytes, int] | None:
        """Return the entry that begins at an offset, and its end; None behind the last whole one.

        What is written next then begins there.
        """
        self._end = start
        self._file.seek(start)
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        length, checksum = _LENGTH.unpack(head)
        end = start + len(head) + length
        if end > os.fstat(self._file.fileno()).st_size:
            return None
        entry = self._file.read(length)
        return (entry, end) if entry and zlib.crc32(entry) == checksum else None

    def _write(self, data: bytes) -> None:
        """Write at the end of what is whole; all of it or nothing."""
        try:
            with writing(self.path):
                self._file.truncate(self._end)
                self._file.seek(self._end)
                write_all(self._file, data)
                os.fsync(self._file.fileno())  # costs milliseconds, a piece of work seconds
        except OutputError:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(data)


@dataclass(frozen=True, slots=True)
class _Head:
    identity: Identity
    done: bool
    end: int


def _read_head(path: Path) -> _Head | None:
    """Return the head of a ledger that holds work; None where there is none, or no work in it.

    Raises:
        UsageError: the file is something else, or damaged.
        OutputError: it is no plain file.
    """
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            first, second = file.readline(1 << 16), file.readline(_MOST)
            more = file.read(1)
    except OSError:
        return None
    if first in (_OPEN, _DONE):
        # Killed while it wrote the head, a run had done nothing.
        if not (second.endswith(b"\n") and (more or first == _DONE)):
            return None
        try:
            identity = json.loads(second)
        except (ValueError, RecursionError):
            identity = None
        if not isinstance(identity, dict):
            raise UsageError(f"{path} is damaged in its second line; remove it to begin anew")
        return _Head(identity, first == _DONE, len(first) + len(second))
    if _OPEN.startswith(first):
        return None
    if first.startswith(b"genobird "):
        raise UsageError(
            f"{path} was written by another version of genobird; finish with that, or remove it"
        )
    raise UsageError(f"{path} is no ledger of genobird, whose place it takes; move it away")


def _line_of(identity: Identity) -> bytes:
    line = json.dumps(dict(identity)).encode() + b"\n"
    if len(line) > _MOST:
        raise ValueError(f"an identity of {len(line)} bytes; what is long goes in as its hash")
    return line


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, Path):
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)
