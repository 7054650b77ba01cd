"""The verbs background build and background info."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genobird.cli.options import (
    BatchSize,
    Device,
    Fasta,
    Force,
    Json,
    Model,
    Quiet,
    Resume,
    Threads,
)
from genobird.cli.running import (
    command_line,
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
)
from genobird.errors import UsageError
from genobird.scoring.settings import DEFAULT, EffectSettings

if TYPE_CHECKING:
    from genobird.scoring.background import Background

# Shares of the background whose smallest effect is shown.
_SHARES = {"half": 0.5, "1 in 10": 0.1, "1 in 100": 0.01, "largest": 0.0}

group = typer.Typer(
    help="Effects among variants such as common ones, to compare others with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the group to the command."""
    group.command()(build)
    group.command()(info)
    app.add_typer(group, name="background")


def build(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="VARIANTS...", help="VCF, BCF or tables of variants; files, not -."),
    ],
    fasta: Fasta,
    output: Annotated[Path, typer.Option("--output", "-o", help="A name ending in .npz.")],
    model: Model = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of ALTs to draw at random; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGION", help="Leave out a region, 1-based, or those of a BED; repeatable."
        ),
    ] = None,
    shifts: Annotated[
        int, typer.Option(help="As in genobird variants, as the next two.")
    ] = DEFAULT.shifts,
    segmentations: Annotated[int, typer.Option()] = DEFAULT.segmentations,
    window_grid: Annotated[int, typer.Option(metavar="BP")] = DEFAULT.grid,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score variants and store the sizes of their effects on each output.

    genobird variants --background FILE then reports, for each ALT, the share of these variants with
    effects at least as large. A file fits only the model that made it.
    """
    inputs = {f"the input {path}": path for path in sources}
    refuse_same_file({"--output": output}, {**inputs, "--fasta": fasta})
    from genobird.scoring.background import check_background

    check_background(output, force)
    from genobird.genome.interval import read_intervals
    from genobird.scoring.background_build import build_background

    settings = EffectSettings(shifts, segmentations, grid=window_grid)
    intervals = [interval for text in exclude or () for interval in read_intervals(text)]
    genome = open_genome(fasta)
    began = time.monotonic()
    scorer = open_scorer(model, device, batch_size, threads)
    with genome, progress_of("variants", limit, quiet) as advance:
        made = build_background(
            scorer,
            sources,
            genome,
            output,
            limit=limit,
            seed=seed,
            exclude=intervals,
            settings=settings,
            resume=resume,
            force=force,
            command=command_line(),
            progress=advance,
        )
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        facts = {**_facts(made), "output": str(output), "seconds": seconds}
        typer.echo(json.dumps(facts))
    elif not quiet:
        typer.echo(
            f"{made.count:,} variants, {len(made.outputs)} outputs in {seconds:.1f} s: {output}",
            err=True,
        )


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A background, or a model directory that has one; default the bundled model's.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")] = False,
) -> None:
    """Describe a background: its variants, its model, and the sizes of effects."""
    from genobird.scoring.background import FILE, Background
    from genobird.scoring.scorer import bundled_model

    place = bundled_model() if path is None else path
    file = place / FILE if place.is_dir() else place
    if path is None and not file.is_file():
        raise UsageError("the bundled model has no background; name one: genobird background info")
    made = Background.load(file)
    sizes = made.sizes_beyond(list(_SHARES.values()))
    if as_json:
        shown = {
            name: dict(zip(_SHARES, map(float, row), strict=True))
            for name, row in zip(made.outputs, sizes, strict=True)
        }
        typer.echo(json.dumps({**_facts(made), "sizes": shown}, indent=2))
        return
    import yaml

    typer.echo(yaml.safe_dump(_facts(made), sort_keys=False, allow_unicode=True, width=100))
    typer.echo("|ALT - REF| that a share of the variants reaches, in logits (llr: nats)")
    width = max(len(name) for name in made.outputs)
    typer.echo(" " * width + "".join(f"{name:>10}" for name in _SHARES))
    for name, row in zip(made.outputs, sizes, strict=True):
        typer.echo(name.ljust(width) + "".join(f"{size:10.3g}" for size in row))


def _facts(made: Background) -> dict[str, Any]:
    facts = {"hash": made.hash, "variants": made.count, "outputs": len(made.outputs)}
    return {**facts, "smallest_evalue": 1 / (made.count + 1), **made.facts}
