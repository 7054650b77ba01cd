"""The verbs background build and background info."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

from genobird.cli.options import FASTA, JSON, MODEL, Passes, ResumableRun
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
)
from genobird.config import Settings, argument, option
from genobird.errors import UsageError
from genobird.files import ARRAYS, check_output
from genobird.genome.interval import read_intervals
from genobird.names import deferred
from genobird.runs import Start, may_replace
from genobird.scoring.settings import (
    GRID,
    ONE_WINDOW,
    SEGMENTATIONS,
    SHIFTS,
    EffectSettings,
)

if TYPE_CHECKING:
    from genobird.scoring.background import Background

with deferred():
    from genobird import checkpoint
    from genobird.scoring import background, background_build

# Shares of the background whose smallest effect is shown.
_SHARES = {"half": 0.5, "1 in 10": 0.1, "1 in 100": 0.01, "largest": 0.0}


class BuildOptions(Settings):
    """Which variants are drawn and scored, by what, and where their effects go."""

    sources: tuple[Path, ...] = argument(
        "VCF, BCF or tables of variants; files, not -.", "VARIANTS..."
    )
    fasta: Path = FASTA
    output: Path = option("A name ending in .npz.", "-o", default=...)
    model: Path | None = MODEL
    limit: int | None = option("Number of ALTs to draw at random; all by default.", ge=1)
    seed: int = option("Seed of the draw.", ge=0, default=0)
    exclude: tuple[str, ...] = option(
        "Leave out a region, 1-based, or those of a BED; repeatable.",
        metavar="REGION",
        default=(),
    )
    shifts: int = SHIFTS
    segmentations: int = SEGMENTATIONS
    grid: int = GRID
    one_window: bool = ONE_WINDOW


def build(options: BuildOptions, compute: Passes, run: ResumableRun) -> None:
    """Score variants and store the sizes of their effects on each output.

    genobird variants --background FILE then reports, for each ALT, the share of these variants with
    effects at least as large. A file fits only the model that made it.
    """
    inputs = {f"the input {path}": path for path in options.sources}
    refuse_same_file({"--output": options.output}, {**inputs, "--fasta": options.fasta})
    replace = may_replace(options.output, Start(run.resume, run.force))
    check_output(options.output, ARRAYS, replace)
    settings = EffectSettings(
        shifts=options.shifts,
        segmentations=options.segmentations,
        grid=options.grid,
        one_window=options.one_window,
    )
    intervals = [interval for text in options.exclude for interval in read_intervals(text)]
    genome = open_genome(options.fasta)
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, processes=run.processes)
    with genome, progress_of("variants", options.limit, run.quiet) as advance:
        made = background_build.build_background(
            *(scorer, options.sources, genome, options.output),
            limit=options.limit,
            seed=options.seed,
            exclude=intervals,
            settings=settings,
            start=Start(run.resume, run.force, command_line(), advance, run.processes),
        )
    seconds = round(time.monotonic() - began, 3)
    if run.as_json:
        facts = {**_facts(made), "output": str(options.output), "seconds": seconds}
        typer.echo(json.dumps(facts))
    elif not run.quiet:
        typer.echo(
            f"{made.count:,} variants, {len(made.outputs)} outputs in {seconds:.1f} s: "
            f"{options.output}",
            err=True,
        )


class InfoOptions(Settings):
    """Which background is described, and how."""

    path: Path | None = argument(
        "A background, or a model directory that has one; default the bundled model's.",
        "[FILE]",
        default=None,
    )
    as_json: bool = JSON


def info(options: InfoOptions) -> None:
    """Describe a background: its variants, its model, and the sizes of effects."""
    place = options.path or checkpoint.bundled_model()
    file = place / background.FILE if place.is_dir() else place
    if options.path is None and not file.is_file():
        raise UsageError("the bundled model has no background; name one: genobird background info")
    made = background.Background.load(file)
    sizes = made.sizes_beyond(list(_SHARES.values()))
    if options.as_json:
        shown = {
            name: dict(zip(_SHARES, map(float, row), strict=True))
            for name, row in zip(made.outputs, sizes, strict=True)
        }
        typer.echo(json.dumps({**_facts(made), "sizes": shown}, indent=2))
        return
    typer.echo(yaml.safe_dump(_facts(made), sort_keys=False, allow_unicode=True, width=100))
    typer.echo("|ALT - REF| that a share of the variants reaches, in logits (llr: nats)")
    width = max(len(name) for name in made.outputs)
    typer.echo(" " * width + "".join(f"{name:>10}" for name in _SHARES))
    for name, row in zip(made.outputs, sizes, strict=True):
        typer.echo(name.ljust(width) + "".join(f"{size:10.3g}" for size in row))


def _facts(made: Background) -> dict[str, Any]:
    facts = {"hash": made.hash, "variants": made.count, "outputs": len(made.outputs)}
    return {**facts, "smallest_evalue": 1 / (made.count + 1), **made.facts}
