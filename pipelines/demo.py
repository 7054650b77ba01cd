"""The region that ships with the package: a piece of the test part, its promoters and some SNPs.

    chr20.demo.fa.gz    the whole length of the contig, so that coordinates and the assembly check
                        are true, but N outside the region; BGZF with .fai and .gzi
    promoters.bed       EPDnew TSS in the region, one base each, with their strands
    regions.bed         these and a third as many random places away from any TSS, background_1, ...
    variants.vcf        SNPs with rsIDs, the nearest to the promoters, sites only; and one made up:
                        the strongest match of a factor's matrix under its own peak, its bases in
                        another order

Every promoter, place and variant lies at least 20 kb inside the region: no window meets the N.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pysam
import typer

from genobird.datasets import ChromatinDataset
from genobird.errors import UsageError, VcfError
from genobird.files import Kind, refuse_existing, write_text
from genobird.genome.interval import Interval, parse_region, read_bed
from genobird.motifs import Motif, best_of_each, read_motifs
from pipelines import backgrounds, grch37, manifest, promoters, steps
from pipelines.alleles import columns
from pipelines.backgrounds import MAX_N
from pipelines.manifest import Splits
from pipelines.motif_effects import CORE, changed, find_sites

logger = logging.getLogger(__name__)

REGION = "chr20:54,900,001-56,320,000"
INSET = 20_000
TSS_DISTANCE = 5000
BACKGROUND_STEP = 1000
VARIANTS = 10
SNPS, PROMOTERS, REGIONS = "variants.vcf", "promoters.bed", "regions.bed"
_FILES = (SNPS, PROMOTERS, REGIONS, "*.demo.fa.gz", "*.demo.fa.gz.fai", "*.demo.fa.gz.gzi")
KIND = Kind("demonstration", SNPS, _FILES, "##reference=GRCh37")
VCF_HEADER = """##fileformat=VCFv4.2
##reference=GRCh37
##contig=<ID={contig},length={length},assembly=GRCh37>
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO
"""


@dataclass(frozen=True)
class Snp:
    """One SNP of dbSNP, or a change of several bases; `position` is 0-based."""

    position: int
    name: str
    ref: str
    alt: str


def inner(region: Interval) -> Interval:
    """The part of a region that is 20 kb inside it."""
    return Interval(region.contig, region.start + INSET, region.end - INSET)


def mask(sequence: str, region: Interval) -> str:
    """Return the contig with N for every base outside `region`."""
    inside = sequence[region.start : region.end]
    return "N" * region.start + inside + "N" * (len(sequence) - region.end)


def draw_backgrounds(
    region: Interval, sequence: str, tss: Sequence[tuple[int, int]], count: int, seed: int
) -> list[Interval]:
    """Draw single bases of `region`, uniformly, over 5 kb from any TSS and 1 kb from each other.

    `sequence` is the whole contig, `tss` are intervals on it to stay away from.

    Raises:
        UsageError: the region has no room for that many.
    """
    near = np.zeros(len(sequence), dtype=bool)
    for start, end in tss:
        near[max(start - TSS_DISTANCE, 0) : end + TSS_DISTANCE] = True
    rng = promoters.generator(seed, f"background of {region}")
    chosen: list[int] = []
    for place in rng.permutation(np.arange(region.start, region.end)).tolist():
        if len(chosen) == count:
            break
        around = sequence[place - promoters.UPSTREAM : place + promoters.UPSTREAM]
        apart = all(abs(place - other) >= BACKGROUND_STEP for other in chosen)
        if apart and not near[place] and around.count("N") <= MAX_N:
            chosen.append(place)
    if len(chosen) < count:
        raise UsageError(f"{region} has room for {len(chosen)} of {count} background places")
    return [
        Interval(region.contig, place, place + 1, ".", f"background_{number}")
        for number, place in enumerate(sorted(chosen), start=1)
    ]


def read_snps(path: Path, region: Interval) -> list[Snp]:
    """Read the SNPs of a VCF that lie in `region` and carry an rsID.

    Raises:
        UsageError: there is no such file.
        VcfError: it cannot be read as VCF.
    """
    steps.require(path)
    snps = []
    quiet = pysam.set_verbosity(0)
    try:
        with pysam.VariantFile(str(path)) as file:
            for record in file:
                inside = record.chrom == region.contig and region.start < record.pos <= region.end
                alleles = record.alleles or ()
                is_snp = len(alleles) == 2 and all(a in ("A", "C", "G", "T") for a in alleles)
                if inside and is_snp and (record.id or "").startswith("rs"):
                    snps.append(Snp(record.pos - 1, record.id, *alleles))
    except (ValueError, OSError) as error:
        raise VcfError(f"{path} cannot be read as VCF: {error}") from error
    finally:
        pysam.set_verbosity(quiet)
    return snps


def nearest(snps: Sequence[Snp], tss: Sequence[Interval], sequence: str, count: int) -> list[Snp]:
    """Choose the SNPs nearest to a TSS, in the order of position.

    Raises:
        VcfError: a REF is not the base of the sequence.
    """
    for snp in snps:
        if sequence[snp.position] != snp.ref:
            raise VcfError(
                f"{snp.name} has REF {snp.ref}, the sequence has {sequence[snp.position]} at "
                f"{snp.position + 1:,}; VCF and FASTA must be of one assembly"
            )
    by_distance = sorted(
        snps, key=lambda snp: (min(abs(snp.position - t.start) for t in tss), snp.position)
    )
    return sorted(by_distance[:count], key=lambda snp: snp.position)


def broken_site(
    dataset: ChromatinDataset, factor: str, motif: Motif, features: Sequence[int], place: Interval
) -> Snp:
    """Return the change that breaks the strongest held-out site of a factor in a region.

    Sites of the dataset's test part are looked through; `features` are the columns of the factor.

    Raises:
        UsageError: there is none.
    """
    found = find_sites(dataset, "test", {factor: motif}, {factor: features}, most=10_000)
    inside = [s for s in found if s.contig == place.contig and place.start < s.start < place.end]
    if not inside:
        raise UsageError(f"no strong match of {factor} lies under its peaks in {place}")
    site, length = inside[0], motif.counts.shape[1]
    around = dataset.sequence(site.contig, site.start - 200, site.start + length + 200)
    ref, alt = (
        text[200 : 200 + length] for text in (around, changed(around, 200, site, motif, 0)[CORE])
    )
    return Snp(site.start, f"{factor}_site_broken", ref, alt)


def build(
    contig: grch37.Contig,
    region: Interval,
    tss: Sequence[Interval],
    snps: Sequence[Snp],
    exclude: Mapping[str, Sequence[tuple[int, int]]],
    output: Path,
    seed: int = 0,
    force: bool = False,
    made_up: Sequence[Snp] = (),
) -> dict[str, int]:
    """Write the demo folder.

    `region` is what stays sequence, named as the contig shall be. Background places stay away from
    promoters, and from the further TSS in `exclude`, by contig. `made_up` are further changes.

    Returns:
        How many promoters, background places and variants there are.

    Raises:
        UsageError: `output` exists, or the region holds no promoter.
        VcfError: a REF is not the base of the sequence.
    """
    core = inner(region)
    here = sorted(
        t for t in tss if t.contig == core.contig and core.start <= t.start and t.end <= core.end
    )
    if not here:
        raise UsageError(f"no promoter lies 20 kb inside {region}; choose another --region")
    sequence = contig.sequence()
    places = [(t.start, t.end) for t in tss if t.contig == core.contig]
    places += exclude.get(core.contig, ())
    random = draw_backgrounds(core, sequence, places, (len(here) + 2) // 3, seed)
    inside = [snp for snp in snps if core.start <= snp.position < core.end]
    chosen = [*nearest(inside, here, sequence, VARIANTS), *made_up]
    chosen.sort(key=lambda snp: snp.position)
    with steps.new_directory(output, force, KIND) as folder:
        masked = mask(sequence, region)
        name = f"{region.contig}.demo.fa.gz"
        grch37.write_bgzf([(region.contig, masked)], folder / name, level=9)
        write_text(folder / PROMOTERS, steps.bed(here))
        write_text(folder / REGIONS, steps.bed(sorted([*here, *random])))
        lines = [
            f"{region.contig}\t{s.position + 1}\t{s.name}\t{s.ref}\t{s.alt}\t.\t.\t.\n"
            for s in chosen
        ]
        header = VCF_HEADER.format(contig=region.contig, length=contig.length)
        (folder / SNPS).write_text(header + "".join(lines), encoding="utf-8")
    return {"promoters": len(here), "background places": len(random), "variants": len(chosen)}


def check_unseen(region: Interval, splits: Splits) -> None:
    """Refuse a region that is not wholly in the test part.

    Raises:
        UsageError: it is not; a demo on training data would flatter the model.
    """
    place = splits.of(region.contig, region.start, region.end)
    if place is None or place[0] != "test":
        test = ", ".join(map(str, splits.test))
        raise UsageError(f"{region} is not in the test part of split {splits.name} ({test})")


def main(
    fasta: Annotated[Path, typer.Option(help="Genome with the region's contig.")],
    bed: Annotated[Path, typer.Option(help="EPDnew promoters: BED, one base each, with strand.")],
    variants: Annotated[Path, typer.Option(help="SNPs with rsIDs, VCF.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    region: Annotated[str, typer.Option(help="What stays sequence.")] = REGION,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Further TSS (BED or table) that background places stay away from."),
    ] = None,
    splits: Annotated[str, typer.Option(help="Split whose test part holds the region.")] = (
        "available"
    ),
    broken: Annotated[
        str | None, typer.Option(help="Factor of which a site is broken, with the two below.")
    ] = None,
    chromatin: Annotated[Path | None, typer.Option(help="Chromatin dataset.")] = None,
    motifs: Annotated[Path | None, typer.Option(help="Matrices (JASPAR).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the background places.")] = 0,
    force: steps.Force = False,
) -> None:
    """Cut the demo region with its promoters, background places and SNPs."""
    refuse_existing(output, force, KIND)
    place = parse_region(region)
    check_unseen(place, manifest.load_splits(splits))
    tss = list(read_bed(steps.require(bed)))
    others = backgrounds.read_all(exclude or [])
    snps = read_snps(variants, place)
    made_up = []
    if broken is not None:
        if chromatin is None or motifs is None:
            raise UsageError("--broken needs --chromatin and --motifs")
        dataset = ChromatinDataset(chromatin)
        matrix = best_of_each(read_motifs(motifs))[broken.upper()]
        features = columns(dataset.features["name"].tolist(), target=broken)
        made_up = [broken_site(dataset, broken, matrix, features, inner(place))]
    with grch37.locate([fasta], [place.contig]) as contigs:
        counts = build(
            contigs[place.contig], place, tss, snps, others, output, seed, force, made_up
        )
    for what, count in counts.items():
        logger.info("%s: %d", what, count)


if __name__ == "__main__":
    steps.run(main)
