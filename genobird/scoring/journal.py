"""Journal: what a run has scored so far, kept beside its output until that is complete.

The file `OUTPUT.partial` holds the run's identity (model, genome, settings), then the frame of each
finished chunk that cost the model work. It is only ever appended to, each entry with its length and
checksum, so a process may be killed at any byte: what follows the last whole entry is cut off. An
entry is on disk before the next chunk is scored, so a machine may lose its power too. A later run
with `resume` takes the frames over as long as the chunks of its input are the same ones.

```
genobird journal 1 open      "done" once the outputs are complete and get their names
{"model": "0123...", ...}
entry entry ...              of each chunk: length, CRC-32, number and hash of its items; its frame
```
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from genobird.errors import UsageError
from genobird.files import STDOUT, locked, open_plain, unwritable
from genobird.scoring.frame_bytes import is_scored, pack_frame, unpack_frame
from genobird.scoring.identity import Identity

logger = logging.getLogger(__name__)

_KIND: Final = b"genobird journal "
_OPEN: Final = _KIND + b"1 open\n"
_DONE: Final = _KIND + b"1 done\n"
# Length and CRC-32 of an entry, which is number and sha256 of the chunk's items, and its frame.
_LENGTH: Final = struct.Struct("<QI")
_CHUNK: Final = struct.Struct("<Q32s")


def journal_of(output: Path | str) -> Path:
    """Return where the journal of an output lies."""
    return Path(f"{output}.partial")


class NoJournal:
    """What stands for a journal where nothing is kept."""

    def frame(
        self, number: int, content: Iterable[str], make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        """Return what `make` makes."""
        return make()

    def skip(self, number: int) -> None:
        """Do nothing."""

    def seal(self) -> None:
        """Do nothing."""


NO_JOURNAL: Final = NoJournal()


def may_replace(output: Path | str, *, force: bool = False, resume: bool = False) -> bool:
    """Tell whether a run may replace existing outputs, and refuse one that would lose work.

    It may with `force`, and when it goes on with a run that was stopped while its complete outputs
    got their names. Standard output has no journal.

    Raises:
        UsageError: an earlier run left work, and neither `force` nor `resume` is given; or there is
            nothing beside which a journal could lie.
    """
    if str(output) == STDOUT:
        if resume:
            raise UsageError("standard output cannot be resumed; name a file with --output")
        return force
    head = _read_head(journal_of(output))
    if head is None:
        return force
    if not (force or resume):
        raise UsageError(
            f"{journal_of(output)} holds what an interrupted run has scored; pass --resume to go "
            "on from there, or --force to begin anew"
        )
    return force or (resume and head.done)


@contextmanager
def kept(
    outputs: Sequence[Path | str],
    identity: Identity,
    *,
    force: bool = False,
    resume: bool = False,
) -> Iterator[Journal | NoJournal]:
    """Open the journal of an output, and lock all outputs, for the length of a run.

    When the block ends without an error the journal is removed; else it stays, if it holds work.
    Standard output, and a model that was never saved, have none.

    Args:
        outputs: what the run writes; the first names the journal. See `files.locked`.
        identity: what decides the scores; a journal of another one is refused.
        force: without `resume`, drop the work of an earlier run.
        resume: go on with the work of an earlier run, if there is any.

    Raises:
        UsageError: see `may_replace`; or the work is of another run.
        OutputError: the journal cannot be written, or another run is writing one of the outputs.
    """
    with locked(*outputs):
        # Only now: another run may have left work, or gone on with it, until just before.
        may_replace(outputs[0], force=force, resume=resume)
        with _journal(outputs[0], identity, resume) as journal:
            yield journal


@contextmanager
def _journal(output: Path | str, identity: Identity, resume: bool) -> Iterator[Journal | NoJournal]:
    if str(output) == STDOUT or not identity["model"]:
        if resume:
            raise UsageError("a model that was never saved cannot resume; save it first")
        yield NO_JOURNAL
        return
    journal = Journal(output, identity, resume=resume)
    try:
        yield journal
        journal.require_end()
    except BaseException as error:
        journal.close(hint=not isinstance(error, UsageError))
        raise
    journal.remove()


class Journal:
    """See the module; use it through `kept`."""

    def __init__(
        self,
        output: Path | str,
        identity: Identity,
        *,
        resume: bool = False,
    ) -> None:
        self.path: Final = journal_of(output)
        self._earlier = 0
        self._end = 0
        self._next: _Entry | None = None
        self._file = self._open()
        try:
            head = _read_head(self.path)
            if head is None or not resume:
                self._write(_OPEN + json.dumps(dict(identity)).encode() + b"\n")
            else:
                self._require_same(head.identity, identity)
                self._next = self._read_entry(head.end)
        except BaseException:
            self._file.close()
            raise

    def frame(
        self, number: int, content: Iterable[str], make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        """Return the frame of a chunk: as an earlier run scored it, or made now and kept.

        Args:
            number: of the chunk; larger than any before.
            content: the items of the chunk as text, to see that the input is the same.
            make: scores the chunk. A frame in which nothing was scored is not kept.

        Raises:
            UsageError: an earlier run scored other items.
            OutputError: the frame cannot be kept.
        """
        text = "\n".join(content).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(text).digest()
        earlier = self._next
        if earlier is not None and earlier.number <= number:
            if (earlier.number, earlier.digest) != (number, digest):
                raise self._other_input()
            frame = unpack_frame(earlier.frame)
            self._earlier += len(frame)
            self._next = self._read_entry(earlier.end)
            if self._next is None:
                logger.info("%s: %s rows were scored before", self.path, f"{self._earlier:,}")
            return frame
        frame = make()
        if is_scored(frame):
            if earlier is not None:
                raise self._other_input()
            entry = _CHUNK.pack(number, digest) + pack_frame(frame)
            self._write(_LENGTH.pack(len(entry), zlib.crc32(entry)) + entry)
        return frame

    def skip(self, number: int) -> None:
        """Go past chunks in which nothing is to be scored, up to this one.

        Raises:
            UsageError: an earlier run scored one of them.
        """
        if self._next is not None and self._next.number <= number:
            raise self._other_input()

    def seal(self) -> None:
        """Note that all outputs are complete, and about to get their names.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            os.pwrite(self._file.fileno(), _DONE, 0)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def require_end(self) -> None:
        """Refuse an input that ended before the work of the earlier run did.

        Raises:
            UsageError: it did.
        """
        if self._next is not None:
            raise self._other_input()

    def close(self, hint: bool = True) -> None:
        """Leave the journal for a later run, if it holds work; say so with `hint`."""
        with suppress(OSError):
            if _read_head(self.path) is None:
                self.path.unlink()
            elif hint:
                logger.warning(
                    "%s keeps what is scored; the same command with --resume goes on from there",
                    self.path,
                )
        self._file.close()

    def remove(self) -> None:
        """End the run: its outputs are complete."""
        with suppress(OSError):
            self.path.unlink()
        self._file.close()

    def _open(self) -> io.FileIO:
        try:
            return io.FileIO(open_plain(self.path, os.O_RDWR | os.O_CREAT), "r+")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _require_same(self, then: Identity, now: Identity) -> None:
        changed = [
            f"{key} {then.get(key, 'none')}, now {now.get(key, 'none')}"
            for key in dict.fromkeys((*then, *now))
            if then.get(key) != now.get(key)
        ]
        if changed:
            raise UsageError(
                f"{self.path} is of another run ({'; '.join(changed)}); give what it was begun "
                "with, or --force without --resume to begin anew"
            )

    def _other_input(self) -> UsageError:
        return UsageError(
            f"{self.path} is of a run over another input; give the same one, or --force without "
            "--resume to begin anew"
        )

    def _read_entry(self, start: int) -> _Entry | None:
        """Return the entry that begins at an offset; None behind the last whole one."""
        self._end = start
        self._file.seek(start)
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        length, checksum = _LENGTH.unpack(head)
        end = start + len(head) + length
        if length < _CHUNK.size or end > os.fstat(self._file.fileno()).st_size:
            return None
        entry = self._file.read(length)
        if zlib.crc32(entry) != checksum:
            return None
        number, digest = _CHUNK.unpack_from(entry)
        return _Entry(number, digest, entry[_CHUNK.size :], end)

    def _write(self, data: bytes) -> None:
        """Write at the end of what is whole; all of it or nothing."""
        try:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())  # costs milliseconds, a chunk seconds
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise unwritable(self.path, error) from error
        self._end += len(data)


@dataclass(frozen=True, slots=True)
class _Head:
    identity: Identity
    done: bool
    end: int


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    digest: bytes
    frame: bytes
    end: int


def _read_head(path: Path) -> _Head | None:
    """Return the head of a journal that holds work; None where there is none, or no work in it.

    Raises:
        UsageError: the file is something else, or damaged.
        OutputError: it is no plain file.
    """
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            first, second = file.readline(1 << 16), file.readline(1 << 20)
            more = file.read(1)
    except OSError:
        return None
    if first in (_OPEN, _DONE):
        # Killed while it wrote the head, a run had scored nothing.
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
    if first.startswith(_KIND):
        raise UsageError(
            f"{path} was written by another version of genobird; finish with that, or remove it"
        )
    raise UsageError(f"{path} is no journal of genobird, whose place it takes; move it away")
