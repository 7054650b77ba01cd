"""Genome: random access to a FASTA file, and whole contigs one after the other.

Enters a FASTA file (plain, gzip or BGZF), leaves normalised text (`ACGTN`). Random access goes
through pyfaidx; an index is trusted only when it describes the file exactly (`index`). Plain gzip
has no random access and is read into memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

from genobird.errors import (
    AssemblyError,
    ContigError,
    FastaError,
    OutOfBoundsError,
    SequenceError,
    quoted,
    some,
)
from genobird.files import renew_after_fork
from genobird.genome import assemblies, index, streams
from genobird.genome.interval import Interval
from genobird.genome.sequence import ILLEGAL, NORMAL, normalise

logger = logging.getLogger(__name__)

_WHITE: Final = b" \t\r\n\v\f"
# What is read on opening to see that the file is DNA at all, in chunks of the stream.
_FIRST_CHUNKS = 4
_KEPT_NAMES = 1024
# Bases that are read at once: pyfaidx slows down with the square of them.
_PIECE = 1 << 20


Fasta = Any
"""A path, or an open FASTA file of another library; see `Genome`."""


class Genome:
    """The contigs of one FASTA file.

    May be shared between threads, pickled and inherited by a forked process: each process opens
    the file for itself.

    Args:
        path: FASTA file; plain, gzip or BGZF. The open file of another library, which names it in
            its attribute `filename`, will do: `pysam.FastaFile`, `pyfaidx.Fasta`.

    Raises:
        UsageError: The file is missing or not readable.
        FastaError: It is empty, cut short, no FASTA or no DNA.
    """

    def __init__(self, path: Fasta) -> None:
        self.path: Final = streams.require_file(_path_of(path))
        self._compression = streams.compression_of(self.path)
        self._index: index.FastaIndex | None = None
        self._memory: dict[str, str] | None = None
        self._lengths_of: dict[str, int] | None = None
        self._sha256: str | None = None
        self._found: dict[str, str | None] = {}
        self._handle: Any = None
        self._lock = threading.RLock()
        renew_after_fork(self)
        self._aliases_of: tuple[dict[str, str], str | None] | None = None
        if self._compression is streams.Compression.BGZF and not streams.ends_whole(self.path):
            raise FastaError(
                f"{path} is cut short: its end-of-file block is missing; copy it again"
            )
        with closing(streams.chunks(self.path, FastaError)) as chunks:
            for _ in _contigs(islice(chunks, _FIRST_CHUNKS), self.path):
                pass

    def __enter__(self) -> Genome:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Genome({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_handle": None, "_lock": None, "_memory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the genome usable in a process that was forked; see `files.renew_after_fork`."""
        self._handle = None  # its position in the file is that of the parent
        self._lock = threading.RLock()

    @property
    def contigs(self) -> dict[str, int]:
        """Length in bp of each contig, in file order."""
        return dict(self._lengths())

    @property
    def assembly(self) -> str | None:
        """GRCh37, GRCh38 or T2T-CHM13 by the lengths of the chromosomes, or None."""
        return assemblies.recognise(self.contigs)

    def resolve(self, name: str) -> str:
        """Return the name in this file of a contig that may be spelled in another way.

        `20`, `chr20` and `NC_000020.10` are one contig, likewise for 1-22, X, Y and M/MT.

        Raises:
            ContigError: The genome has no such contig.
            AssemblyError: The name is the accession of another assembly, or of the other
                mitochondrial sequence.
        """
        if name in self._lengths():
            return name
        known = assemblies.chromosome(name)
        if known is not None:
            chromosome, assembly = known
            mine = self._aliases()[1] or "GRCh37"
            if assembly is not None and assembly != mine:
                raise AssemblyError(
                    f"contig {name} belongs to {assembly}, but {self.path} is {mine}; "
                    "lift the coordinates over or give the FASTA of that assembly"
                )
            if chromosome in self._aliases()[0]:
                return self._same_mitochondrion(name, self._aliases()[0][chromosome])
        raise ContigError(
            f"contig {quoted(name)} is not in {self.path}, which has {some(self._lengths())}; "
            "check the name and the assembly"
        )

    def find(self, name: str) -> str | None:
        """Return what `resolve` returns, or None where it raises; names asked for are kept."""
        found: str | None
        try:
            return self._found[name]
        except KeyError:  # another thread may clear them at any time
            pass
        try:
            found = self.resolve(name)
        except (AssemblyError, ContigError):
            found = None
        if len(self._found) >= _KEPT_NAMES:  # an input may have any number of them
            self._found.clear()
        self._found[name] = found
        return found

    def length(self, name: str) -> int:
        """Return the length in bp of a contig, under any of its names.

        Raises:
            ContigError: The genome has no such contig.
        """
        return self._lengths()[self.resolve(name)]

    def fetch(self, interval: Interval) -> str:
        """Return the bases of an interval on the forward strand, upper-case `ACGTN`.

        Raises:
            ContigError: The genome has no such contig.
            OutOfBoundsError: The interval ends after the contig.
            FastaError: The file is damaged or holds letters that are no DNA.
        """
        contig = self.resolve(interval.contig)
        length = self._lengths()[contig]
        if interval.end > length:
            raise OutOfBoundsError(
                f"{interval} ends after {contig} ({length:,} bp); "
                "is the interval from another assembly?"
            )
        return self._bases(contig, interval.start, interval.end)

    def fetch_clipped(self, contig: str, start: int, end: int) -> tuple[str, int]:
        """Return the part of `[start, end)` (0-based) that lies on the contig, and its start.

        Raises:
            ContigError: The genome has no such contig.
            FastaError: The file is damaged or holds letters that are no DNA.
        """
        contig = self.resolve(contig)
        length = self._lengths()[contig]
        start = min(max(start, 0), length)
        end = min(max(end, start), length)
        return self._bases(contig, start, end), start

    def stream(self, *, empty: bool = False) -> Iterator[tuple[str, str]]:
        """Yield each contig's name and bases, upper-case `ACGTN`, in file order.

        Needs no index and the memory of one contig. Who reads to the end has the hash as well.
        Contigs without bases are left out, as in an index of htslib, unless `empty` is set.

        Raises:
            FastaError: The file is cut short, damaged, no FASTA or no DNA.
        """
        digest = hashlib.sha256()
        with closing(streams.chunks(self.path, FastaError)) as chunks:
            for name, bases in _contigs(chunks, self.path):
                if not bases:
                    if empty:
                        yield name, ""
                    continue
                digest.update(f">{name} {len(bases)}\n".encode("utf-8", "surrogateescape"))
                digest.update(bases)
                yield name, bases.decode("ascii")
        self._sha256 = digest.hexdigest()

    def sha256(self) -> str:
        """Hash names, lengths and bases; the same for any wrapping, case and compression."""
        if self._sha256 is None:
            for _ in self.stream():
                pass
        assert self._sha256 is not None
        return self._sha256

    def close(self) -> None:
        """Close the file; a later access opens it again."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = None
            self._memory = None

    def _lengths(self) -> dict[str, int]:
        if self._lengths_of is None:
            if self._compression is streams.Compression.GZIP:
                self._lengths_of = {name: len(bases) for name, bases in self._in_memory().items()}
            else:
                self._lengths_of = self._indexed().lengths
        return self._lengths_of

    def _aliases(self) -> tuple[dict[str, str], str | None]:
        if self._aliases_of is None:
            self._aliases_of = assemblies.names_in(self._lengths()), self.assembly
        return self._aliases_of

    def _same_mitochondrion(self, name: str, found: str) -> str:
        length = self._lengths()[found]
        if assemblies.is_other_mitochondrion(name, length):
            raise AssemblyError(
                f"contig {name} is another mitochondrial sequence than {found} of {self.path}, "
                f"which is {assemblies.MITOCHONDRIA[length]} ({length:,} bp): hg19 has NC_001807, "
                "GRCh37 the rCRS; give a FASTA with the one that the coordinates are of"
            )
        return found

    def _bases(self, contig: str, start: int, end: int) -> str:
        if self._compression is streams.Compression.GZIP:
            return self._in_memory()[contig][start:end]
        pieces = range(start, end, _PIECE)
        return "".join(self._read(contig, at, min(at + _PIECE, end)) for at in pieces)

    def _read(self, contig: str, start: int, end: int) -> str:
        try:
            with self._lock:
                text = self._opened().get_seq(contig, start + 1, end)
        except index.DAMAGE as error:
            raise FastaError(f"{self.path} is damaged at {contig}: {error}") from error
        if len(text) != end - start:
            raise FastaError(f"{self.path} is damaged at {contig}; make or copy it again")
        try:
            return normalise(text, f"{contig}:{start + 1:,}-{end:,}")
        except SequenceError as error:
            raise FastaError(f"{self.path}: {error}") from None

    def _opened(self) -> Any:
        if self._handle is None:
            self._handle = self._indexed().open()
        return self._handle

    def _indexed(self) -> index.FastaIndex:
        with self._lock:
            if self._index is None:
                self._index = index.load(self.path, self._compression)
            return self._index

    def _in_memory(self) -> dict[str, str]:
        with self._lock:
            if self._memory is None:
                logger.warning(
                    "%s is plain gzip, which has no random access: it is read into memory; "
                    "pack it with bgzip instead",
                    self.path,
                )
                self._memory = dict(self.stream())
            return self._memory


def _path_of(fasta: Fasta) -> Path | str:
    """Return the path of a FASTA file, also of one that another library has opened."""
    named: Any = getattr(fasta, "filename", fasta)
    return os.fsdecode(named) if isinstance(named, bytes) else named


def _contigs(chunks: Iterable[bytes], path: Path) -> Iterator[tuple[str, bytearray]]:
    """Yield name and normalised bases of each record, and refuse what is no FASTA of DNA."""
    seen: set[str] = set()
    header: bytes | None = None  # the unfinished header line, or None among bases
    name = ""
    bases = bytearray()
    line_start = True
    found = False
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if header is not None:
                stop = chunk.find(b"\n", at)
                if stop < 0:
                    header += chunk[at:]
                    break
                name = _name(header + chunk[at:stop], seen, path)
                header, line_start, at = None, True, stop + 1
            elif line_start and chunk[at : at + 1] == b">":
                if name:
                    found = found or bool(bases)
                    yield name, bases
                header, bases, at = b"", bytearray(), at + 1
            else:
                stop = chunk.find(b">", at)
                if stop == at or (stop > at and chunk[stop - 1] != ord("\n")):
                    stop += 1  # inside a line it is a letter, and refused as one
                end = len(chunk) if stop < 0 else stop
                _append(bases, chunk[at:end], name, path)
                line_start, at = chunk[end - 1] == ord("\n"), end
    if header is not None:
        name = _name(header, seen, path)
    if not name:
        raise FastaError(f"{path} is empty; a FASTA file begins with '>' and a contig name")
    if not bases and not found:
        why = streams.kind_of(header or b">") if b"\r" in (header or b"") else ""
        raise FastaError(f"{path} holds names but no bases; {why or 'give the FASTA of a genome'}")
    yield name, bases


def _append(bases: bytearray, text: bytes, name: str, path: Path) -> None:
    clean = text.translate(NORMAL, _WHITE)
    if not clean:
        return
    if not name:
        found = text.strip()[:20].decode("ascii", "replace")
        kind = "it looks like FASTQ" if found.startswith("@") else streams.kind_of(text)
        hint = f"; {kind}" if kind else ""
        raise FastaError(f"{path} is no FASTA: it starts with {found!r} instead of '>'{hint}")
    offset = clean.find(ILLEGAL)
    if offset >= 0:
        letter = chr(text.translate(None, _WHITE)[offset])
        raise FastaError(
            f"{path}: letter {letter!r} at {name}:{len(bases) + offset + 1:,} is no DNA; "
            "allowed are ACGTN and IUPAC codes; is this a protein or RNA file?"
        )
    bases += clean


def _name(header: bytes, seen: set[str], path: Path) -> str:
    name = streams.first_word(header.decode("utf-8", "surrogateescape"))
    if not name:
        raise FastaError(f"{path}: a header line has no name; write it as '>chr1'")
    if name in seen:
        raise FastaError(f"{path}: contig {name} appears twice; names must be unique")
    seen.add(name)
    return name
