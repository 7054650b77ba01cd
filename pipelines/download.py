"""One URL over https to one file; what breaks off is resumed, now or in the next run.

pooch and requests transfer the bytes. Here is what they leave to their caller: the rest of a file
that has begun (HTTP Range, and only if the server still has the same file), new attempts after a
pause, and whether the answer is what was asked for.
"""

from __future__ import annotations

import logging
import re
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urljoin, urlsplit

import pooch
import requests
from pydantic import BaseModel, ValidationError

from genobird.errors import InputError

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
