"""Files of a manifest into a folder: from disk by checksum, or over https with resume.

An interrupted download leaves `<name>.part`, and the next run goes on with it. A file gets its name
when its checksums hold. It is `verified` by a checksum that its publisher or the manifest states;
without one it is only `recorded`: its SHA-256 is kept in `fetched.json` and must hold from then on.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Final
from urllib.parse import urlsplit

import pooch
import typer
from pydantic import BaseModel, TypeAdapter

from genobird.errors import InputError, OutputError, UsageError
from genobird.files import write_text
from genobird.genome import streams
from pipelines import manifest, steps
from pipelines.download import discard, download
from pipelines.manifest import File, Manifest

logger = logging.getLogger(__name__)

RECORD: Final = "fetched.json"
_GZIP_NAMES = (".gz", ".tgz", ".bgz")
_MD5_LINE = re.compile(r"([0-9a-f]{32})\s+\*?(?:\./)?(\S+)")


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
    """Bring one file into `folder`, unless it is there already, and verify or record it.

    Args:
        file: its manifest entry.
        folder: where data are kept; the file lands at `folder / file.name`.
        from_dir: take it from this folder instead of the network.

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
    """Check a file by all that is known of it.

    Args:
        path: where it lies.
        file: its manifest entry.
        known: what was recorded of it, if it was fetched before.

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
