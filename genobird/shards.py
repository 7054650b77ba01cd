"""Token shards: a corpus and a tokenizer enter, a directory of memory-mapped ids leaves.

For each contig and pass there is a pair of files:

- `chr20.pass0.tokens.npy`: uint16 [T], the kept sentences end to end, without special tokens;
- `chr20.pass0.sentences.npy`: structured [S]: `document`, `start` (bp, 0-based, on the contig),
  `token` (offset of the sentence's first token in the file), `strand` (`+` or `-`);

and `index.json` with hashes of genome, corpus, tokenizer and files. Writing again after an
interruption keeps finished pairs and yields the same bytes as writing at once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from genobird import __version__
from genobird.config import Strict, explain
from genobird.corpus import Corpus, CorpusSettings, Rows, read, span_bp, texts
from genobird.errors import GenobirdError, OutputError, ShardError, UsageError
from genobird.files import (
    Draft,
    Kind,
    file_sha256,
    locked,
    refuse_existing,
    require_place,
    write_text,
)
from genobird.runs import refuse_other
from genobird.tokenizer import N_SPECIAL, Tokenizer

logger = logging.getLogger(__name__)

INDEX = "index.json"
# Shards are replaced one by one: other files stay.
KIND = Kind("folder of token shards", INDEX, ("*",), '"genobird-shards-1"')
SENTENCE = np.dtype([("document", "<u4"), ("start", "<u4"), ("token", "<u8"), ("strand", "S1")])

_BATCH = 2_000
_REMEDY = "delete it and run `genobird shards` with the same arguments to make it anew"


class FileRecord(Strict):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


class ShardFile(Strict):
    """A pair of files: one contig in one pass."""

    name: str
    contig: str
    pass_index: int
    tokens: int
    sentences: int
    bp: int
    tokens_file: FileRecord
    sentences_file: FileRecord


class ShardIndex(Strict):
    """The content of `index.json`."""

    format: Literal["genobird-shards-1"] = "genobird-shards-1"
    version: str
    settings: CorpusSettings
    genome_sha256: str
    corpus_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    complete: bool = False
    tokens: int = 0
    sentences: int = 0
    bp: int = 0
    files: tuple[ShardFile, ...] = ()


class Document(NamedTuple):
    """Tokens `first` to `last` (half-open) of file number `file`, and its sentences likewise."""

    file: int
    first: int
    last: int
    first_sentence: int
    last_sentence: int


def write(
    corpus: Path | str,
    tokenizer: Tokenizer,
    output: Path | str,
    threads: int = 1,
    fastas: Sequence[Path] | None = None,
    force: bool = False,
) -> Shards:
    """Segment every document of a corpus; go on where an earlier call was interrupted.

    Args:
        corpus: A corpus directory.
        tokenizer: What to segment with.
        output: Directory of the shards; finished pairs of the same corpus and tokenizer are kept.
        threads: Number of processes, each with one contig in memory; 1 works in this one.
        fastas: The FASTA files of the corpus, where they have moved.
        force: Delete the shards that are in the way, whatever they belong to.

    Raises:
        UsageError: `output` is of something else, or of another corpus or tokenizer.
        AssemblyError: The FASTA files have changed since the corpus was built.
        OutputError: The shards cannot be written.
    """
    output = Path(output)
    require_place(output, inside=True)
    source = read(corpus, fastas)
    plan = ShardIndex(
        version=__version__,
        settings=source.index.settings,
        genome_sha256=source.index.genome_sha256,
        corpus_sha256=source.sha256,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
    )
    if _is_complete(output, plan, force):
        logger.info("%s is complete already", output)
        return Shards.open(output)
    if fastas is None:
        source.verify()
    with locked(output):
        try:
            output.mkdir(exist_ok=True)
            if force:
                for kind in ("tokens", "sentences"):
                    for old in output.glob(f"*.{kind}.npy"):
                        old.unlink()
            _write_index(output, plan)
            files: list[ShardFile] = []
            for file in _encode_all(_Encoder(source, tokenizer, output), threads):
                logger.info("%s: %d tokens of %d bp", file.name, file.tokens, file.bp)
                files.append(file)
            totals = ("tokens", "sentences", "bp")
            done = {key: sum(getattr(file, key) for file in files) for key in totals}
            done |= {"complete": True, "files": tuple(files)}
            _write_index(output, plan.model_copy(update=done))
        except (OSError, OutputError) as error:
            raise OutputError(
                f"shards cannot be written to {output} ({getattr(error, 'strerror', error)}); make "
                "room and run the same command again: finished files are kept"
            ) from error
    return Shards.open(output)


class Shards:
    """A finished directory of shards, read through memory maps.

    Attributes:
        path: The directory.
        index: The content of `index.json`.
        documents: Where each document is.
    """

    def __init__(self, path: Path, index: ShardIndex) -> None:
        self.path, self.index = path, index
        self.documents: list[Document] = []
        for number, file in enumerate(index.files):
            self.documents += _documents(number, file, self._sentences(number))

    @classmethod
    def open(cls, path: Path | str, check_hashes: bool = False) -> Shards:
        """Open a directory and check that its files are whole.

        Args:
            path: The directory.
            check_hashes: Read all of the files to find altered ones, not only truncated ones.

        Raises:
            UsageError: There are no shards.
            ShardError: A file is missing, truncated or damaged, or the shards are incomplete.
        """
        path = Path(path)
        index = _read_index(path)
        if not index.complete:
            raise ShardError(f"{path} is not complete; run `genobird shards` again to finish it")
        for file in index.files:
            _check_file(path / f"{file.name}.tokens.npy", file.tokens_file, check_hashes)
            _check_file(path / f"{file.name}.sentences.npy", file.sentences_file, check_hashes)
            _check_ids(path / f"{file.name}.tokens.npy", index.vocab_size)
        return cls(path, index)

    def __len__(self) -> int:
        return len(self.documents)

    def require(self, tokenizer: Tokenizer, source: Path | str = "the model's") -> None:
        """Refuse shards that a tokenizer did not make.

        Args:
            tokenizer: The tokenizer.
            source: Where it comes from, for the message.

        Raises:
            ShardError: They were made with another one.
        """
        if self.index.tokenizer_sha256 != tokenizer.sha256:
            raise ShardError(
                f"{self.path} was made with another tokenizer than {source}; make it again with "
                "`genobird shards`"
            )

    @property
    def tokens(self) -> int:
        """Number of tokens in all documents."""
        return self.index.tokens

    def document(self, i: int) -> NDArray[np.uint16]:
        """Tokens of a document, uint16 [T], read-only and without special tokens."""
        document = self.documents[i]
        file = self.index.files[document.file]
        tokens = _mapped(self.path / f"{file.name}.tokens.npy", file.tokens_file.sha256)
        return np.asarray(tokens)[document.first : document.last]

    def sentences(self, i: int) -> NDArray[np.int64]:
        """Offsets of the first tokens of a document's sentences, within the document, int64 [S]."""
        return self.rows(i)["token"].astype(np.int64) - self.documents[i].first

    def positions(self, i: int) -> tuple[str, int]:
        """Contig of a document and start of its first sentence, 0-based, in bp."""
        return self.index.files[self.documents[i].file].contig, int(self.rows(i)["start"][0])

    def rows(self, i: int) -> NDArray[np.void]:
        """Sentences of a document as they are on disk, `SENTENCE` [S]; tokens count in the file."""
        document = self.documents[i]
        return self._sentences(document.file)[document.first_sentence : document.last_sentence]

    def _sentences(self, number: int) -> NDArray[np.void]:
        file = self.index.files[number]
        path = self.path / f"{file.name}.sentences.npy"
        return np.asarray(_mapped(path, file.sentences_file.sha256))


def _documents(number: int, file: ShardFile, rows: NDArray[np.void]) -> Iterator[Document]:
    firsts = [0, *(np.flatnonzero(np.diff(rows["document"])) + 1).tolist()]
    tokens = [*rows["token"][firsts].tolist(), file.tokens]
    for k, (first, last) in enumerate(zip(firsts, [*firsts[1:], len(rows)], strict=True)):
        yield Document(number, tokens[k], tokens[k + 1], first, last)


# A map holds a file descriptor, so only some of a genome's files are mapped at a time.
@lru_cache(maxsize=256)
def _mapped(path: Path, _sha256: str) -> Any:
    return np.load(path, mmap_mode="r")


class _Encoder:
    """Makes the pair of one contig and pass; keeps the contig it read last."""

    def __init__(self, source: Corpus, tokenizer: Tokenizer, output: Path) -> None:
        self.source, self.tokenizer, self.output = source, tokenizer, output
        self.contig = self.sequence = ""

    def __call__(self, number: int) -> ShardFile:
        group = self.source.index.groups[number]
        name = f"{quote(group.contig, safe='')}.pass{group.pass_index}"
        rows = self.source.rows(number)
        tokens_path = self.output / f"{name}.tokens.npy"
        sentences_path = self.output / f"{name}.sentences.npy"
        if not self._is_finished(tokens_path, sentences_path, rows):
            tokens, table = self._encode(group.contig, rows)
            _save(tokens_path, tokens)
            _save(sentences_path, table)
        return ShardFile(
            name=name,
            contig=group.contig,
            pass_index=group.pass_index,
            tokens=len(np.load(tokens_path, mmap_mode="r")),
            sentences=len(rows),
            bp=int(span_bp(rows).sum()),
            tokens_file=_record(tokens_path),
            sentences_file=_record(sentences_path),
        )

    def _encode(self, contig: str, rows: Rows) -> tuple[NDArray[np.uint16], NDArray[np.void]]:
        if contig != self.contig:
            self.contig = self.sequence = ""
            self.sequence, self.contig = self.source.sequence(contig), contig
        parts = [
            self.tokenizer.encode_flat(list(texts(self.sequence, rows[first : first + _BATCH])))
            for first in range(0, len(rows), _BATCH)
        ]
        counts = np.concatenate([count for _, count in parts])
        table = np.zeros(len(rows), dtype=SENTENCE)
        table["document"], table["start"] = rows["document"], rows["start"]
        table["token"] = np.cumsum(counts) - counts
        table["strand"] = np.where(rows["reverse"], b"-", b"+")
        return np.concatenate([ids for ids, _ in parts]), table

    def _is_finished(self, tokens_path: Path, sentences_path: Path, rows: Rows) -> bool:
        try:
            tokens = np.load(tokens_path, mmap_mode="r")
            table = np.load(sentences_path)
            bp = int(self.tokenizer.lengths[tokens].sum(dtype=np.int64))
        except (OSError, ValueError, EOFError, IndexError):
            return False
        same = table.dtype == SENTENCE and bp == span_bp(rows).sum()
        return same and all(np.array_equal(table[k], rows[k]) for k in ("document", "start"))


def _encode_all(encoder: _Encoder, threads: int) -> Iterator[ShardFile]:
    numbers = range(len(encoder.source.index.groups))
    if threads <= 1:
        yield from map(encoder, numbers)
        return
    try:
        with ProcessPoolExecutor(threads, get_context("spawn"), _start_worker, (encoder,)) as pool:
            yield from pool.map(_work, numbers)
    except BrokenProcessPool as error:
        raise GenobirdError(
            f"one of {threads} processes that make shards was killed, perhaps for memory; "
            "run the same command with fewer threads: finished files are kept"
        ) from error


# The encoder of a worker process; set once when the process starts.
_encoder: _Encoder


def _start_worker(encoder: _Encoder) -> None:
    global _encoder
    _encoder = encoder
    # A killed parent cannot stop its workers: each watches for its end.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _work(number: int) -> ShardFile:
    return _encoder(number)


def _is_complete(output: Path, plan: ShardIndex, force: bool) -> bool:
    """Tell whether nothing is left to do; refuse a folder of something else."""
    hidden = output.is_dir() and all(entry.name.startswith(".") for entry in output.iterdir())
    if hidden or not output.exists():
        return False
    refuse_existing(output, True, KIND)
    if force:
        return False
    found = _read_index(output)
    known, asked = (
        {"corpus": index.corpus_sha256[:12], "tokenizer": index.tokenizer_sha256[:12]}
        for index in (found, plan)
    )
    refuse_other(output, known, asked)
    try:
        Shards.open(output)
    except ShardError as error:
        logger.warning("going on: %s", error)
        return False
    return True


def _read_index(path: Path) -> ShardIndex:
    try:
        return ShardIndex.model_validate_json((path / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} holds no {INDEX}; make shards with `genobird shards`") from None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            reason = explain(error, ShardIndex)
        raise ShardError(f"{path / INDEX} is damaged ({reason}); make all anew by force") from error


def _write_index(output: Path, index: ShardIndex) -> None:
    write_text(output / INDEX, index.model_dump_json(indent=1) + "\n")


def _save(path: Path, array: NDArray[Any]) -> None:
    with Draft(path) as part:
        np.save(part, array)


def _record(path: Path) -> FileRecord:
    return FileRecord(size=path.stat().st_size, sha256=file_sha256(path))


def _check_file(path: Path, record: FileRecord, check_hash: bool) -> None:
    if not path.is_file():
        raise ShardError(f"{path} is missing; run `genobird shards` again to make it anew")
    if (size := path.stat().st_size) != record.size:
        raise ShardError(f"{path} has {size:,} bytes, {record.size:,} expected; {_REMEDY}")
    if check_hash and file_sha256(path) != record.sha256:
        raise ShardError(f"{path} has been altered (its SHA-256 differs); {_REMEDY}")


def _check_ids(path: Path, vocab_size: int) -> None:
    """Tell other data by a file's ends and its middle: to read all of it would take minutes."""
    try:
        ids = np.load(path, mmap_mode="r")
        some = np.concatenate([ids[at:][:_BATCH] for at in (0, len(ids) // 2, -_BATCH)])
        fine = some.dtype == np.uint16 and some.min() >= N_SPECIAL and some.max() < vocab_size
    except (ValueError, TypeError):
        fine = False
    if not fine:
        raise ShardError(f"{path} holds other ids than {N_SPECIAL} to {vocab_size - 1}; {_REMEDY}")
