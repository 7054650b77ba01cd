"""Corpus: contigs enter, documents of sentences leave, as coordinates.

The law of the BigBird paper: for each contig and pass, from a start drawn from 0..5000 bp on,
documents of 50-100 consecutive sentences of 500-1000 bp; the last sentence is cut at the end of the
contig. Ten passes of a genome would be 28 Gbp of text, so a corpus directory holds coordinates:

- `sentences.parquet`: columns `pass document contig start end strand`, 0-based half-open; a row
  group for each contig and pass, sentences in reading order;
- `index.json`: settings, regions, FASTA files with their hashes, counts of kept and dropped.

Draws depend on seed, contig name and pass only, so a contig has the same sentences whatever else is
in the genome.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

import genobird
from genobird.config import MOST_SEED, Strict, explain
from genobird.errors import AssemblyError, ContigError, InputError, UsageError
from genobird.files import Draft, Kind, file_sha256, refuse_existing
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.locus import require_on_genome
from genobird.genome.sequence import n_runs, reverse_complement
from genobird.genome.streams import Compression, compression_of

logger = logging.getLogger(__name__)

SENTENCES = "sentences.parquet"
INDEX = "index.json"
KIND = Kind("corpus", INDEX, (INDEX, SENTENCES), '"genobird-corpus-1"')
_SCHEMA = pa.schema(
    [
        ("pass", pa.uint16()),
        ("document", pa.uint32()),
        ("contig", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.uint32()),
        ("end", pa.uint32()),
        ("strand", pa.dictionary(pa.int8(), pa.string())),
    ]
)

ROW = np.dtype([("document", "<u4"), ("start", "<u4"), ("end", "<u4"), ("reverse", "?")])
"""Sentences as an array: bases `start` to `end` of the contig; `reverse` reads the other strand."""

Rows = NDArray[np.void]
Bounds = tuple[PositiveInt, PositiveInt]


class CorpusSettings(Strict):
    """How documents are drawn; the defaults are the paper's."""

    passes: Annotated[int, Field(ge=1, le=65_535)] = 10
    """Times that each contig is read."""
    start_max: NonNegativeInt = 5_000
    """Largest start of a pass, in bp."""
    sentences: Bounds = (50, 100)
    """Fewest and most sentences in a document."""
    sentence_bp: Bounds = (500, 1_000)
    """Shortest and longest sentence."""
    max_n_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A sentence with a larger share of N is dropped."""
    both_strands: bool = False
    """Each document is also read on the other strand, as a document of its own."""
    seed: int = Field(0, ge=0, le=MOST_SEED)

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        for name, (low, high) in (("sentences", self.sentences), ("sentence_bp", self.sentence_bp)):
            if low > high:
                raise ValueError(f"{name} goes from {low} to {high}; give the smaller number first")
        return self


def draw(contig_length: int, settings: CorpusSettings, contig: str, pass_index: int) -> Rows:
    """Draw the sentences of one contig in one pass, in reading order, before any is dropped.

    Its length is in bp. Its name and `pass_index`, 0 to `settings.passes` - 1, are parts of the key
    of the draw.
    """
    key = hashlib.sha256(f"{settings.seed}\0{pass_index}\0{contig}".encode()).digest()[:16]
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    fewest, most = settings.sentences
    shortest, longest = settings.sentence_bp
    first = int(rng.integers(0, settings.start_max + 1))
    enough = max(contig_length - first, 0) // (fewest * shortest) + 1
    per_document = rng.integers(fewest, most + 1, size=enough)
    lengths = rng.integers(shortest, longest + 1, size=int(per_document.sum()))
    ends = first + np.cumsum(lengths)
    starts = ends - lengths
    n = int(np.searchsorted(starts, contig_length))
    rows = np.zeros(n, dtype=ROW)
    rows["document"] = np.repeat(np.arange(enough), per_document)[:n]
    rows["start"] = starts[:n]
    rows["end"] = np.minimum(ends[:n], contig_length)
    if settings.both_strands and n:
        mirrored = rows[::-1].copy()
        mirrored["document"] = 2 * rows["document"][-1] + 1 - mirrored["document"]
        mirrored["reverse"] = True
        rows = np.concatenate([rows, mirrored])
    return rows


def texts(sequence: str, rows: Rows) -> Iterator[str]:
    """Yield the bases of sentences of a contig, given whole, on their strands."""
    for _, start, end, reverse in rows.tolist():
        text = sequence[start:end]
        yield reverse_complement(text) if reverse else text


def inside_regions(rows: Rows, regions: Sequence[Interval]) -> NDArray[np.bool_]:
    """Tell which sentences lie wholly inside one region of their contig."""
    if not regions:
        return np.zeros(len(rows), dtype=bool)
    ordered = sorted(regions)
    starts = np.array([region.start for region in ordered])
    # Of the regions that start at or before a sentence, the one that reaches farthest decides.
    reach = np.maximum.accumulate([0, *(region.end for region in ordered)])
    inside = reach[np.searchsorted(starts, rows["start"], side="right")] >= rows["end"]
    return np.asarray(inside, dtype=bool)


def too_much_n(
    rows: Rows, runs: Sequence[tuple[int, int]], max_n_fraction: float
) -> NDArray[np.bool_]:
    """Tell which sentences of a contig hold a larger share of N than allowed.

    `runs` are all runs of N in the contig, sorted.
    """
    # Number of N before a base, piecewise linear between the ends of runs.
    edges = np.array([-1, *(edge for run in runs for edge in run)], dtype=np.float64)
    before = np.cumsum([0, *(part for start, end in runs for part in (0, end - start))])
    n = np.interp(rows["end"], edges, before) - np.interp(rows["start"], edges, before)
    return np.asarray(n > max_n_fraction * span_bp(rows), dtype=bool)


def span_bp(rows: Rows) -> NDArray[np.int64]:
    """Lengths of sentences in bp."""
    return np.asarray(rows["end"].astype(np.int64) - rows["start"], dtype=np.int64)


class FastaRecord(Strict):
    """A FASTA file that a corpus was drawn from."""

    path: str
    sha256: str
    contigs: dict[str, int]


class Counts(Strict):
    """What is in a corpus, and how many sentences were left out."""

    sentences: int
    documents: int
    bp: int
    dropped_n: int
    dropped_region: int


class Group(Strict):
    """The kept sentences of one contig in one pass: one row group."""

    contig: str
    pass_index: int
    sentences: int


class CorpusIndex(Strict):
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
        reason = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            reason = explain(error, CorpusIndex)
        raise InputError(f"the corpus {path} is damaged ({reason}); build it again") from error
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


def build(
    fastas: Sequence[Path | str],
    output: Path | str,
    settings: CorpusSettings | None = None,
    regions: Sequence[Interval] | None = None,
    force: bool = False,
) -> Corpus:
    """Draw a corpus from FASTA files, contig by contig, and write it as a directory.

    Args:
        fastas: FASTA files; contig names have to be unique over all of them.
        output: Directory to make; it appears only when it is complete.
        settings: The law; the paper's by default.
        regions: Keep only sentences that lie wholly inside one of these (the split); all if None.
        force: Replace a corpus that is already there.

    Raises:
        UsageError: The output exists and `force` is not given, or it is no corpus; or no FASTA is
            given.
        InputError: Two contigs have one name, or no sentence is left.
        ContigError: A region names a contig of none of the files.
        OutOfBoundsError: A region ends after its contig.
        OutputError: The directory cannot be written.
    """
    settings, output = settings or CorpusSettings(), Path(output)
    if not fastas:
        raise UsageError("no FASTA file is given; give one or more")
    refuse_existing(output, force, KIND)
    genomes = [Genome(path) for path in fastas]
    by_contig = None if regions is None else _by_contig(genomes, regions)
    with Draft(output, KIND) as part:
        part.mkdir()
        _Writer(settings, by_contig).write(part, genomes)
    return read(output)


class _Writer:
    """Keeps what the index will say while contigs go by."""

    def __init__(self, settings: CorpusSettings, regions: dict[str, list[Interval]] | None) -> None:
        self.settings = settings
        self.regions = regions
        self.lengths: list[dict[str, int]] = []
        self.groups: list[Group] = []
        self.totals = dict.fromkeys(Counts.model_fields, 0)

    def write(self, folder: Path, genomes: Sequence[Genome]) -> None:
        with pq.ParquetWriter(folder / SENTENCES, _SCHEMA, compression="zstd") as parquet:
            for genome in genomes:
                self.lengths.append({})
                for contig, sequence in genome.stream():
                    self._name(contig, len(sequence), genome)
                    runs = n_runs(sequence)
                    for pass_index in range(self.settings.passes):
                        self._write_pass(parquet, contig, pass_index, len(sequence), runs)
                    logger.info("%s drawn: %d bp kept so far", contig, self.totals["bp"])
        if not self.groups:
            raise InputError(
                f"no sentence is left ({self.totals['dropped_region']:,} lie outside the regions, "
                f"{self.totals['dropped_n']:,} hold too much N); widen the regions or "
                "max_n_fraction, or give longer contigs"
            )
        index = self._index(genomes, file_sha256(folder / SENTENCES))
        (folder / INDEX).write_text(index.model_dump_json(indent=1) + "\n")

    def _name(self, contig: str, length: int, genome: Genome) -> None:
        if any(contig in known for known in self.lengths):
            raise InputError(
                f"contig {contig} of {genome.path} is in another FASTA file too; "
                "rename it or leave one file out"
            )
        self.lengths[-1][contig] = length

    def _write_pass(
        self,
        parquet: Any,
        contig: str,
        pass_index: int,
        length: int,
        runs: Sequence[tuple[int, int]],
    ) -> None:
        rows = draw(length, self.settings, contig, pass_index)
        if self.regions is not None:
            inside = inside_regions(rows, self.regions.get(contig, []))
            self.totals["dropped_region"] += int((~inside).sum())
            rows = rows[inside]
        dropped = too_much_n(rows, runs, self.settings.max_n_fraction)
        self.totals["dropped_n"] += int(dropped.sum())
        rows = rows[~dropped]
        if not len(rows):
            return
        self.totals["sentences"] += len(rows)
        self.totals["documents"] += len(np.unique(rows["document"]))
        self.totals["bp"] += int(span_bp(rows).sum())
        self.groups.append(Group(contig=contig, pass_index=pass_index, sentences=len(rows)))
        parquet.write_table(_table(rows, contig, pass_index), row_group_size=len(rows))

    def _index(self, genomes: Sequence[Genome], sentences_sha256: str) -> CorpusIndex:
        fastas = tuple(
            FastaRecord(path=str(genome.path.resolve()), sha256=genome.sha256(), contigs=contigs)
            for genome, contigs in zip(genomes, self.lengths, strict=True)
        )
        regions = None
        if self.regions is not None:
            groups = self.regions.items()
            regions = tuple((name, r.start, r.end) for name, group in groups for r in group)
        return CorpusIndex(
            version=genobird.__version__,
            settings=self.settings,
            regions=regions,
            genome_sha256=joint_sha256(*(record.sha256 for record in fastas)),
            fastas=fastas,
            counts=Counts(**self.totals),
            sentences_sha256=sentences_sha256,
            groups=tuple(self.groups),
        )


def _table(rows: Rows, contig: str, pass_index: int) -> Any:
    strands = pa.DictionaryArray.from_arrays(pa.array(rows["reverse"].astype(np.int8)), ["+", "-"])
    zeros = pa.array(np.zeros(len(rows), dtype=np.int32))
    columns = [
        pa.array(np.full(len(rows), pass_index, dtype=np.uint16)),
        pa.array(rows["document"].copy()),
        pa.DictionaryArray.from_arrays(zeros, [contig]),
        pa.array(rows["start"].copy()),
        pa.array(rows["end"].copy()),
        strands,
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _by_contig(genomes: Sequence[Genome], regions: Sequence[Interval]) -> dict[str, list[Interval]]:
    """Group regions by the contig's name in the FASTA."""
    homes: dict[str, Genome] = {}
    for name in {region.contig for region in regions}:
        *others, last = genomes
        for genome in others:
            with contextlib.suppress(ContigError):
                genome.resolve(name)
                homes.setdefault(name, genome)
        homes.setdefault(name, last)
    for genome in genomes:
        require_on_genome([one for one in regions if homes[one.contig] is genome], genome)
    grouped: dict[str, list[Interval]] = {}
    for region in regions:
        contig = homes[region.contig].resolve(region.contig)
        grouped.setdefault(contig, []).append(region)
    return grouped
