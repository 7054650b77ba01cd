"""The index of a FASTA file (`.fai`, and `.gzi` for BGZF): find, verify, build, read by it.

An index that lies beside the file is used when every header line and the end of the file are
exactly where it says; that it is older, as after copying, does not matter. Otherwise it is built by
htslib, beside the file where that can be written. What was loaded is independent of these files, so
it travels to other processes, each of which opens the FASTA file with it by pyfaidx.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyfaidx
import pysam
from Bio.bgzf import make_virtual_offset

from genobird.errors import FastaError, OutputError, quoted
from genobird.genome import streams
from genobird.genome.streams import Compression, whole

logger = logging.getLogger(__name__)

# Bytes read after the last contig, to see that nothing but blank lines follows.
_AFTER_END = 1 << 12
# Bytes that the headers between two contigs may take, and that may follow the bases of a line.
_MOST_BETWEEN = 1 << 20
_MOST_AFTER_LINE = 1 << 12
# Bases that are read on behind a window, for those that follow it.
_READ_AHEAD = 1 << 15

DAMAGE: Final = (
    *(OSError, ValueError, OverflowError, LookupError, RuntimeError),
    *(struct.error, zlib.error),
)
"""What reading by an index raises when the file, or the index, is damaged."""


@contextmanager
def quiet_htslib() -> Iterator[None]:
    """Keep htslib from writing to standard error; its failures arrive as exceptions."""
    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


class Row(NamedTuple):
    """Where the bases of a contig lie in the unpacked text: a line of a `.fai`."""

    name: str
    length: int
    """Bases."""
    offset: int
    """Byte of the first base."""
    bases: int
    """Bases of a whole line."""
    width: int
    """Bytes of a whole line."""


@dataclass(frozen=True)
class FastaIndex:
    """A `.fai` and, for BGZF, the bytes of a `.gzi`."""

    path: Path
    """The FASTA file."""
    rows: tuple[Row, ...]
    gzi: bytes | None

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Length in bp of each contig, in file order."""
        return {row.name: row.length for row in self.rows}

    def open(self) -> Any:
        """Open the file with this index, as `pyfaidx.Fasta`.

        Raises:
            OutputError: The temporary folder has no room for the index.
        """
        with tempfile.TemporaryDirectory(prefix="genobird-") as folder:
            # pyfaidx looks for BGZF in the name, and reads both indexes when it opens.
            link = Path(folder, "fasta" if self.gzi is None else "fasta.gz")
            try:
                link.symlink_to(self.path.absolute())
                self._write_beside(link)
            except OSError as error:
                raise OutputError(
                    f"the index of {self.path} cannot be written to {folder}: {error.strerror}; "
                    "make room there, or name another folder in TMPDIR"
                ) from error
            return pyfaidx.Fasta(
                str(link),
                as_raw=True,
                read_ahead=_READ_AHEAD,
                rebuild=False,
                build_index=False,
                key_function=lambda number: self.rows[int(number)].name,
            )

    def _write_beside(self, link: Path) -> None:
        """Write both indexes, as old as the file, with numbers for names, which may be anything."""
        lines = ("\t".join(map(str, (i, *row[1:]))) for i, row in enumerate(self.rows))
        fai = "\n".join(lines).encode()
        age = link.stat().st_mtime_ns
        for file, content in zip(beside(link), (fai, self.gzi), strict=True):
            if content is not None:
                file.write_bytes(content)
                os.utime(file, ns=(age, age))


def load(path: Path, kind: Compression) -> FastaIndex:
    """Return the index beside a FASTA file, or build it; FastaError says why it cannot be."""
    fai, gzi = beside(path)
    if fai.exists():
        if fresh := _read(path, fai, gzi, kind):
            return fresh
        logger.warning("%s does not fit %s and is built again", fai, path)
    return _build(path, kind)


def beside(path: Path) -> tuple[Path, Path]:
    """Return where the `.fai` of a FASTA file lies and, for BGZF, its `.gzi`."""
    return Path(f"{path}.fai"), Path(f"{path}.gzi")


def _read(path: Path, fai: Path, gzi: Path, kind: Compression) -> FastaIndex | None:
    """Read an index; None where it is damaged or does not describe the file."""
    try:
        packed = gzi.read_bytes() if kind is Compression.BGZF else None
        found = FastaIndex(path, tuple(_rows(fai.read_bytes())), packed)
        return found if _describes(found) else None
    except DAMAGE:
        return None


def _build(path: Path, kind: Compression) -> FastaIndex:
    logger.info("indexing %s", path)
    kept: tuple[Path, ...] = beside(path)
    try:
        workspace = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError:
        logger.warning("%s is not writable: the index of %s is temporary", path.parent, path.name)
        workspace = tempfile.TemporaryDirectory(prefix="genobird-")
        kept = ()
    with workspace as folder:
        made = Path(folder, "fai"), Path(folder, "gzi")
        with quiet_htslib(), suppress(OSError, pysam.SamtoolsError):
            pysam.faidx(str(path), "--fai-idx", str(made[0]), "--gzi-idx", str(made[1]))
        built = _read(path, *made, kind)
        if built is None:
            raise FastaError(_fault(path))
        for file, place in zip(made, kept, strict=False):
            with suppress(OSError):  # a plain file has one index only
                os.replace(file, place)
    return built


def _rows(fai: bytes) -> Iterator[Row]:
    """Read a `.fai`."""
    for row in fai.splitlines():  # of bytes: names may hold what ends lines elsewhere
        line = row.decode("utf-8", "surrogateescape")
        name, *numbers = line.split("\t")
        length, offset, bases, width = map(whole, numbers[:4])
        if length is None or offset is None or bases is None or width is None:
            raise ValueError(f"{quoted(line)} does not belong into an index")
        yield Row(name, length, offset, bases, width)


def _describes(found: FastaIndex) -> bool:
    """Tell whether each header, each first line and the end of the file are where they should."""
    end = 0  # offset after the last base so far
    with closing(found.open()) as fasta:
        for name, length, offset, bases, width in found.rows:
            if not 0 < offset - end < _MOST_BETWEEN or length < 1:
                return False
            if not 0 < bases <= width < bases + _MOST_AFTER_LINE:
                return False
            between = _read_at(fasta, end, offset - end)
            if not _leads_to(name.encode("utf-8", "surrogateescape"), between):
                return False
            first_line = min(bases, length)
            if not _ends(_read_at(fasta, offset + first_line - 1, width - bases + 1)):
                return False
            lines, rest = divmod(length - 1, bases)
            end = offset + lines * width + rest + 1
        return end > 0 and _ends(_read_at(fasta, end - 1, _AFTER_END))


def _leads_to(name: bytes, text: bytes) -> bool:
    """Tell whether a text ends with the header line of a contig, and has no bases before it.

    Contigs without bases have no row in an index, so their headers may stand before.
    """
    *before, header, rest = [b"", *text.split(b"\n")]
    words = header.lstrip().removeprefix(b">").split(b" ")[0].split()
    empty = all(line.strip()[:1] in (b"", b">") for line in before)
    return empty and header.lstrip()[:1] == b">" and words[:1] == [name] and not rest


def _ends(text: bytes) -> bool:
    """Tell whether the first byte is a letter and only white space follows it."""
    return text[:1].isalpha() and not text[1:].strip()


def _read_at(fasta: Any, offset: int, size: int) -> bytes:
    """Read so many of the unpacked bytes of a file that pyfaidx has opened."""
    file, blocks = fasta.faidx.file, getattr(fasta.faidx, "gzi_index", None)
    if blocks is None:
        file.seek(offset)
    else:
        block = blocks[bisect_right(blocks, offset, key=lambda block: block.ustart) - 1]
        file.seek(make_virtual_offset(block.cstart, offset - block.ustart))
    return bytes(file.read(max(0, size)))


def _fault(path: Path) -> str:
    """Say why a FASTA file cannot be indexed."""
    seen: set[str] = set()
    name, width, last = "", 0, False
    for number, line in enumerate(streams.lines(path, FastaError), start=1):
        length = len(line.rstrip())
        if line.startswith(">"):
            name = streams.first_word(line[1:])
            if name in seen:
                return f"{path}: contig {name} appears twice; names must be unique"
            seen.add(name)
            width, last = 0, False
            continue
        if length > (width or length) or (last and length):
            return (
                f"{path}, line {number}: lines of {name} have unequal lengths, so it cannot be "
                "indexed; wrap it anew, for example with `seqkit seq -w 60`"
            )
        width = width or length
        last = length != width
    if name and not width:
        return f"{path}: the last contig, {name}, has no bases, so it cannot be indexed; remove it"
    return f"{path} cannot be indexed: it is damaged or its lines are irregular; make it again"
