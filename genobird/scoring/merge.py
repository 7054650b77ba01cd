"""Shards of a run to the one file that a run over all records writes.

VCF comes out byte for byte the same, apart from the line `##genobirdCommand`; a table too, apart
from the command in the metadata of Parquet. Memory is that of a chunk of each shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pandas as pd

from genobird.errors import ShardError, UsageError
from genobird.genome.streams import require_file
from genobird.genome.vcf import Record, VcfReader, VcfWriter
from genobird.scoring.shard import HEADER_KEY, TABLE_ENDING, VCF_ENDINGS, ShardNote
from genobird.scoring.table import TableWriter, check_output, in_chunks

OUTPUT_ENDINGS: Final = (".vcf", *VCF_ENDINGS, ".bcf")
_NOTE: Final = f"##{HEADER_KEY}="
_TABLE_KEY: Final = b"genobird.shard"
# Rows of a shard that are held at a time, when there are few shards.
_ROWS: Final = 4_096


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    note: ShardNote
    facts: tuple[str, ...]
    """Header lines of a VCF or names of the columns of a table: the same in all shards."""


def merge(
    shards: Sequence[Path | str],
    output: Path | str,
    *,
    force: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Merge the shards of a run.

    Args:
        shards: all of them, in any order; all `.vcf.gz`, or all `.parquet`.
        output: `.vcf`, `.vcf.gz` (with an index) or `.bcf` for VCF, `.parquet`, `.tsv` or
            `.tsv.gz` for tables, or `-`.
        force: replace an existing output.
        command: command line for the header; those of the shards stay beside it.
        progress: called with the number of new records or rows.

    Returns:
        How many ALTs have each status; records that were skipped are not counted.

    Raises:
        UsageError: a file is missing or of another kind, or the output exists.
        ShardError: a shard is missing, there twice, of another run or incomplete.
        VcfError, OutputError: a shard is damaged, or the output cannot be written.
    """
    paths = [require_file(path) for path in shards]
    if paths and all(path.name.endswith(VCF_ENDINGS) for path in paths):
        check_output(output, OUTPUT_ENDINGS, force)
        return _merge_vcfs(paths, output, force, command, progress)
    if paths and all(path.name.endswith(TABLE_ENDING) for path in paths):
        check_output(output, force=force)
        return _merge_tables(paths, output, force, command, progress)
    raise UsageError(
        f"{len(paths)} shards found that are not all .vcf.gz or all .parquet; merge the VCFs and "
        "the tables of a run one after the other"
    )


def _merge_vcfs(
    paths: Sequence[Path],
    output: Path | str,
    force: bool,
    command: str,
    progress: Callable[[int], None] | None,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        readers = {path: stack.enter_context(VcfReader(path)) for path in paths}
        shards = _in_order([_vcf_shard(path, readers[path].header) for path in paths])
        header = [line for line in readers[shards[0].path].header if not line.startswith(_NOTE)]
        if command:
            header.insert(-1, f"##genobirdMergeCommand={command}")
        size = shards[0].note.chunk
        chunks = [in_chunks(readers[shard.path], size) for shard in shards]
        writer = stack.enter_context(VcfWriter(output, header, [], force=force))
        for number in count():
            part = next(chunks[number % len(chunks)], [])
            for record in part:
                writer.write(record, {})
                counts.update(_statuses(record))
            if progress is not None:
                progress(len(part))
            if len(part) < size:
                break
        for shard, rest in zip(shards, chunks, strict=True):
            if next(rest, None) is not None:
                raise ShardError(
                    f"{shard.path} has more records than the other shards leave room for; one of "
                    "them is incomplete: make the shards again"
                )
    return counts


def _merge_tables(
    paths: Sequence[Path],
    output: Path | str,
    force: bool,
    command: str,
    progress: Callable[[int], None] | None,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {path: stack.enter_context(_parquet(path)) for path in paths}
        shards = _in_order([_table_shard(path, files[path].schema_arrow) for path in paths])
        schema = files[shards[0].path].schema_arrow
        meta = {
            key.decode().removeprefix("genobird."): value.decode()
            for key, value in schema.metadata.items()
            if key.startswith(b"genobird.") and key != _TABLE_KEY
        }
        if command:
            meta["mergecommand"] = command
        writer = stack.enter_context(TableWriter(output, force=force, meta=meta))
        rows = max(1, _ROWS // len(shards))
        for frame in _rows_in_order([_rows(files[shard.path], shard, rows) for shard in shards]):
            writer.write(frame)
            counts.update(frame["status"])
            if progress is not None:
                progress(len(frame))
        if not writer.rows:
            writer.write(schema.empty_table().to_pandas())
    return counts


def _in_order(shards: Sequence[_Shard]) -> list[_Shard]:
    """Return the shards by number; each of one run has to be there, once."""
    first = shards[0]
    total = first.note.shard.count
    found: dict[int, _Shard] = {}
    for shard in shards:
        number = shard.note.shard.index
        if other := _difference(first, shard):
            raise ShardError(
                f"{first.path} and {shard.path} are of different runs: {other}; give the shards "
                "of one run"
            )
        if number in found:
            raise ShardError(
                f"{found[number].path} and {shard.path} are both shard {shard.note.shard}; give "
                "each once"
            )
        found[number] = shard
    missing = [str(number) for number in range(1, total + 1) if number not in found]
    if missing:
        raise ShardError(
            f"{len(found)} of {total} shards found; missing: {_some(missing)}; make them, and give "
            "all"
        )
    return [found[number] for number in sorted(found)]


def _difference(one: _Shard, other: _Shard) -> str:
    """Say in what two shards differ; empty where they are of one run."""
    here, there = (
        {"shards": shard.note.shard.count, **shard.note.run, "chunk": shard.note.chunk}
        for shard in (one, other)
    )
    keys = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
    if keys:
        return ", ".join(f"{key} {here.get(key)} and {there.get(key)}" for key in keys)
    return "" if one.facts == other.facts else "their headers have other lines or columns"


def _vcf_shard(path: Path, header: Sequence[str]) -> _Shard:
    notes = [line.removeprefix(_NOTE) for line in header if line.startswith(_NOTE)]
    if len(notes) != 1:
        raise _no_shard(path)
    own = (_NOTE, "##genobirdCommand=")
    kept = tuple(line for line in header if not line.startswith(own))
    return _Shard(path, ShardNote.read(notes[0].rstrip("\r"), path), kept)


def _table_shard(path: Path, schema: Any) -> _Shard:
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    if _TABLE_KEY not in metadata:
        raise _no_shard(path)
    return _Shard(path, ShardNote.read(metadata[_TABLE_KEY].decode(), path), tuple(schema.names))


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ShardError(f"{path} is damaged: {error}; make the shard again") from error


def _no_shard(path: Path) -> ShardError:
    return ShardError(f"{path} is no shard; make shards with genobird variants --shard i/n")


def _rows(file: Any, shard: _Shard, size: int) -> Iterator[pd.DataFrame]:
    for batch in file.iter_batches(batch_size=size):
        frame = batch.to_pandas()
        places = frame["record"] // shard.note.chunk % shard.note.shard.count
        if (places != shard.note.shard.index - 1).any():
            raise ShardError(f"{shard.path} has rows of other shards; make it again")
        yield frame


def _rows_in_order(shards: Sequence[Iterator[pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    """Merge frames by their column `record`, in which each shard ascends."""
    held = {number: pd.DataFrame() for number in range(len(shards))}
    while held:
        for number in list(held):
            while number in held and held[number].empty:
                frame = next(shards[number], None)
                if frame is None:
                    del held[number]
                else:
                    held[number] = frame
        if not held:
            return
        # Beyond it, a shard whose rows end there may still have some.
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


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:10]) + (" ..." if len(texts) > 10 else "")
