"""Verbs that score many variants to compare others with: background build and info, build-db."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from genobird.cli.options import FASTA, JSON, MODEL, NAMED, Compute, Passes, ResumableRun
from genobird.cli.running import (
    open_genome,
    open_scorer,
    progress_of,
    refuse_same_file,
    summarise,
    tell,
)
from genobird.config import MOST_SEED, Settings, argument, option
from genobird.errors import UsageError, counted
from genobird.files import ARRAYS, PACKED_VCFS, check_output
from genobird.genome.interval import read_intervals
from genobird.names import deferred
from genobird.runs import may_replace
from genobird.scoring.settings import (
    GRID,
    ONE_WINDOW,
    SEGMENTATIONS,
    SHIFTS,
    EffectSettings,
    ScanSettings,
)

if TYPE_CHECKING:
    from genobird.scoring.background import Background

with deferred():
    from genobird import checkpoint
    from genobird.scoring import alleles, background, background_build, variant_vcf

# Shares of the background whose smallest effect is shown.
_SHARES = {"half": 0.5, "1 in 10": 0.1, "1 in 100": 0.01, "largest": 0.0}


class WindowOptions(Settings):
    """How effects are computed."""

    shifts: int = SHIFTS
    segmentations: int = SEGMENTATIONS
    grid: int = GRID
    one_window: bool = ONE_WINDOW


class BuildOptions(Settings):
    """Which variants are drawn and scored, by what, and where their effects go."""

    sources: tuple[Path, ...] = argument(
        "VCF, BCF or tables of variants; files, not -.", "VARIANTS..."
    )
    fasta: Path = FASTA
    output: Path = option("A name ending in .npz.", "-o", default=...)
    model: Path | None = MODEL
    limit: int | None = option("Number of ALTs to draw at random; all by default.", ge=1)
    seed: int = option("Seed of the draw.", ge=0, le=MOST_SEED, default=0)
    exclude: tuple[str, ...] = option(
        "Leave out a region, 1-based, or those of a BED; repeatable.", metavar="REGION", default=()
    )


def build(
    options: BuildOptions, windows: WindowOptions, compute: Passes, run: ResumableRun
) -> None:
    """Score variants and store the sizes of their effects on each output.

    genobird variants --background FILE then reports, for each ALT, the share of these variants with
    effects at least as large. A file fits only the model that made it.
    """
    inputs = {f"the input {path}": path for path in options.sources}
    refuse_same_file({"--output": options.output}, {**inputs, "--fasta": options.fasta})
    replace = may_replace(options.output, run.start())
    check_output(options.output, ARRAYS, replace)
    settings = EffectSettings(**dict(windows))
    intervals = [interval for text in options.exclude for interval in read_intervals(text)]
    genome = open_genome(options.fasta)
    began = time.monotonic()
    scorer = open_scorer(options.model, compute, processes=run.processes)
    with genome, progress_of("variants", options.limit) as advance:
        made = background_build.build_background(
            scorer,
            options.sources,
            genome,
            options.output,
            limit=options.limit,
            seed=options.seed,
            exclude=intervals,
            settings=settings,
            start=run.start(advance),
        )
    seconds = round(time.monotonic() - began, 3)
    if run.as_json:
        facts = {**_facts(made), "output": str(options.output), "seconds": seconds}
        typer.echo(json.dumps(facts))
    else:
        tell(
            f"{counted(made.count, 'variant')}, {counted(len(made.outputs), 'output')} in "
            f"{seconds:.1f} s: {options.output}"
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


def build_db(
    options: DatabaseOptions, windows: WindowOptions, compute: Compute, run: ResumableRun
) -> None:
    """Score every SNV of regions, as a VCF with index to annotate others with.

    Each SNV is a record with the INFO keys of genobird variants, and GB_PHRED: its rank among the
    background. Lines for VEP and vcfanno are written at the end.
    """
    output = options.output
    refuse_same_file({"--output": output}, {"BED": options.regions, "--fasta": options.fasta})
    check_output(output, PACKED_VCFS, may_replace(output, run.start()))
    effects = EffectSettings(**dict(windows), phred=True)
    intervals = read_intervals(options.regions)
    began = time.monotonic()
    with open_genome(options.fasta) as genome:
        regions = alleles.union(intervals, genome)
        scorer = open_scorer(options.model, compute, compute.precision, run.processes)
        scorer.background = background.background_of(scorer, options.background)
        if scorer.background is None:
            raise UsageError(
                "there is no background to rank among; make one with genobird background build, "
                "and name it with --background"
            )
        with progress_of("SNVs", 3 * sum(one.length for one in regions)) as advance:
            counts = variant_vcf.annotate_variants(
                scorer,
                alleles.all_snvs(regions, genome, options.regions),
                genome,
                output,
                settings=ScanSettings(effects=effects),
                start=run.start(advance),
            )
    summary = {"snvs": counts.total(), "output": output}
    summarise("SNV", summary, counts, scorer, run, began)
    if not run.as_json:
        fields = variant_vcf.info_fields(scorer, settings=effects)
        for line in _recipes(output, [field.id for field in fields]):
            tell(line, err=False)


def _recipes(output: str, keys: list[str]) -> list[str]:
    """Return how VEP and vcfanno annotate with a file, in lines."""
    shown = [key for key in keys if key != "GB_STATUS"]
    place = Path(output).resolve()
    listed, kept = (
        ", ".join(f'"{text}"' for text in texts) for texts in (shown, ["self"] * len(shown))
    )
    return [
        f"vep --custom file={place},short_name=genobird,format=vcf,type=exact,"
        f"fields={'%'.join(shown)}",
        "",
        *("[[annotation]]", f'file = "{place}"', f"fields = [{listed}]", f"ops = [{kept}]"),
    ]
