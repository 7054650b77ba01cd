"""Parts of a VCF: a run dealt out chunk by chunk, the note that each part leaves, and their merge.

Records are scored in chunks cut at fixed record numbers. Part i of n takes every n-th chunk,
beginning with the i-th, so its scores are those of a run over all, and no record has to be counted
before. The note stands in the header of the VCF and in the metadata of the table, as JSON. (On the
command line, and in these notes, a part is called a shard.)

Merged, VCF comes out byte for byte as the run over all records writes it, apart from the line
`##genobirdCommand`; a table too, apart from the command in the metadata of Parquet. Memory is that
of a chunk of each part.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from genobird.errors import ShardError, UsageError, quoted, some
from genobird.files import PACKED_VCFS, TABLES, VCFS, check_output
from genobird.genome.streams import STDIN, require_file, whole
from genobird.genome.vcf import Record, VcfReader
from genobird.genome.vcf_writer import VcfWriter
from genobird.runs import Identity, Progress, differences, ignore
from genobird.scoring.table import TableWriter, in_chunks

HEADER_KEY: Final = "genobirdShard"
TABLE_ENDING: Final = ".parquet"


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` (from 1) of `count`; UsageError where there is no such part."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"shard {self} found; give i/n with i from 1 to n, as 1/4, 2/4, 3/4 and 4/4"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `i/n`; UsageError for something else."""
        index, _, count = map(whole, text.partition("/"))
        if index is None or count is None:
            raise UsageError(f"shard {quoted(text)} found; give i/n, as 1/4, 2/4, 3/4 and 4/4")
        return cls(index, count)

    def takes(self, chunk: int) -> bool:
        """Tell whether a chunk, counted from 0, belongs to this part."""
        return chunk % self.count == self.index - 1


@dataclass(frozen=True, slots=True)
class PartNote:
    """What a part says of itself."""

    part: Part
    chunk: int
    """Records per chunk."""
    run: Identity
    """Input, model, genome and settings; the same in all parts of a run."""

    def text(self) -> str:
        """Write the note on one line."""
        return json.dumps({"shard": asdict(self.part), "chunk": self.chunk, "run": self.run})

    @classmethod
    def read(cls, text: str, where: Path) -> PartNote:
        """Read a note; ShardError where it is damaged."""
        try:
            facts = json.loads(text)
            return cls(Part(**facts["shard"]), int(facts["chunk"]), dict(facts["run"]))
        except (ValueError, TypeError, KeyError, RecursionError, UsageError) as error:
            raise ShardError(
                f"{where}: the note on its shard is damaged ({text}); make the shard again"
            ) from error


def require_part_outputs(
    model: str | None, source: Path | str, output: Path | str, table: Path | str | None
) -> None:
    """Refuse a model, an input or outputs that a part cannot have.

    A part is written in formats that hold its note, and in which a missing end is noticed. Of a
    model that is not loaded yet, the hash is None.

    Raises:
        UsageError: they are others.
    """
    if model == "":
        raise UsageError("a model that was never saved has no shards; save it first")
    if str(source) == STDIN:
        raise UsageError(
            "a shard cannot read standard input, because all shards need the same file; name it"
        )
    if not str(output).endswith(PACKED_VCFS):
        raise UsageError(
            f"output {output} cannot be a shard; write .vcf.gz, and merge makes .vcf or .bcf of it"
        )
    if table is not None and not str(table).endswith(TABLE_ENDING):
        raise UsageError(
            f"table {table} cannot be a shard; write .parquet, and merge makes .tsv of it"
        )


_NOTE: Final = f"##{HEADER_KEY}="
_TABLE_KEY: Final = b"genobird.shard"
# Rows of a part that are held at a time, when there are few parts.
_ROWS: Final = 4_096


@dataclass(frozen=True, slots=True)
class _Made:
    path: Path
    note: PartNote
    facts: tuple[str, ...]
    """Header lines of a VCF or names of the columns of a table: the same in all parts."""


def merge(
    parts: Sequence[Path | str],
    output: Path | str,
    *,
    force: bool = False,
    command: str = "",
    progress: Progress = ignore,
) -> Counter[str]:
    """Merge the parts of a run: all of them, in any order, all `.vcf.gz` or all `.parquet`.

    The output is `.vcf`, `.vcf.gz` (with an index) or `.bcf` for VCF, `.parquet`, `.tsv` or
    `.tsv.gz` for tables, or `-`. The command goes into its header, beside those of the parts.

    Returns:
        How many ALTs have each status; records that were skipped are not counted.

    Raises:
        UsageError: a file is missing or of another kind, or the output exists.
        ShardError: a part is missing, there twice, of another run or incomplete.
        VcfError, OutputError: a part is damaged, or the output cannot be written.
    """
    for kind, endings, join in (
        (PACKED_VCFS, VCFS, _merge_vcfs),
        (TABLE_ENDING, TABLES, _merge_tables),
    ):
        if parts and all(str(path).endswith(kind) for path in parts):
            check_output(output, endings, force, stdout=True)
            return join([require_file(path) for path in parts], output, force, command, progress)
    others = [path for path in parts if not str(path).endswith((*PACKED_VCFS, TABLE_ENDING))]
    found = f"{others[0]} is no shard" if others else "VCFs and tables are given together"
    if not parts:
        found = "no shard is given"
    raise UsageError(
        f"{found}; give all .vcf.gz or all .parquet of a run, and merge these one after the other"
    )


def _merge_vcfs(
    paths: Sequence[Path], output: Path | str, force: bool, command: str, progress: Progress
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        readers = {path: stack.enter_context(VcfReader(path)) for path in paths}
        parts = _in_order([_vcf_part(path, readers[path].header) for path in paths])
        header = [line for line in readers[parts[0].path].header if not line.startswith(_NOTE)]
        if command:
            header.insert(-1, f"##genobirdMergeCommand={command}")
        size = parts[0].note.chunk
        chunks = [in_chunks(readers[part.path], size) for part in parts]
        writer = stack.enter_context(VcfWriter(output, header, [], force=force))
        for number in count():
            records = next(chunks[number % len(chunks)], [])
            for record in records:
                writer.write(record, {})
                counts.update(_statuses(record))
            progress(len(records))
            if len(records) < size:
                break
        for part, rest in zip(parts, chunks, strict=True):
            if next(rest, None) is not None:
                raise ShardError(
                    f"{part.path} has more records than the other shards leave room for; one of "
                    "them is incomplete: make the shards again"
                )
    return counts


def _merge_tables(
    paths: Sequence[Path], output: Path | str, force: bool, command: str, progress: Progress
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {path: stack.enter_context(_parquet(path)) for path in paths}
        parts = _in_order([_table_part(path, files[path].schema_arrow) for path in paths])
        schema = files[parts[0].path].schema_arrow
        meta = {
            key.decode().removeprefix("genobird."): value.decode()
            for key, value in schema.metadata.items()
            if key.startswith(b"genobird.") and key != _TABLE_KEY
        }
        if command:
            meta["mergecommand"] = command
        writer = stack.enter_context(TableWriter(output, force=force, meta=meta))
        rows = max(1, _ROWS // len(parts))
        for frame in _rows_in_order([_rows(files[part.path], part, rows) for part in parts]):
            writer.write(frame)
            counts.update(frame["status"])
            progress(len(frame))
        if not writer.rows:
            writer.write(schema.empty_table().to_pandas())
    return counts


def _in_order(parts: Sequence[_Made]) -> list[_Made]:
    """Return the parts by number; each of one run has to be there, once."""
    first = parts[0]
    total = first.note.part.count
    found: dict[int, _Made] = {}
    for part in parts:
        number = part.note.part.index
        if other := _difference(first, part):
            raise ShardError(
                f"{part.path} is of another run than {first.path} ({other}); give the shards of "
                "one run"
            )
        if number in found:
            raise ShardError(
                f"{found[number].path} and {part.path} are both shard {part.note.part}; give "
                "each once"
            )
        found[number] = part
    missing = [str(number) for number in range(1, total + 1) if number not in found]
    if missing:
        raise ShardError(
            f"{len(found)} of {total} shards found; missing: {some(missing, 10)}; make them, and "
            "give all"
        )
    return [found[number] for number in sorted(found)]


def _difference(one: _Made, other: _Made) -> str:
    """Say in what two parts differ; empty where they are of one run."""
    here, there = (
        {"shards": part.note.part.count, **part.note.run, "chunk": part.note.chunk}
        for part in (one, other)
    )
    if one.facts != other.facts and here == there:
        return "their headers have other lines or columns"
    return "; ".join(differences(here, there, "there"))


def _vcf_part(path: Path, header: Sequence[str]) -> _Made:
    notes = [line.removeprefix(_NOTE) for line in header if line.startswith(_NOTE)]
    if len(notes) != 1:
        raise _no_part(path)
    own = (_NOTE, "##genobirdCommand=")
    kept = tuple(line for line in header if not line.startswith(own))
    return _Made(path, PartNote.read(notes[0].rstrip("\r"), path), kept)


def _table_part(path: Path, schema: Any) -> _Made:
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    if _TABLE_KEY not in metadata:
        raise _no_part(path)
    return _Made(path, PartNote.read(metadata[_TABLE_KEY].decode(), path), tuple(schema.names))


def _parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ShardError(f"{path} is damaged: {error}; make the shard again") from error


def _no_part(path: Path) -> ShardError:
    return ShardError(f"{path} is no shard; make shards with genobird variants --shard i/n")


def _rows(file: Any, part: _Made, size: int) -> Iterator[pd.DataFrame]:
    for batch in file.iter_batches(batch_size=size):
        frame = batch.to_pandas()
        places = frame["record"] // part.note.chunk % part.note.part.count
        if (places != part.note.part.index - 1).any():
            raise ShardError(f"{part.path} has rows of other shards; make it again")
        yield frame


def _rows_in_order(parts: Sequence[Iterator[pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    """Merge frames by their column `record`, in which each part ascends."""
    held = {number: pd.DataFrame() for number in range(len(parts))}
    while held:
        for number in list(held):
            while number in held and held[number].empty:
                frame = next(parts[number], None)
                if frame is None:
                    del held[number]
                else:
                    held[number] = frame
        if not held:
            return
        # Beyond it, a part whose rows end there may still have some.
        last = min(frame["record"].to_numpy()[-1] for frame in held.values())
        ready = []
        for number, frame in held.items():
            stop = int(frame["record"].to_numpy().searchsorted(last, side="right"))
            ready.append(frame[:stop])
            held[number] = frame[stop:]
        yield pd.concat(ready).sort_values("record", kind="stable", ignore_index=True)


def _statuses(record: Record) -> list[str]:
    for item in record.info.split(";"):
        key, _, value = item.partition("=")
        if key == "GB_STATUS":
            return value.split(",")
    return []
