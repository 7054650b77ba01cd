"""Files of a manifest into a folder: from disk by checksum, or over HTTP with resume.

An interrupted download leaves `<name>.part`; the next run asks the server for the rest (HTTP Range,
and only if the file has not changed meanwhile). A file gets its name when its checksums hold. The
SHA-256 of each is recorded in `fetched.json`; where a manifest states none, the recorded one must
hold from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import typer

from genobird.errors import InputError, OutputError, UsageError
from pipelines import manifest, steps
from pipelines.manifest import File, Manifest

logger = logging.getLogger(__name__)

RECORD = "fetched.json"
CHUNK = 1 << 20
TIMEOUT_SECONDS = 60


def fetch(file: File, folder: Path, from_dir: Path | None = None) -> Path:
    """Bring one file into `folder`, unless it is there already, and verify it.

    Args:
        file: its manifest entry.
        folder: where data are kept; the file lands at `folder / file.name`.
        from_dir: take it from this folder instead of the network.

    Returns:
        The file's path.

    Raises:
        UsageError: it is not in `from_dir`, or it has no URL.
        InputError: a checksum or the size is wrong, or the server does not deliver.
        OutputError: the folder cannot be written.
    """
    target = folder / file.name
    expected = file.sha256 or _recorded(folder).get(file.name)
    if target.is_file():
        _record(folder, file.name, verify(target, file, expected))
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        if from_dir is not None:
            shutil.copyfile(find(file, from_dir, expected), part)
        else:
            download(_url(file), part)
        try:
            digest = verify(part, file, expected)
        except InputError:
            part.unlink()
            raise
        part.replace(target)
        _forget(part)
        _record(folder, file.name, digest)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def verify(path: Path, file: File, expected: str | None) -> str:
    """Check a file's size, MD5 and SHA-256 where they are known; return its SHA-256.

    Raises:
        InputError: one of them is wrong.
    """
    if file.size is not None and path.stat().st_size != file.size:
        raise InputError(
            f"{path} has {path.stat().st_size:,} bytes, the manifest says {file.size:,}; "
            "it is incomplete or another version, remove it and fetch again"
        )
    if file.md5 is not None:
        with path.open("rb") as content:
            _compare(path, "MD5", hashlib.file_digest(content, "md5").hexdigest(), file.md5)
    digest = steps.sha256(path)
    if expected is not None:
        _compare(path, "SHA-256", digest, expected)
    return digest


def _compare(path: Path, kind: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{path} has {kind} {found}, expected is {expected}; "
            "it is damaged or another version, remove it and fetch again"
        )


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


def download(url: str, part: Path) -> None:
    """Download `url` to `part`, going on where an earlier attempt stopped.

    Raises:
        InputError: the server does not deliver the whole file; `part` stays for the next attempt.
    """
    have = part.stat().st_size if part.is_file() else 0
    mark = _mark(part)
    validator = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    request = urllib.request.Request(url)
    if have and validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
            if resumed:
                logger.info("%s: resuming at byte %d", url, have)
            else:
                have = 0
                found = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                weak = found.startswith("W/")
                mark.write_text("" if weak else found, encoding="utf-8")
            length = answer.headers.get("Content-Length")
            with part.open("ab" if resumed else "wb") as file:
                shutil.copyfileobj(answer, file, CHUNK)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # all of it was there; the checksum decides
        raise InputError(
            f"{url} answers {error.code} {error.reason}; check the manifest"
        ) from error
    except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{url} cannot be fetched: {reason}; run again to resume") from error
    if length is not None and part.stat().st_size != have + int(length):
        raise InputError(
            f"{url} broke off after {part.stat().st_size:,} of {have + int(length):,} bytes; "
            "run again to resume"
        )


def _mark(part: Path) -> Path:
    """Where the server's version tag of a partial download is kept."""
    return part.with_name(part.name + ".version")


def _forget(part: Path) -> None:
    _mark(part).unlink(missing_ok=True)


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON; remove it to record checksums anew") from error
    return {str(name): str(digest) for name, digest in record.items()}


def _record(folder: Path, name: str, digest: str) -> None:
    known = _recorded(folder)
    if known.get(name) == digest:
        return
    record = {**known, name: digest}
    with steps.new_file(folder / RECORD, force=True) as part:
        part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def fetch_all(
    facts: Manifest, folder: Path, only: Sequence[str] = (), from_dir: Path | None = None
) -> list[Path]:
    """Bring files of a manifest into `folder`.

    Args:
        facts: the manifest.
        folder: where data are kept.
        only: names of files; none means every file that can be had: those with a URL, or, with
            `from_dir`, those without one (they exist on disk only).
        from_dir: take them from this folder instead of the network.

    Returns:
        Their paths.

    Raises:
        UsageError: a name is unknown, or see `fetch`.
        InputError: see `fetch`.
    """
    if only:
        files = [facts.file(name) for name in only]
    else:
        files = [file for file in facts.files if (file.url is None) == (from_dir is not None)]
    return [fetch(file, folder, from_dir) for file in files]


app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="Manifest: grch37, promoters, chromatin or a path.")],
    output: Annotated[Path, typer.Option(help="Folder where data are kept.")],
    only: Annotated[list[str] | None, typer.Option(help="File of the manifest; repeat.")] = None,
    from_dir: Annotated[Path | None, typer.Option(help="Take files from here, no network.")] = None,
) -> None:
    """Fetch the files of a manifest and verify their checksums."""
    for path in fetch_all(manifest.load(name), output, only or (), from_dir):
        logger.info("%s: verified", path)


if __name__ == "__main__":
    steps.run(app)
