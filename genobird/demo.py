"""The demonstration: bundled regions and variants, scored by the bundled model.

Enters package data, leaves a folder with `regions.tsv`, `variants.vcf.gz` with its index,
`variants.parquet` and `report.html`, and what stands out in them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

import genobird
from genobird.files import Draft, check_folder, write_text, writing
from genobird.genome.fasta import Genome
from genobird.genome.interval import read_bed
from genobird.genome.vcf import VcfReader
from genobird.report.page import auroc, difference, feature_label, probability, region_text, render
from genobird.report.summary import (
    RegionSummary,
    VariantSummary,
    summarise_regions,
    summarise_variants,
    summary_of,
)
from genobird.runs import Progress, Start, ignore
from genobird.scoring.regions import write_regions
from genobird.scoring.scorer import Scorer
from genobird.scoring.sites import sites_of
from genobird.scoring.variant_vcf import annotate_variants

GENOME, REGIONS, VARIANTS = "chr20.demo.fa.gz", "regions.bed", "variants.vcf"
STRETCH = "GRCh37 chr20:54.9-56.3 Mb"
FILES = ("regions.tsv", "variants.vcf.gz", "variants.vcf.gz.tbi", "variants.parquet", "report.html")

_TOP = 8
_LOOK: dict[str, Any] = {"box": None, "pad_edge": False, "title_justify": "left"}


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What was found, and where it is."""

    output: Path
    regions: RegionSummary
    variants: VariantSummary


def bundled(name: str) -> Path:
    """Return the path of a file of the bundled demo data."""
    return Path(str(resources.files("genobird"))) / "bundled" / "demo" / name


def count() -> int:
    """Return how many regions and records there are to score."""
    with VcfReader(bundled(VARIANTS)) as reader:
        return sum(1 for _ in read_bed(bundled(REGIONS))) + sum(1 for _ in reader)


def run(
    scorer: Scorer,
    output: Path,
    *,
    force: bool = False,
    command: str = "genobird demo",
    progress: Progress = ignore,
) -> Demonstration:
    """Score the bundled data and write the four results, none of them before all are whole.

    Files of the same names in the folder are replaced with `force`, others stay. Progress is called
    with the number of regions or records that were scored.

    Raises:
        UsageError: the folder exists and `force` is not given.
        OutputError: it cannot be written.
    """
    check_folder(output, output.glob("*"), force)
    draft = Draft(output)
    try:
        with writing(output):
            draft.part.mkdir()
            made = _write(scorer, draft.part, command, progress)
            output.mkdir(exist_ok=True)
            for name in FILES:
                os.replace(draft.part / name, output / name)
    finally:
        draft.discard()
    return Demonstration(output, *made)


def show(made: Demonstration) -> None:
    """Write what was found on standard output, as short tables, and where it is."""
    console = Console(highlight=False, soft_wrap=False)
    regions = Table("rank", "region", "place (1-based)", "probability", title="Promoters", **_LOOK)
    for rank, row in enumerate(made.regions.top.head(_TOP).to_dict("records"), start=1):
        regions.add_row(str(rank), row["name"], region_text(row), probability(row["promoter"]))
    console.print(regions)
    area = auroc(made.regions)
    if area is not None:
        known, places = len(made.regions.promoter), len(made.regions.background)
        console.print(
            f"AUROC of {known} promoters against {places} background places: {area:.3f}\n"
        )
    variants = Table(
        "rank", "variant", "change", "ALT - REF, logit", "feature", title="Variants", **_LOOK
    )
    for rank, row in enumerate(made.variants.top.head(_TOP).to_dict("records"), start=1):
        change = f"{row['chrom']}:{row['pos']} {row['ref']}>{row['alt']}"
        effect = difference(row["delta"])
        variants.add_row(str(rank), row["id"], change, effect, feature_label(row["feature"]))
    console.print(variants)
    scored, total = made.variants.scored, made.variants.total
    console.print(
        f"Scored: {made.regions.scored} of {made.regions.total} regions, "
        f"{scored} of {total} alleles\n"
    )
    for name in FILES:
        typer.echo(made.output / name)


def _write(
    scorer: Scorer, folder: Path, command: str, progress: Progress
) -> tuple[RegionSummary, VariantSummary]:
    with Genome(bundled(GENOME)) as genome:
        start = Start(command=command, progress=progress, is_kept=False)
        sites = sites_of(read_bed(bundled(REGIONS)), genome)
        write_regions(scorer, sites, folder / "regions.tsv", start=start)
        annotate_variants(
            scorer,
            bundled(VARIANTS),
            genome,
            folder / "variants.vcf.gz",
            table=folder / "variants.parquet",
            start=start,
        )
        facts = {
            "genome": f"{GENOME}, {genome.assembly or 'unknown assembly'}, "
            f"sha256 {genome.sha256()[:12]}",
            "model": f"sha256 {scorer.model_hash or 'unsaved'}",
            "command": command,
            "version": genobird.__version__,
        }
    regions = summary_of(folder / "regions.tsv", summarise_regions)
    variants = summary_of(folder / "variants.parquet", summarise_variants)
    title = f"{STRETCH}, scored by genobird"
    write_text(folder / "report.html", render(regions, variants, facts, title))
    return regions, variants
