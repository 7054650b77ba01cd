"""A VCF copied with INFO added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from genobird.genome.vcf import Record, VcfReader
from genobird.genome.vcf_writer import InfoField, Values, annotated_copy


def annotate(
    source: Path | str,
    output: Path | str,
    info: Sequence[InfoField],
    values: Callable[[Iterator[Record]], Iterable[tuple[Record, Values]]],
    **options: Any,
) -> int:
    """Copy the records with the values that `values` gives each; return their number."""
    count = 0
    with VcfReader(source) as reader:
        first = next(reader, None)
        example = None if first is None else first.contig
        with annotated_copy(reader, output, info, example=example, **options) as writer:
            for record, added in values(chain([first] if first else [], reader)):
                writer.write(record, added)
                count += 1
    return count
