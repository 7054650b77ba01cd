"""Bytes of a text file that may be plain, gzip or BGZF, or may come from standard input.

Enters a path or `-`, leaves decompressed chunks or lines. Compression is seen in the first bytes,
never guessed from the name. Damage becomes one error of the caller's kind.
"""

from __future__ import annotations

import os
import sys
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from genobird.errors import InputError, UsageError, quoted

STDIN: Final = "-"
BGZF_END: Final = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that every complete BGZF file ends with."""

MOST_LINE: Final = 1 << 26
"""Bytes of a line: 64 MiB hold the genotypes of millions of samples. Memory follows the longest."""

_CHUNK = 1 << 16
# A run of N packs 1000:1: what is unpacked needs a bound of its own.
_MOST_UNPACKED = 1 << 20


class Compression(StrEnum):
    """How the bytes of a file are packed."""

    PLAIN = "plain"
    GZIP = "gzip"
    BGZF = "bgzf"


def require_file(path: Path | str) -> Path:
    """Return `path` when it is a file that can be read.

    Raises:
        UsageError: It is missing, a folder or not readable, or no path at all.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{quoted(path)} is given where a file is needed; give its path")
    path = Path(path)
    try:
        with path.open("rb"):
            return path
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, a file is needed; check the path") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        raise UsageError(f"{quoted(str(path))} is no name of a file; check the path") from None


def label(source: Path | str) -> str:
    """Return what to call a source in messages."""
    return "standard input" if str(source) == STDIN else str(source)


def compression(start: bytes) -> Compression:
    """Tell the packing from the first 14 bytes or more of a file."""
    if not start.startswith(b"\x1f\x8b"):
        return Compression.PLAIN
    if start[3:4] == b"\x04" and start[12:14] == b"BC":
        return Compression.BGZF
    return Compression.GZIP


def compression_of(path: Path) -> Compression:
    """Tell how a file is packed."""
    with path.open("rb") as file:
        return compression(file.read(18))


def ends_whole(path: Path) -> bool:
    """Tell whether a BGZF file has its last block."""
    with path.open("rb") as file:
        file.seek(-min(len(BGZF_END), path.stat().st_size), os.SEEK_END)
        return file.read() == BGZF_END


def chunks(source: Path | str, error: type[InputError]) -> Generator[bytes, None, None]:
    """Yield the decompressed bytes of a file, or of standard input for `-`, in pieces.

    Args:
        source: A path or `-`.
        error: What to raise for damaged data.

    Raises:
        UsageError: The file is missing, or standard input is closed.
        InputError: Of the kind `error`: the data are cut short or damaged.
    """
    if str(source) == STDIN:
        if sys.stdin is None:
            raise UsageError("standard input is closed; give a file instead of -")
        yield from _checked(_unpacked(sys.stdin.buffer, label(source), error), source, error)
        return
    with require_file(source).open("rb") as file:
        yield from _checked(_unpacked(file, label(source), error), source, error)


def _checked(
    pieces: Iterator[bytes], source: Path | str, error: type[InputError]
) -> Iterator[bytes]:
    """Refuse text of two bytes a letter: with its mark, or in the pattern of letters and zeros."""
    start = next(pieces, b"")
    zeros = start[:4:2], start[1:4:2]
    if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or zeros.count(b"\0\0") == 1:
        raise error(
            f"{label(source)} is text in UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8"
        )
    yield start
    yield from pieces


class Peeked:
    """The decompressed bytes of a source, opened once, the start of which can be looked at first.

    A byte-order mark is left out.

    Args:
        source: A path or `-`.
        error: What to raise for damaged data.
        made: Bytes that are made as they are read, of no file; `source` is then what to call them.

    Raises:
        UsageError: The file is missing.
        InputError: Of the kind `error`: the data are damaged.
    """

    def __init__(
        self,
        source: Path | str,
        error: type[InputError],
        made: Generator[bytes, None, None] | None = None,
    ) -> None:
        self.source: Final = source
        self._chunks = made or chunks(source, error)
        self.start: Final = next(self._chunks, b"").removeprefix(BOM_UTF8)

    @property
    def name(self) -> str:
        """What to call the source in messages."""
        return label(self.source)

    def __iter__(self) -> Iterator[bytes]:
        yield self.start
        yield from self._chunks

    def close(self) -> None:
        """Close the file."""
        self._chunks.close()


def lines(source: Path | str, error: type[InputError]) -> Iterator[str]:
    """Yield the lines of a text file without their line feed; a carriage return is kept.

    A byte-order mark, which some editors put first, is left out. Bytes that are no UTF-8 survive a
    round trip through the error handler `surrogateescape`.
    """
    with closing(chunks(source, error)) as pieces:
        yield from split_lines(pieces, label(source), error)


def split_lines(
    pieces: Iterable[bytes], name: str = "the text", error: type[InputError] = InputError
) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces, as `lines` does.

    Raises:
        InputError: Of the kind `error`: a line is longer than `MOST_LINE`.
    """
    begun: list[bytes] = []  # pieces of the line that has not ended
    size = number = 0
    code = "utf-8-sig"  # the codec that drops a byte-order mark
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        if ended:
            ended[0] = b"".join([*begun, ended[0]])
            begun, size = [], 0
        for line in ended:
            yield line.decode(code, "surrogateescape")
            code = "utf-8"
        begun.append(rest)
        size += len(rest)
        number += len(ended)
        if size > MOST_LINE:
            raise error(
                f"{name}, line {number + 1} has more than {MOST_LINE >> 20} MiB, the most that is "
                "read of one; check the file; genotypes of a VCF go with bcftools view -G"
            )
    if size:
        yield b"".join(begun).decode(code, "surrogateescape")


def _unpacked(file: BinaryIO, name: str, error: type[InputError]) -> Iterator[bytes]:
    start = file.read(_CHUNK)
    kind = compression(start)
    if kind is Compression.PLAIN:
        while start:
            yield start
            start = file.read(_CHUNK * 16)
        return
    try:
        yield from _inflated(start, file, name, kind, error)
    except zlib.error as cause:
        raise error(f"{name} is damaged: {cause}; make or copy it again") from cause


def _inflated(
    packed: bytes, file: BinaryIO, name: str, kind: Compression, error: type[InputError]
) -> Iterator[bytes]:
    member: zlib._Decompress | None = None
    size = 0
    while packed:
        if member is None:
            packed = packed.lstrip(b"\0") or file.read(_CHUNK).lstrip(b"\0")  # gzip allows padding
            if not packed:
                break
            member, size = zlib.decompressobj(wbits=31), 0
        text = member.decompress(packed, _MOST_UNPACKED)
        size += len(text)
        if text:
            yield text
        packed = member.unconsumed_tail or member.unused_data
        if member.eof:
            member = None
        packed = packed or file.read(_CHUNK)
    if member is not None or (kind is Compression.BGZF and size):
        raise error(f"{name} is cut short: its compressed data end too early; copy it again")
