"""Tables on disk: frames in, one TSV or Parquet file out, complete under its name or not there."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, TypeVar, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import is_numeric_dtype

from genobird.errors import OutputError
from genobird.files import STDOUT, TABLES, Draft, check_output, writing

Item = TypeVar("Item")

FLOAT_FORMAT: Final = "%.6g"
# Cells in a row group of Parquet, so that its bytes do not depend on how the rows came.
_GROUP_CELLS: Final = 1 << 22


class TableWriter:
    """Write frames of the same columns one after the other.

    The file is a draft from the start and gets its name on closing; see `files.Draft`. An error
    inside the `with` block leaves nothing. TSV floats have 6 significant digits; a missing
    value is an empty cell. Nothing written means a file without a header: write an empty frame.
    The bytes depend on the rows alone, not on the frames that they came in.

    Args:
        path: a name ending in `.tsv`, `.tsv.gz` or `.parquet`, or `-` (TSV on standard output).
        force: replace an existing file.
        meta: facts for the metadata of Parquet; TSV has no place for them.

    Raises:
        UsageError: see `files.check_output`.
        OutputError: the file cannot be written.
    """

    def __init__(
        self, path: Path | str, *, force: bool = False, meta: Mapping[str, str] | None = None
    ) -> None:
        check_output(path, TABLES, force, stdout=True)
        self.path: Final = Path(path)
        self.rows = 0
        self._meta = dict(meta or {})
        self._fresh = True
        self._finished = False
        self._parquet: Any = None
        self._waiting: list[pd.DataFrame] = []
        self._draft = None if str(path) == STDOUT else Draft(self.path)
        self._opened = ExitStack()
        self._file = self._open()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, frame: pd.DataFrame) -> None:
        """Append the rows of a frame; OutputError where they cannot be written."""
        with writing(self.path):
            if self.path.suffix == ".parquet":
                self._write_parquet(frame)
            else:
                self._write_tsv(frame)
        self._fresh = False
        self.rows += len(frame)

    def finish(self) -> None:
        """Write what is left; only the name is missing then. Nothing may be written after it.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._finished:
            return
        try:
            with writing(self.path):
                if any(map(len, self._waiting)):
                    self._write_group(self._waiting)
                self._file.flush()
                self._opened.close()
        except OutputError:
            self.discard()
            raise
        self._finished = True

    def close(self) -> None:
        """Finish the file and give it its name; OutputError where it cannot be written."""
        self.finish()
        if self._draft is not None:
            self._draft.publish()

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError, ValueError):
            self._opened.close()
        if self._draft is not None:
            self._draft.discard()

    def _open(self) -> IO[bytes]:
        if self._draft is None:
            return sys.stdout.buffer
        try:
            with writing(self.path):
                file = self._opened.enter_context(self._draft.part.open("wb"))
        except OutputError:
            self._draft.discard()
            raise
        if self.path.suffix != ".gz":
            return file
        # Without name and time, so that the same table has the same bytes.
        packed = self._opened.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        return cast(IO[bytes], packed)

    def _write_tsv(self, frame: pd.DataFrame) -> None:
        text = frame.to_csv(
            sep="\t",
            index=False,
            header=self._fresh,
            float_format=FLOAT_FORMAT,
            lineterminator="\n",
        )
        self._file.write(text.encode())

    def _write_parquet(self, frame: pd.DataFrame) -> None:
        if self._parquet is None:
            facts = {f"genobird.{key}": value for key, value in self._meta.items()}
            schema = _schema(frame).with_metadata(facts)
            self._parquet = pq.ParquetWriter(self._file, schema, compression="zstd")
            self._opened.callback(self._parquet.close)
        self._waiting.append(frame)
        rows = max(1, _GROUP_CELLS // max(1, len(frame.columns)))
        while sum(map(len, self._waiting)) >= rows:
            *whole, last = self._waiting
            here = rows - sum(map(len, whole))
            self._waiting = [last[here:]]
            self._write_group([*whole, last[:here]])

    def _write_group(self, frames: list[pd.DataFrame]) -> None:
        frame = pd.concat(frames, ignore_index=True)
        table = pa.Table.from_pandas(frame, schema=self._parquet.schema, preserve_index=False)
        self._parquet.write_table(table.combine_chunks(), row_group_size=len(frame))


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` successive items, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def as_list(texts: str | Iterable[str]) -> list[str]:
    """Return texts as a list; one string is a list of one, not of its letters."""
    return [texts] if isinstance(texts, str) else list(texts)


def clean_text(text: str) -> str:
    """Replace bytes that are no UTF-8 and were carried through as surrogates, and line ends."""
    whole = (
        text
        if text.isascii()
        else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    )
    return whole.replace("\r", "\N{REPLACEMENT CHARACTER}")  # which a TSV leaves unquoted


def text_column(texts: Sequence[str | None]) -> pd.Series[Any]:
    """Return a column of texts; of an empty list pandas alone would make numbers."""
    return pd.Series(texts, dtype=None if texts else object)


def _schema(frame: pd.DataFrame) -> Any:
    """Return the Arrow schema; text is text even in a frame without rows."""
    return pa.schema(
        # a column of integers with gaps has a dtype of pandas around that of numpy
        (str(name), pa.from_numpy_dtype(getattr(kind, "numpy_dtype", kind)))
        if is_numeric_dtype(kind)
        else (str(name), pa.string())
        for name, kind in frame.dtypes.items()
    )
