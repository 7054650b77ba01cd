"""Journal: the tables that a run has scored so far, in its ledger, and what they depend on.

An entry of the ledger (`genobird.runs`) is the number of a chunk, the hash of its items and its
table. A resumed run reads its input once more and takes each table from there as long as the chunks
are the same ones; only chunks that cost the model work are kept. In an entry the columns of floats,
of which there are hundreds, are one matrix; Arrow keeps the others.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from genobird import __version__
from genobird.errors import counted
from genobird.files import file_sha256
from genobird.genome.fasta import Genome
from genobird.genome.streams import require_file
from genobird.runs import Identity, Ledger, Start, begun

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

_CHUNK: Final = struct.Struct("<Q32s")  # number and sha256 of a chunk's items, before its table
_SAMPLES, _SAMPLE = 256, 1 << 16


class Journal:
    """Tables of chunks, that an earlier run scored or that are made now, and kept in a ledger."""

    def __init__(self, ledger: Ledger | None = None, processes: int = 1) -> None:
        self._ledger = ledger
        self.processes: Final = processes
        self._earlier = 0

    def begin(
        self, number: int, content: Iterable[str], begin: Callable[[], Callable[[], pd.DataFrame]]
    ) -> Callable[[], pd.DataFrame]:
        """Begin the table of a chunk; what is returned gives the table, and keeps it.

        Tables are taken in the order in which they were begun; some may be begun ahead.

        Args:
            number: of the chunk; larger than any before.
            content: the items of the chunk as text, to see that the input is the same.
            begin: begins to score the chunk, as `Workers.begin`. A table in which nothing was
                scored is not kept.

        Raises:
            UsageError: an earlier run scored other items; also when the table is taken.
            OutputError: when it is taken: it cannot be kept.
        """
        if self._ledger is None:
            return begin()
        text = "\n".join(content).encode("utf-8", "surrogateescape")
        key = _CHUNK.pack(number, hashlib.sha256(text).digest())
        if self._is_due(number):
            frame = self._kept(self._ledger, key)
            return lambda: frame
        is_new = self._ledger.peek() is None
        return partial(self._made, self._ledger, key, begin(), is_new)

    def skip(self, number: int) -> None:
        """Go past chunks in which nothing is to be scored, up to this one.

        Raises:
            UsageError: an earlier run scored one of them.
        """
        if self._ledger is not None and self._is_due(number):
            raise self._ledger.other_input()

    def seal(self) -> None:
        """Note that all outputs are complete, and about to get their names; see `Ledger.seal`."""
        if self._ledger is not None:
            self._ledger.seal()

    def _is_due(self, number: int) -> bool:
        """Tell whether the next table of an earlier run is of this chunk, or of one before."""
        entry = self._ledger.peek() if self._ledger else None
        return entry is not None and _CHUNK.unpack_from(entry)[0] <= number

    @staticmethod
    def _made(
        ledger: Ledger, key: bytes, made: Callable[[], pd.DataFrame], is_new: bool
    ) -> pd.DataFrame:
        frame = made()
        if is_scored(frame):
            if not is_new:  # the earlier run has later chunks, but not this one
                raise ledger.other_input()
            ledger.append(key + pack_frame(frame))
        return frame

    def _kept(self, ledger: Ledger, key: bytes) -> pd.DataFrame:
        entry = ledger.peek()
        if entry is None or not entry.startswith(key):
            raise ledger.other_input()
        frame = unpack_frame(entry[_CHUNK.size :])
        self._earlier += len(frame)
        ledger.advance()
        if ledger.peek() is None:
            logger.info("%s: %s scored before", ledger.path, counted(self._earlier, "row"))
        return frame


NO_JOURNAL: Final[Journal] = Journal()


@contextmanager
def kept(outputs: Sequence[Path | str], identity: Identity, start: Start) -> Iterator[Journal]:
    """Open the journal of a run, and lock its outputs; see `runs.begun`.

    Standard output, and a model that was never saved, have none.
    """
    named = identity if identity["model"] else None
    with begun(outputs, named, start) as ledger:
        yield Journal(ledger, start.processes)


def identity_of(scorer: Scorer, features: Sequence[str] | None, **others: Any) -> Identity:
    """Return what decides the scores of a run; `model` is empty for one that was never saved.

    The number of threads and the batch size are left out: they change the last digits only. The
    kind of device, and the chunk that goes with it, count. What an option sets is named by it.
    """
    return {
        "version": __version__,
        "model": scorer.model_hash,
        "--features": "all" if features is None else ",".join(features),
        "--device": scorer.device.type,
        "--precision": scorer.precision,
        "chunk": scorer.chunk,
        **others,
    }


def hash_of_file(path: Path | str) -> str:
    """Return 16 letters of the sha256 of a file; UsageError where it is missing."""
    return file_sha256(require_file(path))[:16]


def hash_of_genome(genome: Genome) -> str:
    """Return 16 letters for a genome: contigs, size of the file and 16 MiB spread over it.

    Every run over a large VCF needs it, and all bytes of a mammalian genome take seconds. Another
    assembly, another patch or another person's genome never passes for the same; one base that was
    edited in place in an uncompressed file may.
    """
    digest = hashlib.sha256(json.dumps(genome.contigs).encode())
    size = genome.path.stat().st_size
    digest.update(str(size).encode())
    with genome.path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE:
            digest.update(file.read())
        else:
            for number in range(_SAMPLES):
                file.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def pack_frame(frame: pd.DataFrame) -> bytes:
    """Return a frame as bytes; its index is dropped."""
    floats, others = _places(frame)
    names = {"columns": list(map(str, frame.columns)), "floats": floats, "others": others}
    rest = io.BytesIO()
    table = pa.Table.from_pandas(frame.iloc[:, others], preserve_index=False)
    with pa.ipc.new_stream(rest, table.schema) as stream:
        stream.write_table(table)
    arrays: dict[str, Any] = {
        "names": _bytes(zlib.compress(json.dumps(names).encode())),
        "rest": _bytes(rest.getvalue()),
        **{kind: frame.iloc[:, places].to_numpy() for kind, places in floats.items()},
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack_frame(data: bytes) -> pd.DataFrame:
    """Return the frame of `pack_frame`."""
    arrays = np.load(io.BytesIO(data), allow_pickle=False)
    names = json.loads(zlib.decompress(arrays["names"].tobytes()))
    rest: pd.DataFrame = pa.ipc.open_stream(arrays["rest"].tobytes()).read_all().to_pandas()
    parts = [rest.set_axis(names["others"], axis=1)] if names["others"] else []
    for kind, places in names["floats"].items():
        parts.append(pd.DataFrame(arrays[kind], columns=places))
    return pd.concat(parts, axis=1).sort_index(axis=1).set_axis(names["columns"], axis=1)


def is_scored(frame: pd.DataFrame) -> bool:
    """Tell whether a column of floats has a value."""
    floats, _ = _places(frame)
    return any(np.isfinite(frame.iloc[:, places]).any(axis=None) for places in floats.values())


def _places(frame: pd.DataFrame) -> tuple[dict[str, list[int]], list[int]]:
    """Return the places of the columns of each type of float, and of all other columns."""
    floats: dict[str, list[int]] = {}
    others: list[int] = []
    for place, kind in enumerate(frame.dtypes):
        is_float = isinstance(kind, np.dtype) and kind.kind == "f"
        (floats.setdefault(kind.str, []) if is_float else others).append(place)
    return floats, others


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
