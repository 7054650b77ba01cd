"""Files on disk: whole under their name or not there, written by one run at a time; their SHA-256.

While `out.tsv` is written, two things lie beside it. Both go when it is done, and what a killed run
left of them goes when the next one begins:

    .out.tsv.lock            empty, locked for as long as its process lives
    .out.tsv.k3x_09ab.tmp/   a folder of random name that nobody else may enter; the file in it
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Protocol
from weakref import WeakSet

from genobird.errors import InputError, OutputError, UsageError, quoted

STDOUT: Final = "-"

# How names end, by what is written.
TABLES: Final = (".tsv", ".tsv.gz", ".parquet")
PACKED_VCFS: Final = (".vcf.gz", ".vcf.bgz")
VCFS: Final = (".vcf", *PACKED_VCFS, ".bcf")
PAGES: Final = (".html", ".htm")
PICTURES: Final = (".svg", ".png")
ARRAYS: Final = (".npz",)
CARDS: Final = (".md",)
VOCABULARIES: Final = (".model",)

_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# What systems, schedulers and killed runs leave in folders.
_LITTER: Final = (".DS_Store", "._*", ".nfs*", ".snakemake_timestamp", ".*.lock", ".*.tmp")
_FOREIGN: Final = "is no file of its own (a link, a pipe or a folder); move it away"

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""The outputs that `locked` holds around what runs now."""


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Kind(NamedTuple):
    """A kind of folder that genobird writes."""

    name: str
    """What messages call it."""
    file: str
    """What each folder of the kind holds."""
    files: tuple[str, ...]
    """What genobird writes there, as patterns of names; a folder with others is not replaced."""
    mark: str
    """What stands in that file, and in no other of its name."""

    def is_in(self, folder: Path) -> bool:
        """Tell whether a folder is of this kind; its other files may be damaged."""
        try:
            return self.mark.encode() in (folder / self.file).read_bytes()
        except OSError:
            return False


def refuse_existing(output: Path, force: bool, kind: Kind | None = None) -> None:
    """Refuse to write over something, unless by `force`.

    What is no folder of the kind that will be written is never replaced, nor one that holds other
    files too, unless it is empty.

    Raises:
        UsageError: it exists and `force` is not given, or it is or holds something else; see
            `require_place`, also for OutputError.
    """
    require_place(output)
    if not output.exists():
        return
    if kind is not None and not kind.is_in(output):
        refuse_foreign(output, kind.name)
    elif kind is not None:
        refuse_others(output, kind.files)
    if not force:
        raise UsageError(f"output {output} exists; choose another name or pass --force")
    if kind is None and output.is_dir():
        raise UsageError(f"output {output} is a folder, a file is needed; choose another name")


def refuse_foreign(output: Path, kind: str) -> None:
    """Refuse what is no folder of a kind by a UsageError, unless the folder is empty."""
    names = _others(output, ()) if output.is_dir() else None
    if names == []:
        return
    found = "is a file" if names is None else f"holds {', '.join(names[:3])}"
    more = f" and {len(names) - 3} more" if names and len(names) > 3 else ""
    raise UsageError(
        f"output {output} exists and is no {kind}: it {found}{more}, which --force does not remove "
        "either; choose another name"
    )


def refuse_others(folder: Path, files: Iterable[str]) -> None:
    """Refuse a folder that holds other files than those that may be replaced, by a UsageError."""
    if others := _others(folder, files):
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise UsageError(
            f"{folder} holds {others[0]}{more}, which genobird does not write there and --force "
            "does not remove; move it away or choose another output"
        )


def _others(folder: Path, files: Iterable[str]) -> list[str]:
    """Return the names in a folder that match none of the patterns, in order."""
    known = (*files, *_LITTER)
    return sorted(
        name for name in os.listdir(folder) if not any(fnmatchcase(name, one) for one in known)
    )


def keep_others(old: Path, new: Path, kind: Kind) -> None:
    """Move what genobird did not write from a folder to the one that will replace it.

    It was put there during the run: before it, `refuse_existing` found nothing of the sort.
    """
    for name in [] if old.is_symlink() else _others(old, kind.files):
        os.replace(old / name, new / name)


def require_place(output: Path, *, inside: bool = False) -> None:
    """Refuse a path where no file can be made, before work begins; its folder may be missing.

    Args:
        output: the path.
        inside: it is a folder, in which files are made if it exists.

    Raises:
        UsageError: a file, or a link that leads nowhere, is where a folder is needed.
        OutputError: its folder takes no files, or no file can have its name.
    """
    with writing(output):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(_place(output))
        ways = (output, *output.absolute().parents) if inside else output.absolute().parents
        folder = next(place for place in ways if os.path.lexists(place))
        if not folder.is_dir():
            found = "a file" if folder.exists() else "a link that leads nowhere"
            raise UsageError(
                f"{folder} is {found}, and output {output} needs a folder there; choose another"
            )
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except FileNotFoundError:  # as /proc says it
            raise OutputError(
                f"{output} cannot be written: {folder} takes no files; choose another folder"
            ) from None


def check_output(
    output: Path | str, endings: tuple[str, ...], force: bool = False, *, stdout: bool = False
) -> None:
    """Refuse an output before work begins, by the ending of its name or its folder.

    Raises:
        UsageError: it ends otherwise, its folder is missing, or it exists and `force` is not given.
        OutputError: nothing can be written into its folder.
    """
    path = Path(output)
    if stdout and str(path) == STDOUT:
        return
    if not path.name.endswith(endings):
        allowed = ", ".join(endings) + (f" and {STDOUT}" if stdout else "")
        hint = ", in lower case" if path.name.lower().endswith(endings) else ""
        raise UsageError(f"output {path} has an unknown ending; allowed are {allowed}{hint}")
    require_place(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"output {path} is no file in an existing folder; make the folder")
    refuse_existing(path, force)


def check_folder(folder: Path, files: Iterable[Path] = (), force: bool = False) -> None:
    """Refuse a folder for several files, as far as known, before work begins; it need not exist.

    Raises:
        UsageError: it cannot be made, or one of the files exists and `force` is not given.
        OutputError: see `require_place`.
    """
    require_place(folder, inside=True)
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder} is no folder in an existing folder; make that first")
    existing = [path for path in files if path.exists()]
    if existing and not force:
        raise UsageError(f"{existing[0]} exists; choose another folder or pass --force")


@contextmanager
def writing(path: Path | str, faults: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Tell in one line when the system does not let us write a file in the block.

    A reader of standard output that has left is no fault of a file.

    Raises:
        OutputError: for one of `faults`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except faults as error:
        reason = getattr(error, "strerror", None) or str(error)
        name = "standard output" if str(path) == STDOUT else path
        is_long = getattr(error, "errno", None) == errno.ENAMETOOLONG
        remedy = "choose a shorter name" if is_long else "check space and permissions"
        raise OutputError(f"{name} cannot be written: {reason}; {remedy}") from error


def write_all(file: IO[bytes] | io.RawIOBase, data: bytes) -> None:
    """Write to an unbuffered file, which may take a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def open_plain(path: Path, flags: int) -> int:
    """Open a file as `os.open` does, and refuse links and what else is no plain file.

    Raises:
        OutputError: it is one.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise OutputError(f"{path} {_FOREIGN}") from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OutputError(f"{path} {_FOREIGN}")
    return descriptor


@contextmanager
def locked(*outputs: Path | str) -> Iterator[None]:
    """Keep other runs, and other threads, from writing outputs for the length of the block.

    What a killed run left of them under temporary names is removed. Standard output is no file.

    Raises:
        UsageError: no file can have such a name.
        OutputError: another run writes one of them, or its folder cannot be written.
    """
    places = [_place(Path(output)) for output in outputs if str(output) != STDOUT]
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(_lock(place))
        stack.callback(_held.reset, _held.set(_held.get() | set(places)))
        yield


class Draft:
    """A file or folder that gets its name when it is whole; the folder it lies in is made.

    As a context it gives the place to write to, which has the same name in another folder. When the
    block ends well, what was written there gets its name, and what lies beside it, such as an
    index, its own; else nothing is left. An existing file or folder is replaced; other files that
    were put into a folder meanwhile stay.

    Args:
        path: of the file or folder.
        kind: of the folder.

    Raises:
        OutputError: another run writes it, or it cannot be written.
    """

    def __init__(self, path: Path, kind: Kind | None = None) -> None:
        self.path: Final = path
        self._kind = kind
        with ExitStack() as stack:
            if (place := _place(path)) not in _held.get():
                stack.enter_context(_lock(place))
            with writing(path):
                folder = tempfile.mkdtemp(".tmp", f"{_stem(path)}.", os.fspath(path.parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self._stack = stack.pop_all()
        self.part: Final = Path(folder, path.name)

    def __enter__(self) -> Path:
        return self.part

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.publish()
            return
        self.discard()
        if isinstance(error, OSError) and self._is_here(error):
            with writing(self.path):
                raise error

    def publish(self, *outdated: Path) -> None:
        """Give what was written its name; outdated files of what it replaces go.

        Raises:
            OutputError: it cannot be written.
        """
        with self._stack, writing(self.path):
            others = [made for made in self.part.parent.iterdir() if made != self.part]
            for made in (*others, self.part):
                _flush(made)
            for path in outdated:
                path.unlink(missing_ok=True)
            for made in others:
                os.replace(made, self.path.with_name(made.name))
            is_replaced = os.path.lexists(self.path) and not self.path.is_file()
            if self.part.is_dir() and is_replaced:
                self._exchange()
            else:
                os.replace(self.part, self.path)
            _flush_one(self.path.parent)

    def discard(self) -> None:
        """Leave nothing behind; what has its name stays."""
        self._stack.close()

    def _exchange(self) -> None:
        """Put a folder in the place of another, which is not removed before."""
        old = self.part.with_name(f"{self.part.name}.old")
        os.replace(self.path, old)
        try:
            os.replace(self.part, self.path)
        except OSError:
            os.replace(old, self.path)
            raise
        if self._kind is not None:
            keep_others(old, self.path, self._kind)

    def _is_here(self, error: OSError) -> bool:
        """Tell whether an error is about what is written, not about what is read."""
        name = error.filename
        return not isinstance(error, BrokenPipeError) and (
            name is None or str(self.part.parent) in str(name)
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8; for errors see `Draft`."""
    with Draft(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        UsageError: there is no such file.
        InputError: it is no JSON, or no mapping.
    """
    if not path.is_file():
        raise UsageError(f"there is no {path}")
    try:
        found: Any = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}; a mapping is needed")
    return found


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Make a folder for the length of a block, among the temporary files of the system.

    Those that killed processes left are removed, by how their names begin.
    """
    _sweep_scratch(Path(tempfile.gettempdir()), prefix)
    hidden = Path(tempfile.mkdtemp(prefix="."))
    descriptor = os.open(hidden, os.O_RDONLY)
    _flocked(descriptor)
    folder = hidden.rename(hidden.with_name(prefix + hidden.name[1:]))  # locked from the start
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep_scratch(temporary: Path, prefix: str) -> None:
    for entry in os.scandir(temporary):
        if not (entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)):
            continue
        with suppress(OSError):  # of another user, or of a process that lives
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path)
            finally:
                os.close(descriptor)


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Hold the lock of an output."""
    path = place.with_name(f"{_stem(place)}.lock")
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, alone = _open_locked(path)
        except BlockingIOError as error:
            raise OutputError(
                f"{place.name} is in use: another run writes the same output; wait for it or "
                "choose another name"
            ) from error
    held = _Held(descriptor)
    try:
        if alone:
            _sweep(place)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        held.renew()


class _Held:
    """The descriptor of a lock, which a forked process gives up: it must not outlive the run."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        renew_after_fork(self)

    def renew(self) -> None:
        """Close it; see `files.renew_after_fork`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open_locked(path: Path) -> tuple[int, bool]:
    """Open and lock a file; False where the file system knows no locks."""
    while True:
        descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            alone = _flocked(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        if os.fstat(descriptor).st_nlink:  # else its run ended just now, and removed it
            return descriptor, alone
        os.close(descriptor)


def _flocked(descriptor: int) -> bool:
    """Lock an open file or folder; False where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _sweep(place: Path) -> None:
    """Remove what a killed run left under temporary names."""
    stale = re.compile(rf"{re.escape(_stem(place))}\.[a-z0-9_]{{8}}\.tmp")
    for entry in os.scandir(place.parent):
        if stale.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)


def _place(path: Path) -> Path:
    """Return what all names of an output have in common."""
    if "\0" in str(path):
        raise UsageError(f"{quoted(str(path))} is no name of a file; check the path")
    return Path(os.path.realpath(path.parent), path.name)


def _stem(path: Path) -> str:
    """Return how temporary names begin; a name that would become too long gives way to its hash."""
    name = os.fsencode(path.name)
    return f".{path.name if len(name) < 200 else hashlib.sha256(name).hexdigest()}"


def _flush(path: Path) -> None:
    """Bring a file, or a folder with all in it, to disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            _flush_one(Path(folder, name))
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it for folders
            raise
    finally:
        os.close(descriptor)


class Renewable(Protocol):
    """A thing that a forked process cannot use as it is."""

    def renew(self) -> None:
        """Give up what belongs to the parent process."""


_KEPT: WeakSet[Renewable] = WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Have `thing.renew()` called in every process that is forked, before anything else there."""
    _KEPT.add(thing)


def _renew_all() -> None:
    for thing in list(_KEPT):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
