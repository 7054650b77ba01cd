"""The verb variants merge."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from genobird.cli.options import NAMED, Run
from genobird.cli.outputs import VCF_ENDINGS, refuse_early
from genobird.cli.running import command_line, progress_of, refuse_same_file, summarise
from genobird.config import Settings, argument, option
from genobird.scoring.table import ENDINGS


class MergeOptions(Settings):
    """Which shards become which file."""

    shards: tuple[Path, ...] = argument(
        "All shards of a run: all .vcf.gz, or all .parquet.", "SHARD"
    )
    output: Annotated[str, NAMED] = option(
        ".vcf, .vcf.gz (with index), .bcf or - for VCF; .parquet, .tsv, .tsv.gz or - for tables.",
        "-o",
        default=...,
    )


def merge(options: MergeOptions, run: Run) -> None:
    """Join the shards of genobird variants --shard into the file of a single run."""
    shards, output = options.shards, options.output
    refuse_same_file({"--output": output}, {f"the shard {path}": path for path in shards})
    refuse_early(output, (*VCF_ENDINGS, *ENDINGS), force=run.force)
    from genobird.scoring.parts import merge as join

    began = time.monotonic()
    with progress_of("records", None, run.quiet) as advance:
        counts = join(shards, output, force=run.force, command=command_line(), progress=advance)
    summary = {"shards": len(shards), "alleles": counts.total(), "output": output}
    summarise("alleles", summary, counts, None, run, began)
