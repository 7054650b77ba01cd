"""The index of a FASTA file (`.fai`, and `.gzi` for BGZF): find, verify, build.

An index that lies beside the file is used when every header line and the end of the file are
exactly where it says; that it is older, as after copying, does not matter. Otherwise it is built by
htslib, beside the file where that can be written. A loaded index is bytes, so it travels to other
processes.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pysam

from genobird.errors import FastaError, OutputError, quoted
from genobird.genome import streams
from genobird.genome.position import whole
from genobird.genome.streams import Compression

logger = logging.getLogger(__name__)

# Bytes read after the last contig, to see that nothing but blank lines follows.
_AFTER_END = 1 << 12
# Bytes that the headers between two contigs may take, and that may follow the bases of a line.
_MOST_BETWEEN = 1 << 20
_MOST_AFTER_LINE = 1 << 12
_BGZF_BLOCK = 1 << 16


@contextmanager
def quiet_htslib() -> Iterator[None]:
    """Keep htslib from writing to standard error; its failures arrive as exceptions."""
    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


@dataclass(frozen=True)
class FastaIndex:
    """A `.fai` and, for BGZF, a `.gzi`, as bytes."""

    path: Path
    """The FASTA file."""
    fai: bytes
    gzi: bytes | None

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Length in bp of each contig, in file order."""
        return {name: length for name, length, *_ in _rows(self.fai)}

    def open(self) -> Any:
        """Open the file with this index, as `pysam.FastaFile`.

        Raises:
            OutputError: The temporary folder has no room for the index.
        """
        with tempfile.TemporaryDirectory(prefix="genobird-") as folder:
            fai, gzi = Path(folder, "fai"), Path(folder, "gzi")
            try:
                fai.write_bytes(self.fai)
                if self.gzi is not None:
                    gzi.write_bytes(self.gzi)
            except OSError as error:
                raise OutputError(
                    f"the index of {self.path} cannot be written to {folder}: {error.strerror}; "
                    "make room there, or name another folder in TMPDIR"
                ) from error
            # htslib reads both into memory, so the folder may go at once.
            with quiet_htslib():
                return pysam.FastaFile(
                    str(self.path),
                    filepath_index=str(fai),
                    filepath_index_compressed=str(gzi) if self.gzi is not None else None,
                )


def load(path: Path, kind: Compression) -> FastaIndex:
    """Return the index that lies beside a FASTA file, or build it.

    Raises:
        FastaError: The file cannot be indexed; the message says why.
    """
    fai, gzi = beside(path, kind)
    if fai.exists():
        if fresh := _read(path, fai, gzi):
            return fresh
        logger.warning("%s does not fit %s and is built again", fai, path)
    return _build(path, kind)


def beside(path: Path, kind: Compression) -> tuple[Path, Path | None]:
    """Return where the `.fai` of a FASTA file lies and, for BGZF, its `.gzi`."""
    gzi = Path(f"{path}.gzi") if kind is Compression.BGZF else None
    return Path(f"{path}.fai"), gzi


def _read(path: Path, fai: Path, gzi: Path | None) -> FastaIndex | None:
    try:
        found = FastaIndex(path, fai.read_bytes(), gzi.read_bytes() if gzi else None)
        return found if _describes(found) else None
    except (OSError, ValueError, OverflowError, struct.error):
        return None


def _build(path: Path, kind: Compression) -> FastaIndex:
    logger.info("indexing %s", path)
    final: tuple[Path | None, Path | None] = beside(path, kind)
    try:
        workspace = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError:
        logger.warning("%s is not writable: the index of %s is temporary", path.parent, path.name)
        workspace = tempfile.TemporaryDirectory(prefix="genobird-")
        final = (None, None)
    with workspace as folder:
        fai, gzi = Path(folder, "fai"), Path(folder, "gzi")
        try:
            with quiet_htslib():
                pysam.faidx(str(path), "--fai-idx", str(fai), "--gzi-idx", str(gzi))
            packed = gzi.read_bytes() if kind is Compression.BGZF else None
            built = FastaIndex(path, fai.read_bytes(), packed)
            sound = _describes(built)
        except (OSError, ValueError, OverflowError, struct.error, pysam.SamtoolsError):
            sound = False
        if not sound:
            raise FastaError(_fault(path))
        for made, place in zip((fai, gzi), final, strict=True):
            if place is not None:
                with suppress(OSError):
                    os.replace(made, place)
    return built


def _rows(fai: bytes) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield name, length, offset, bases a line, bytes a line."""
    for line in fai.decode("utf-8", "surrogateescape").splitlines():
        name, *numbers = line.split("\t")
        length, offset, bases, width = map(whole, numbers[:4])
        if length is None or offset is None or bases is None or width is None:
            raise ValueError(f"{quoted(line)} does not belong into an index")
        yield name, length, offset, bases, width


def _describes(found: FastaIndex) -> bool:
    """Tell whether each header, each first line and the end of the file are where they should."""
    end = 0  # offset after the last base so far
    with _byte_reader(found) as read:
        for name, length, offset, bases, width in _rows(found.fai):
            if not 0 < offset - end < _MOST_BETWEEN or length < 1:
                return False
            if not 0 < bases <= width < bases + _MOST_AFTER_LINE:
                return False
            if not _leads_to(name.encode("utf-8", "surrogateescape"), read(end, offset - end)):
                return False
            first_line = min(bases, length)
            if not _ends(read(offset + first_line - 1, width - bases + 1)):
                return False
            lines, rest = divmod(length - 1, bases)
            end = offset + lines * width + rest + 1
        return end > 0 and _ends(read(end - 1, _AFTER_END))


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


@contextmanager
def _byte_reader(found: FastaIndex) -> Iterator[Callable[[int, int], bytes]]:
    """Give `read(offset, size)` over the unpacked bytes of the file."""
    if found.gzi is None:
        with found.path.open("rb") as file:

            def read(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(max(0, size))

            yield read
        return
    count = struct.unpack_from("<Q", found.gzi)[0]
    numbers = struct.unpack_from(f"<{2 * count}Q", found.gzi, 8)
    packed, unpacked = (0, *numbers[0::2]), (0, *numbers[1::2])
    with quiet_htslib(), pysam.BGZFile(str(found.path), "rb") as bgzf:

        def read_block(offset: int, size: int) -> bytes:
            block = bisect_right(unpacked, offset) - 1
            if offset - unpacked[block] >= _BGZF_BLOCK:
                return b""
            bgzf.seek(packed[block] << 16 | (offset - unpacked[block]))
            return bytes(bgzf.read(max(0, size)))

        yield read_block


def _fault(path: Path) -> str:
    """Say why a FASTA file cannot be indexed."""
    seen: set[str] = set()
    name, width, last = "", 0, False
    for number, line in enumerate(streams.lines(path, FastaError), start=1):
        length = len(line.rstrip())
        if line.startswith(">"):
            name = (line[1:].split() or [""])[0]
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
