"""The verb build-db."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.options import FASTA, MODEL, NAMED, Compute, ResumableRun
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    summarise,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import PACKED_VCFS, check_output
from genobird.genome.interval import read_intervals
from genobird.names import deferred
from genobird.runs import Start, may_replace
from genobird.scoring.settings import (
    GRID,
    ONE_WINDOW,
    SEGMENTATIONS,
    SHIFTS,
    EffectSettings,
    ScanSettings,
)

with deferred():
    from genobird.scoring import background, snvs, variant_vcf


class DatabaseOptions(Settings):
    """Which SNVs are scored, by what, and where the scores go."""

    regions: str = argument(
        "BED (0-based), - for BED on standard input, or one region, 1-based: chr20:1,000-2,000.",
        "BED",
    )
    fasta: Path = FASTA
    output: Annotated[str, NAMED] = option(".vcf.gz, with its index.", "-o", default=...)
    model: Path | None = MODEL
    background: str = option(
        "What variants are ranked among: a file of genobird background build, or the model's own.",
        default="model",
        metavar="FILE",
    )
    shifts: int = SHIFTS
    segmentations: int = SEGMENTATIONS
    grid: int = GRID
    one_window: bool = ONE_WINDOW

    @property
    def effects(self) -> EffectSettings:
        """How effects are computed."""
        names = ("shifts", "segmentations", "grid", "one_window")
        chosen = {name: getattr(self, name) for name in names}
        return EffectSettings(**chosen, phred=True)


def build_db(options: DatabaseOptions, compute: Compute, run: ResumableRun) -> None:
    """Score every SNV of regions, as a VCF with index to annotate others with.

    Each SNV is a record with the INFO keys of genobird variants, and GB_PHRED: its rank among the
    background. Lines for VEP and vcfanno are written at the end.
    """
    output = options.output
    refuse_same_file({"--output": output}, {"BED": options.regions, "--fasta": options.fasta})
    start = Start(run.resume, run.force, command_line(), processes=run.processes)
    check_output(output, PACKED_VCFS, may_replace(output, start))
    intervals, effects = read_intervals(options.regions), options.effects
    began = time.monotonic()
    with open_genome(options.fasta) as genome:
        regions = snvs.joined(intervals, genome)
        scorer = open_scorer(options.model, compute, compute.precision, run.processes)
        scorer.background = background.background_of(scorer, options.background)
        if scorer.background is None:
            raise UsageError(
                "there is no background to rank among; make one with genobird background build, "
                "and name it with --background"
            )
        with progress_of("SNVs", 3 * sum(one.length for one in regions), run.quiet) as advance:
            counts = variant_vcf.annotate_variants(
                *(scorer, snvs.all_snvs(regions, genome, options.regions), genome, output),
                settings=ScanSettings(effects=effects),
                start=replace(start, progress=advance),
            )
    summary = {"snvs": counts.total(), "output": output}
    summarise("SNVs", summary, counts, scorer, run, began)
    if not (run.quiet or run.as_json):
        fields = variant_vcf.info_fields(scorer, settings=effects)
        typer.echo(_recipes(output, [field.id for field in fields]))


def _recipes(output: str, keys: list[str]) -> str:
    """Write how VEP and vcfanno annotate with a file."""
    shown = [key for key in keys if key != "GB_STATUS"]
    place = Path(output).resolve()
    listed, kept = (
        ", ".join(f'"{text}"' for text in texts) for texts in (shown, ["self"] * len(shown))
    )
    return (
        f"vep --custom file={place},short_name=genobird,format=vcf,type=exact,"
        f"fields={'%'.join(shown)}\n\n"
        f'[[annotation]]\nfile = "{place}"\nfields = [{listed}]\nops = [{kept}]'
    )
