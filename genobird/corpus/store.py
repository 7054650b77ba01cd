"""A corpus directory: what its index says, its sentences and their text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from genobird.corpus.sampling import ROW, CorpusSettings, Rows, texts
from genobird.errors import AssemblyError, InputError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.streams import Compression, compression_of

SENTENCES = "sentences.parquet"
INDEX = "index.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FastaRecord(_Frozen):
    """A FASTA file that a corpus was drawn from."""

    path: str
    sha256: str
    contigs: dict[str, int]


class Counts(_Frozen):
    """What is in a corpus, and how many sentences were left out."""

    sentences: int
    documents: int
    bp: int
    dropped_n: int
    dropped_region: int


class Group(_Frozen):
    """The kept sentences of one contig in one pass: one row group."""

    contig: str
    pass_index: int
    sentences: int


class CorpusIndex(_Frozen):
    """The content of `index.json`."""

    format: Literal["genobird-corpus-1"] = "genobird-corpus-1"
    version: str
    settings: CorpusSettings
    regions: tuple[tuple[str, int, int], ...] | None
    genome_sha256: str
    fastas: tuple[FastaRecord, ...]
    counts: Counts
    sentences_sha256: str
    groups: tuple[Group, ...]


def read(path: Path | str, fastas: Sequence[Path] | None = None) -> Corpus:
    """Open a corpus directory.

    Args:
        path: The directory.
        fastas: Its FASTA files, where they have moved; their content is checked.

    Raises:
        UsageError: There is no corpus.
        InputError: It is damaged.
        AssemblyError: The FASTA files are others than those of the corpus.
    """
    path = Path(path)
    try:
        index = CorpusIndex.model_validate_json((path / INDEX).read_bytes())
        rows = pq.read_metadata(path / SENTENCES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{path} is not a corpus (no {Path(str(error.filename or SENTENCES)).name}); "
            "make one with `genobird corpus`"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(
            f"the corpus {path} is damaged ({' '.join(str(error).split())}); build it again"
        ) from error
    found = [rows.row_group(i).num_rows for i in range(rows.num_row_groups)]
    if found != [group.sentences for group in index.groups]:
        raise InputError(
            f"{path / SENTENCES} has {rows.num_rows:,} sentences that do not fit {INDEX} "
            f"({index.counts.sentences:,}); build the corpus again"
        )
    return Corpus(path, index, _genomes(index, fastas))


class Corpus:
    """A corpus directory and the FASTA files it was drawn from.

    Attributes:
        path: The directory.
        index: The content of `index.json`.
        fastas: Where its FASTA files are.
    """

    def __init__(self, path: Path, index: CorpusIndex, fastas: tuple[Path, ...]) -> None:
        self.path = path
        self.index = index
        self.fastas = fastas
        self._streams: dict[Path, Iterator[tuple[str, str]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_streams": {}}

    @cached_property
    def sha256(self) -> str:
        """Hash of genome and sentences; the same wherever the FASTA files are."""
        return joint_sha256(self.index.genome_sha256, self.index.sentences_sha256)

    def rows(self, group: int) -> Rows:
        """Read the kept sentences of `index.groups[group]`, in reading order, as `ROW`."""
        columns = ["document", "start", "end", "strand"]
        try:
            with pq.ParquetFile(self.path / SENTENCES) as file:
                table = file.read_row_group(group, columns=columns)
        except (ValueError, OSError) as error:
            raise InputError(
                f"{self.path / SENTENCES} is damaged ({error}); build the corpus again"
            ) from error
        rows = np.zeros(table.num_rows, dtype=ROW)
        for name in columns[:3]:
            rows[name] = table[name].to_numpy()
        rows["reverse"] = np.array(table["strand"].to_pylist()) == "-"
        return rows

    def sequence(self, contig: str) -> str:
        """Read a whole contig; contigs in the order of their file cost one pass through plain gzip.

        Raises:
            AssemblyError: The FASTA file has changed since the corpus was built.
        """
        for record, path in zip(self.index.fastas, self.fastas, strict=True):
            if contig in record.contigs:
                sequence = self._whole(path, contig)
                if len(sequence) != record.contigs[contig]:
                    raise AssemblyError(
                        f"{contig} in {path} has {len(sequence):,} bp, the corpus {self.path} has "
                        f"{record.contigs[contig]:,}; give the FASTA it was built from"
                    )
                return sequence
        raise InputError(f"contig {contig!r} is not in the corpus {self.path}; check the name")

    def _whole(self, path: Path, contig: str) -> str:
        if compression_of(path) is not Compression.GZIP:
            with Genome(path) as genome:
                return genome.fetch(Interval(contig, 0, genome.contigs[contig]))
        # Plain gzip has no random access, and fetching would hold all contigs. What was asked for
        # last lies behind; the contig lies ahead, or before the place where the stream begins anew.
        for stream in (self._streams.pop(path, iter(())), Genome(path).stream()):
            for name, sequence in stream:
                if name == contig:
                    self._streams[path] = stream
                    return sequence
        return ""

    def verify(self) -> None:
        """Read the FASTA files once and compare their content.

        Raises:
            AssemblyError: A file has other content than the corpus was drawn from.
        """
        _matched(self.index, self.fastas)

    def iter_text(self, groups: Iterable[int] | None = None) -> Iterator[str]:
        """Yield the text of sentences in the order of the corpus.

        Args:
            groups: Numbers of row groups, see `index.groups`; all by default.
        """
        numbers = range(len(self.index.groups)) if groups is None else groups
        yield from self._texts((number, self.rows(number)) for number in numbers)

    def sample_text(self, bp: int, seed: int) -> Iterator[str]:
        """Draw sentences evenly over the corpus, up to `bp` bases, to train a tokenizer on.

        The corpus is cut into equal strata, one sentence is drawn from each. Sentences come in the
        order of the corpus; one of at most `bp` is yielded whole.
        """
        counts = self.index.counts
        n = min(counts.sentences, -(-bp * counts.sentences // counts.bp))
        rng = np.random.Generator(np.random.Philox(seed))
        chosen = np.unique(((np.arange(n) + rng.random(n)) * counts.sentences / n).astype(np.int64))
        firsts = np.cumsum([0, *(group.sentences for group in self.index.groups)])
        bounds = np.searchsorted(chosen, firsts)
        picks = (
            (
                number,
                self.rows(number)[chosen[bounds[number] : bounds[number + 1]] - firsts[number]],
            )
            for number in range(len(self.index.groups))
            if bounds[number] < bounds[number + 1]
        )
        left = bp
        for text in self._texts(picks):
            left -= len(text)
            if left < 0:
                return
            yield text

    def _texts(self, picks: Iterable[tuple[int, Rows]]) -> Iterator[str]:
        by_contig = groupby(picks, key=lambda pick: self.index.groups[pick[0]].contig)
        for contig, same in by_contig:
            sequence = self.sequence(contig)
            for _, rows in same:
                yield from texts(sequence, rows)


def _genomes(index: CorpusIndex, fastas: Sequence[Path] | None) -> tuple[Path, ...]:
    if fastas is not None:
        return _matched(index, fastas)
    paths = tuple(Path(record.path) for record in index.fastas)
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}, the FASTA of the corpus, is gone; give its new place")
    return paths


def _matched(index: CorpusIndex, fastas: Sequence[Path]) -> tuple[Path, ...]:
    """Find the file of each FASTA of the corpus by its content."""
    found = {Genome(path).sha256(): path for path in fastas}
    for record in index.fastas:
        if record.sha256 not in found:
            raise AssemblyError(
                f"none of {', '.join(map(str, fastas))} has the content of {record.path}, "
                "from which the corpus was drawn; give that FASTA or build the corpus again"
            )
    return tuple(found[record.sha256] for record in index.fastas)


def joint_sha256(*hashes: str) -> str:
    """Hash of hashes; one alone stands for itself."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
