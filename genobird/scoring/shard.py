"""Shard: one part of a run over a VCF, dealt chunk by chunk, and the note that it leaves.

Records are scored in chunks cut at fixed record numbers. Shard i of n takes every n-th chunk,
beginning with the i-th, so its scores are those of a run over all, and no record has to be counted
before. The note stands in the header of the VCF and in the metadata of the table, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from genobird.errors import ShardError, UsageError, quoted
from genobird.genome.position import whole
from genobird.genome.streams import STDIN

HEADER_KEY: Final = "genobirdShard"
VCF_ENDINGS: Final = (".vcf.gz", ".vcf.bgz")
TABLE_ENDING: Final = ".parquet"


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` (from 1) of `count`.

    Raises:
        UsageError: there is no such shard.
    """

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
    def parse(cls, text: str) -> Shard:
        """Read `i/n`.

        Raises:
            UsageError: it is something else.
        """
        index, _, count = map(whole, text.partition("/"))
        if index is None or count is None:
            raise UsageError(f"shard {quoted(text)} found; give i/n, as 1/4, 2/4, 3/4 and 4/4")
        return cls(index, count)

    def takes(self, chunk: int) -> bool:
        """Tell whether a chunk, counted from 0, belongs to this shard."""
        return chunk % self.count == self.index - 1


@dataclass(frozen=True, slots=True)
class ShardNote:
    """What a shard says of itself."""

    shard: Shard
    chunk: int
    """Records a chunk."""
    run: Mapping[str, str | int]
    """Input, model, genome and settings; the same in all shards of a run."""

    def text(self) -> str:
        """Write the note on one line."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str, where: Path) -> ShardNote:
        """Read a note.

        Raises:
            ShardError: it is damaged.
        """
        try:
            facts = json.loads(text)
            return cls(Shard(**facts["shard"]), int(facts["chunk"]), dict(facts["run"]))
        except (ValueError, TypeError, KeyError, UsageError) as error:
            raise ShardError(
                f"{where}: the note on its shard is damaged ({text}); make the shard again"
            ) from error


def require_shardable(
    model: str, source: Path | str, output: Path | str, table: Path | str | None
) -> None:
    """Refuse a model, an input or outputs that a shard cannot have.

    A shard is written in formats that hold its note, and in which a missing end is noticed.

    Raises:
        UsageError: they are others.
    """
    if not model:
        raise UsageError("a model that was never saved has no shards; save it first")
    if str(source) == STDIN:
        raise UsageError(
            "a shard cannot read standard input, because all shards need the same file; name it"
        )
    if not str(output).endswith(VCF_ENDINGS):
        raise UsageError(
            f"output {output} cannot be a shard; write .vcf.gz, and merge makes .vcf or .bcf of it"
        )
    if table is not None and not str(table).endswith(TABLE_ENDING):
        raise UsageError(
            f"table {table} cannot be a shard; write .parquet, and merge makes .tsv of it"
        )
