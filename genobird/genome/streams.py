"""Text of genomic files: decompressed bytes, lines, whole numbers, and what a stranger's file is.

Enters a path or `-`, leaves decompressed chunks or lines. Compression is seen in the first bytes,
never guessed from the name. Damage becomes one error of the caller's kind.

Whole numbers are positions, lengths and counts, in text or from Python. Digits are ASCII digits, 18
of them at most: any such number fits into 64 bits, and no contig is longer. Nothing else in
genobird reads a number of a genomic file.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from enum import StrEnum
from numbers import Integral, Real
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
    """Refuse text of two or four bytes a letter: with its mark, or in the pattern of two bytes."""
    start = next(pieces, b"")
    zeros = start[:4:2], start[1:4:2]
    wide = start.startswith((BOM_UTF32_LE, BOM_UTF32_BE))
    if wide or start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or zeros.count(b"\0\0") == 1:
        kind = "UTF-32" if wide else "UTF-16"
        raise error(
            f"{label(source)} is text in {kind}; save it as UTF-8: iconv -f {kind} -t UTF-8"
        )
    yield start
    yield from pieces


class Peeked:
    """The decompressed bytes of a source, opened once, the start of which can be looked at first.

    A byte-order mark is left out. Bytes may also be made as they are read, of no file; the source
    is then what to call them.

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
        InputError: Of the kind `error`: a line is longer than `MOST_LINE`, or holds a NUL byte.
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
            number += 1
            _require_no_nul(line, number, name, error)
            yield line.decode(code, "surrogateescape")
            code = "utf-8"
        begun.append(rest)
        size += len(rest)
        if size > MOST_LINE:
            raise error(
                f"{name}, line {number + 1} has more than {MOST_LINE >> 20} MiB, the most that is "
                "read of one; check the file; genotypes of a VCF go with bcftools view -G"
            )
    if size:
        line = b"".join(begun)
        _require_no_nul(line, number + 1, name, error)
        yield line.decode(code, "surrogateescape")


def _require_no_nul(line: bytes, number: int, name: str, error: type[InputError]) -> None:
    """Refuse a line that htslib, and bcftools with it, would read as far as its NUL byte alone.

    What is no text from its first bytes is left to whoever knows what it should be.
    """
    if b"\0" not in line:
        return
    is_text = line[:4].replace(b"\t", b" ").decode("latin-1").isprintable()
    if number > 1 or (is_text and not kind_of(line + b"\n")):
        raise error(
            f"{name}, line {number} holds a NUL byte; the file is damaged: make or copy it again"
        )


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


MOST_DIGITS: Final = 18
BEYOND: Final = 10**MOST_DIGITS
"""What stands for a position of more digits. It lies beyond the end of every contig."""


def whole(text: str) -> int | None:
    """Read a whole number from 0 on; None where the text is something else, or has more digits."""
    return int(text) if len(text) <= MOST_DIGITS and text.isascii() and text.isdigit() else None


def position(text: str) -> int | None:
    """Read a position; None where the text is none, `BEYOND` where it has more digits."""
    if len(text) <= MOST_DIGITS or not (text.isascii() and text.isdigit()):
        return whole(text)
    number = whole(text.lstrip("0") or "0")
    return BEYOND if number is None else number


def grouped(text: str) -> int | None:
    """Read a position that may have commas between its digits: `1,000`."""
    return position(text.replace(",", ""))


def position_of(value: object) -> int | None:
    """Read a cell of a table, or a value from Python, as a position.

    In a table with gaps a whole number may be a float: `20.0` is 20, in text too.

    Returns:
        The position; `BEYOND` where it is larger than that. None where it is no whole number from
        0 on, or is missing.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return min(int(value), BEYOND) if int(value) >= 0 else None
    if isinstance(value, Real):
        number = float(value)
        return min(int(number), BEYOND) if number >= 0 and number.is_integer() else None
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    digits, _, zeros = text.strip().partition(".")
    return None if zeros.strip("0") else position(digits)


BASE_BEFORE: Final = (
    "give the base before, as VCF does: where GA at 999 loses its A, chr20:999:GA>G"
)
"""What to do about an allele `-`, as MAF and ANNOVAR write it."""

_AGAIN = "a web page instead of data: download it again"
_AS_TEXT = "save it as text with its columns separated by tabs"
_MAF = (
    "a MAF: convert it to VCF, or to a table with the columns chrom, pos, ref and alt, and "
    f"where an allele is - {BASE_BEFORE}"
)
_LOOKED_AT = 1 << 14  # bytes
_KINDS: Final = (
    (rb"BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "packed: unpack it, or use bgzip"),
    (rb"PK\x03\x04|\xd0\xcf\x11\xe0", f"an Excel file or an archive: {_AS_TEXT}"),
    (rb"PAR1", f"a Parquet file: {_AS_TEXT}"),
    (rb"BAM\x01|CRAM", "aligned reads: call variants first"),
    (rb"\s*<(!doctype|html|\?xml)", _AGAIN),
    (rb">", "FASTA: that goes to --fasta"),
    (rb"@[^\n]*\r?\n[A-Za-z.]+\r?\n\+", "FASTQ: call variants first"),
    (rb"(#[^\n]*\n)*[^\n]*(Hugo_Symbol|Tumor_Seq_Allele)", _MAF),
    (rb"##fileformat=VCF(?!.*^#CHROM )", "a VCF: variants are scored by genobird variants"),
)
_PATTERNS: Final = [(re.compile(kind, re.I | re.S | re.M), what) for kind, what in _KINDS]
_ALLELE = re.compile(r"[ACGT,]+|-+", re.IGNORECASE)
_NAMED = re.compile(r"rs\d+|\w+[:_]\d+[:_][ACGT]+[>:_][ACGT]+(_b3[78])?", re.IGNORECASE)
_WHITE = re.compile(r"[ \t\r\v\f]")


def kind_of(start: bytes) -> str:
    """Say what a file is and what to do; empty where it is nothing known."""
    start = start[:_LOOKED_AT]
    if not start.strip():
        return "it is empty"
    if b"\r" in start and b"\n" not in start:
        return "its lines end as on an old Mac: convert them: tr '\\r' '\\n'"
    for pattern, what in _PATTERNS:
        if pattern.match(start):
            return f"it is {what}"
    if re.search(rb'^#?"?chr(om(osome)?)?"?;', start, re.I | re.M):
        return "its columns are separated by semicolons: separate them by tabs or commas"
    if re.search(rb"^#CHROM +POS", start, re.M):
        return "its columns are separated by spaces: VCF needs tabs"
    return ""


def first_word(text: str) -> str:
    """Return what htslib takes for the name in a FASTA header: all before ASCII white space."""
    return _WHITE.split(text, maxsplit=1)[0]


def without_header(start: bytes) -> str:
    """Say what a file without a header is, by its first row; empty where it is nothing known."""
    lines = start[:_LOOKED_AT].decode("utf-8", "replace").splitlines()
    cells = next((line.split() for line in lines if line[:1] not in ("", "#")), [])
    if len(cells) == 1 and _NAMED.fullmatch(cells[0]):
        return (
            "it looks like a list of variants: give them as arguments, or a table that begins with "
            "a line of columns, chrom pos ref alt; an rs number needs to be looked up first"
        )
    places = [whole(cell) is not None for cell in cells[1:3]]
    if len(cells) > 4 and all(places) and all(map(_ALLELE.fullmatch, cells[3:5])):
        return (
            "it looks like input of ANNOVAR: begin it with a line of columns, chrom pos end ref "
            f"alt, and where an allele is - {BASE_BEFORE}"
        )
    if places == [True, True]:
        return "it looks like BED: regions are scored by genobird score"
    if len(cells) > 3 and places[0] and all(map(_ALLELE.fullmatch, cells[-2:])):
        return "it looks like a table: begin it with a line that names chrom, pos, ref and alt"
    return ""
