"""Files of a manifest into a folder: from disk by checksum, or over https with resume.

An interrupted download leaves `<name>.part`, and the next run goes on with it. A file gets its name
when its checksums hold. It is `verified` by a checksum that its publisher or the manifest states;
without one it is only `recorded`: its SHA-256 is kept in `fetched.json` and must hold from then on.

pooch and requests transfer the bytes. Here is what they leave to their caller: the rest of a file
that has begun (HTTP Range, and only if the server still has the same file), new attempts after a
pause, and whether the answer is what was asked for.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import urljoin, urlsplit

import pooch
import requests
import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from genobird.errors import InputError, OutputError, UsageError
from genobird.files import write_text
from genobird.genome import streams
from pipelines import manifest, steps
from pipelines.manifest import File, Manifest

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 5
TIMEOUT_SECONDS: Final = 60
CHUNK: Final = 1 << 16  # what is lost at most when a connection breaks

_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")
_BUSY = frozenset(
    (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    )
)
RECORD: Final = "fetched.json"
_GZIP_NAMES = (".gz", ".tgz", ".bgz")
_MD5_LINE = re.compile(r"([0-9a-f]{32})\s+\*?(?:\./)?(\S+)")


class _Passing(InputError):
    """A fault that may be gone at the next attempt."""


class Version(BaseModel):
    """Which file a partial download is the start of."""

    url: str
    tag: str
    """ETag or date, as the server gave it."""
    size: int | None
    """Bytes of the whole file, where the server has told."""


def download(url: str, part: Path) -> None:
    """Download `url` to `part`, going on where an earlier attempt stopped.

    Beside it, `<part>.version` keeps which file it is the start of (`discard` removes both).

    Raises:
        InputError: the address is not https or leads away from it, the server does not deliver the
            whole file, or delivers a web page; what is whole so far stays for the next attempt.
        OSError: `part` cannot be written.
    """
    _refuse_plain(url, url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(url, part)
        except _Passing as error:
            if attempt == ATTEMPTS:
                raise InputError(f"{error} ({attempt} attempts); run again to resume") from error
            pause = 2**attempt
            logger.warning("%s; next attempt in %d s", error, pause)
            time.sleep(pause)
        else:
            return


def discard(part: Path) -> None:
    """Remove a partial download, if it is still there, and what was kept of its version."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _version(url: str, part: Path) -> Version | None:
    """Return which file `part` is the start of; None where that is not known."""
    try:
        version = Version.model_validate_json(_version_file(part).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return version if version.url == url else None


def _transfer(url: str, part: Path) -> None:
    """Make one attempt to bring what is missing of `part`."""
    with part.open("ab") as file:
        version = _version(url, part)
        if version is not None and version.size == file.tell():
            return
        answer = _Answer(url, version, file)
        get = pooch.HTTPDownloader(
            chunk_size=CHUNK,
            timeout=TIMEOUT_SECONDS,
            headers=answer.request_headers,
            hooks={"response": answer.begin},
        )
        try:
            get(url, file, None)
        except requests.RequestException as error:
            raise answer.fault(error) from error
        finally:
            answer.close()
        if answer.size not in (None, file.tell()):
            raise answer.broken_off()


class _Answer:
    """What a server sends for one request, checked before a byte of it is kept."""

    def __init__(self, url: str, version: Version | None, file: BinaryIO) -> None:
        self._url = url
        self._file = file
        self._have = file.tell() if version is not None and version.tag else 0
        self._version = version if self._have else None
        self._response: Any = None

    @property
    def request_headers(self) -> dict[str, str]:
        """Ask for the file as it lies on the server, or for the rest of it."""
        headers = {"Accept-Encoding": "identity"}
        if self._version is not None:
            headers |= {"Range": f"bytes={self._have}-", "If-Range": self._version.tag}
        return headers

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, where the server has told."""
        return self._version.size if self._version else None

    def broken_off(self) -> InputError:
        """Tell how much of the file came."""
        total = f" of {self.size:,}" if self.size is not None else ""
        return _Passing(f"{self._url} broke off after {self._file.tell():,}{total} bytes")

    def begin(self, response: Any, *_: object, **__: object) -> None:
        """Check the head of an answer (requests calls this for every one, redirects included).

        Raises:
            InputError: it is not what was asked for.
        """
        self._response = response
        status = response.status_code
        if response.is_redirect:
            _refuse_plain(urljoin(response.url, response.headers["location"]), self._url)
        elif status == HTTPStatus.PARTIAL_CONTENT and self._version is not None:
            self._resume(self._version, response.headers.get("Content-Range", ""))
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._version is not None:
            self._start_anew(f"{self._url} has no byte {self._have:,}")
        elif status == HTTPStatus.OK:
            self._start(response.headers)
            # A server may call a .gz file an encoding of its content. It stays what it is.
            response.raw.headers.pop("Content-Encoding", None)
        else:
            kind = _Passing if status in _BUSY else InputError
            hint = "" if status in _BUSY else "; check the manifest"
            raise kind(f"{self._url} answers {status} {response.reason}{hint}")

    def _resume(self, version: Version, content_range: str) -> None:
        found = _RANGE.fullmatch(content_range)
        first, size = (int(found[1]), int(found[2])) if found else (None, None)
        if first != self._have or version.size not in (None, size):
            self._start_anew(
                f"{self._url} was asked for its bytes from {self._have:,} on and answers with "
                f"{content_range or 'no Content-Range'}"
            )
        self._version = version.model_copy(update={"size": size})
        logger.info("%s: resuming at byte %s", self._url, f"{self._have:,}")

    def _start_anew(self, reason: str) -> None:
        self._file.truncate(0)
        raise _Passing(reason)

    def _start(self, headers: Any) -> None:
        kind = headers.get("Content-Type", "")
        if "html" in kind.lower():
            raise InputError(
                f"{self._url} answers with a web page ({kind}), not with the file; does this "
                "network ask for a login first?"
            )
        tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        length = headers.get("Content-Length")
        self._version = Version(
            url=self._url,
            tag="" if tag.startswith("W/") else tag,  # a weak tag is no promise of the same bytes
            size=int(length) if length is not None and length.isdecimal() else None,
        )
        self._file.truncate(0)
        text = self._version.model_dump_json()
        _version_file(Path(self._file.name)).write_text(text, encoding="utf-8")

    def fault(self, error: requests.RequestException) -> InputError:
        """Put a failed transfer into one line."""
        if isinstance(error, requests.exceptions.ChunkedEncodingError):
            return self.broken_off()
        passing = isinstance(error, requests.ConnectionError | requests.Timeout)
        kind = _Passing if passing and not isinstance(error, requests.exceptions.SSLError) else None
        return (kind or InputError)(f"{self._url} cannot be fetched: {_reason(error)}")

    def close(self) -> None:
        """Close the connection."""
        if self._response is not None:
            self._response.close()


def _refuse_plain(target: str, url: str) -> None:
    if urlsplit(target).scheme != "https":
        where = "is" if target == url else f"redirects to {target}, which is"
        raise InputError(f"{url} {where} not https; anybody on the way could alter the file")


def _reason(error: BaseException) -> str:
    """The fault that a chain of exceptions began with, in one line."""
    while error.__context__ is not None:
        error = error.__context__
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


class Status(StrEnum):
    """How far a file is known to be what its publisher gave out."""

    VERIFIED = "verified"
    RECORDED = "recorded"


class Entry(BaseModel):
    """What `fetched.json` keeps of a file."""

    sha256: str
    status: Status = Status.RECORDED


_RECORD = TypeAdapter(dict[str, Entry])


@dataclass(frozen=True)
class Fetched:
    """A file in its place."""

    path: Path
    status: Status


def fetch(file: File, folder: Path, from_dir: Path | None = None) -> Fetched:
    """Bring a file to `folder / file.name`, unless it is there already, and verify or record it.

    With `from_dir` it is taken from this folder instead of the network.

    Raises:
        UsageError: it is not in `from_dir`, or it has no URL.
        InputError: a checksum or the size is wrong, the content is of another kind than the name
            says, or the server does not deliver.
        OutputError: the folder cannot be written.
    """
    target = folder / file.name
    known = _recorded(folder).get(file.name)
    if from_dir is None and not _is_verified(known):
        file = with_published_md5(file)
    try:
        if target.is_file():
            entry = check(target, file, known)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            _bring(file, part, from_dir, known)
            try:
                entry = check(part, file, known)
            except InputError:
                discard(part)
                raise
            part.replace(target)
            discard(part)
        _record(folder, file.name, entry)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    return Fetched(target, entry.status)


def _bring(file: File, part: Path, from_dir: Path | None, known: Entry | None) -> None:
    if from_dir is not None:
        expected = file.sha256 or (known.sha256 if known is not None else None)
        shutil.copyfile(find(file, from_dir, expected), part)
        return
    try:
        download(_url(file), part)
    except InputError:
        if part.is_file() and not part.stat().st_size:
            discard(part)
        raise


def check(path: Path, file: File, known: Entry | None) -> Entry:
    """Check a file by all that is known of it: its manifest's entry, and what was recorded of it.

    Returns:
        Its SHA-256, and whether a published checksum has verified it.

    Raises:
        InputError: something is wrong.
    """
    _refuse_web_page(path)
    if file.size is not None and path.stat().st_size != file.size:
        raise InputError(
            f"{path} has {path.stat().st_size:,} bytes, the manifest says {file.size:,}; "
            "it is incomplete or another version, remove it and fetch again"
        )
    digest = steps.sha256(path)
    if file.sha256 is not None:
        _compare(path, "SHA-256", digest, file.sha256)
    if file.md5 is not None:
        _compare(path, "MD5", pooch.file_hash(str(path), "md5"), file.md5)
    if file.sha256 or file.md5:
        return Entry(sha256=digest, status=Status.VERIFIED)
    if known is not None and known.sha256 != digest:
        raise InputError(
            f"{path} has SHA-256 {digest}, recorded is {known.sha256}; it is damaged or another "
            f"version: remove it, or its entry in {RECORD} to accept it"
        )
    if not _is_verified(known):
        _refuse_damaged_gzip(path, file.name)
    return known or Entry(sha256=digest)


def _is_verified(known: Entry | None) -> bool:
    return known is not None and known.status is Status.VERIFIED


def _compare(path: Path, kind: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{path} has {kind} {found}, expected is {expected}; "
            "it is damaged or another version, remove it and fetch again"
        )


def _refuse_web_page(path: Path) -> None:
    with path.open("rb") as content:
        start = content.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<"):
        raise InputError(
            f"{path} is a web page, not data; does the network ask for a login first? "
            "Remove it if it is there, and fetch again"
        )


def _refuse_damaged_gzip(path: Path, name: str) -> None:
    """Unpack a file whose name promises gzip to its end: nothing else vouches for it."""
    if not name.endswith(_GZIP_NAMES):
        return
    if streams.compression_of(path) is streams.Compression.PLAIN:
        raise InputError(f"{path} is not gzip, as its name says; remove it and fetch again")
    for _ in streams.chunks(path, InputError):
        pass


def with_published_md5(file: File) -> File:
    """Add the MD5 that a publisher states in a list of its own, where the manifest states none.

    Raises:
        InputError: the list cannot be fetched, or does not name the file.
    """
    if file.md5sums is None or file.sha256 or file.md5:
        return file
    name = PurePosixPath(urlsplit(_url(file)).path).name
    with TemporaryDirectory(prefix="genobird-") as folder:
        listing = Path(folder, "md5sum.txt")
        download(file.md5sums, listing)
        text = listing.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        match = _MD5_LINE.fullmatch(line.strip())
        if match is not None and match[2] == name:
            return file.model_copy(update={"md5": match[1]})
    raise InputError(f"{file.md5sums} states no MD5 of {name}; look there, correct the manifest")


def find(file: File, folder: Path, expected: str | None) -> Path:
    """Find a file below `folder`: by checksum where one is known, whatever its name, else by name.

    Raises:
        UsageError: it is not there.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; --from-dir names one that holds the files")
    named = folder / file.name
    if expected is None:
        for path in (named, folder / named.name):
            if path.is_file():
                return path
    else:
        others = [path for path in sorted(folder.rglob("*")) if path != named and path.is_file()]
        others.sort(key=lambda path: path.name != named.name)
        for path in [named, *others]:
            right_size = path.is_file() and file.size in (None, path.stat().st_size)
            if right_size and steps.sha256(path) == expected:
                return path
    what = f"with SHA-256 {expected}" if expected else "(no checksum known: sought by name)"
    raise UsageError(f"{folder} does not hold {file.name} {what}")


def _url(file: File) -> str:
    if file.url is None:
        origin = file.origin
        where = (origin.package or origin.repository) if origin else None
        raise UsageError(
            f"{file.name} has no URL; it comes with {where or 'another dataset'}: "
            "pass --from-dir with a folder that holds it"
        )
    return file.url


def _recorded(folder: Path) -> dict[str, Entry]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        plain = {
            name: {"sha256": one} if isinstance(one, str) else one for name, one in record.items()
        }
        return _RECORD.validate_python(plain)
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is no record of fetched files; remove it to record checksums anew"
        ) from error


def _record(folder: Path, name: str, entry: Entry) -> None:
    known = _recorded(folder)
    if known.get(name) == entry:
        return
    record = {**known, name: entry}
    plain = {name: record[name].model_dump(mode="json") for name in sorted(record)}
    write_text(folder / RECORD, json.dumps(plain, indent=1) + "\n")


def fetch_all(
    facts: Manifest, folder: Path, only: Sequence[str] = (), from_dir: Path | None = None
) -> list[Fetched]:
    """Bring files of a manifest into `folder`.

    Args:
        facts: the manifest.
        folder: where data are kept.
        only: names of files; none means every file that can be had: those with a URL, or, with
            `from_dir`, those without one (they exist on disk only).
        from_dir: take them from this folder instead of the network.

    Returns:
        Each with its status, in this order.

    Raises:
        UsageError: a name is unknown, or see `fetch`.
        InputError: see `fetch`.
    """
    if only:
        files = [facts.file(name) for name in only]
    else:
        files = [file for file in facts.files if (file.url is None) == (from_dir is not None)]
    return [fetch(file, folder, from_dir) for file in files]


_MEANING = {
    Status.VERIFIED: "verified by a published checksum",
    Status.RECORDED: f"recorded: no checksum is published, its SHA-256 is kept in {RECORD}",
}


def main(
    name: Annotated[str, typer.Argument(help="Manifest: grch37, promoters, chromatin or a path.")],
    output: Annotated[Path, typer.Option(help="Folder where data are kept.")],
    only: Annotated[list[str] | None, typer.Option(help="File of the manifest; repeat.")] = None,
    from_dir: Annotated[Path | None, typer.Option(help="Take files from here, no network.")] = None,
) -> None:
    """Fetch the files of a manifest, and verify or record their checksums."""
    for one in fetch_all(manifest.load(name), output, only or (), from_dir):
        logger.info("%s: %s", one.path, _MEANING[one.status])


if __name__ == "__main__":
    steps.run(main)
