"""How far scores of variants move with what should not matter.

    python -m tests.benchmarks.bench_scores sites.vcf.gz chr20.fa.gz --records 8

Window offset, segmentation and bfloat16 are changed, and the movement of the effects (ALT - REF) is
set against their size: root mean squares over variants and features. So is a genome that ends near
the variant. Then passes of other sizes, another order, two threads and the dense reference of
attention are tried; for these the table has the largest difference of any score. What is printed
are the tables of docs/scores.md, in Markdown; `--parts offset` prints the first of them alone,
`--region` takes the variants of one stretch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, parse_region
from genobird.genome.variant import Status, Variant, check, left_align, windows
from genobird.genome.vcf import VcfReader
from genobird.scoring.effects import LLR_FLANK
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import SHIFT_BP, EffectSettings
from genobird.scoring.windows import CHROMATIN_FLANK
from tests.benchmarks.timing import cpu_name

OFFSETS, SEGMENTATIONS = 8, 8
EDGES = (3, 30, 100, 200, 300, 1_000, 4_000)
COMPARED = {
    "a logit": ("|ref", "|alt"), "an effect": "|delta", "a quantile": "|quantile",
    "an E-value": "evalue",
}  # fmt: skip
Doubles = NDArray[np.float64]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def row(*cells: object) -> None:
    say(f"| {' | '.join(map(str, cells))} |")


def head(*names: str) -> None:
    """Begin a table."""
    say("")
    row(*names)
    say("|---" * len(names) + "|")


def rms(values: Doubles) -> float:
    return float(np.sqrt(np.mean(values**2)))


def spread(path: Path, genome: Genome, count: int, region: Interval | None) -> list[Variant]:
    """Variants at even distances in a VCF, of a region alone if there is one."""

    def lies_in(variant: Variant, region: Interval) -> bool:
        is_there = genome.resolve(variant.contig) == genome.resolve(region.contig)
        return is_there and region.start <= variant.position < region.end

    with VcfReader(path) as reader:
        found = [
            left_align(variant, genome)
            for record in reader
            for variant in record.variants()[:1]
            if check(variant, genome) is Status.OK and (region is None or lies_in(variant, region))
        ]
    return found[:: max(1, len(found) // count)][:count]


def at_offsets(scorer: Scorer, variant: Variant, genome: Genome, offsets: Sequence[int]) -> Doubles:
    """Effects on all features with the window shifted, [offsets, F]."""
    texts, places = [], []
    for offset in offsets:
        pair = windows(variant, genome, CHROMATIN_FLANK + offset, CHROMATIN_FLANK - offset)
        texts += [window.text for window in pair]
        places += [window.place for window in pair]
    logits = scorer.chromatin_logits(texts, places).astype(np.float64)
    return logits[1::2] - logits[::2]


def report_offsets(deltas: Doubles) -> None:
    """Deltas [n, offsets, F]: means over K windows, and over K others, differ by so much."""
    head("average of", "size of an effect", "its movement with the offset", "movement / size",
         "correlation with an average of as many others")  # fmt: skip
    size = rms(deltas.mean(axis=1))
    for count in (1, 2, 4):
        groups = deltas[:, : deltas.shape[1] // (2 * count) * 2 * count]
        means = groups.reshape(len(deltas), -1, count, deltas.shape[2]).mean(axis=2)
        pairs = means[:, ::2] - means[:, 1::2]
        error = rms(pairs) / np.sqrt(2)
        agree = np.corrcoef(means[:, ::2].ravel(), means[:, 1::2].ravel())[0, 1]
        name = "1 window (default)" if count == 1 else f"{count} windows"
        row(name, f"{size:.2g}", f"{error:.2g}", f"{error / size:.2f}", f"{agree:.2f}")


def report_segmentations(scorer: Scorer, variants: Sequence[Variant], genome: Genome) -> None:
    """Masked-LM log-likelihood ratios: their size and their standard error over K segmentations."""
    pairs = []
    for variant in variants:
        ref, alt = windows(variant, genome, LLR_FLANK, LLR_FLANK)
        spans = [
            (window.place, window.place + len(allele))
            for window, allele in ((ref, variant.ref), (alt, variant.alt))
        ]
        pairs.append(AllelePair(ref.text, alt.text, *spans))
    likelihoods, errors = log_likelihoods(scorer, pairs, SEGMENTATIONS)
    head("segmentations", "size of `GB_LLR`, nats", "its standard error", "error / size")
    size = rms((likelihoods[:, 1] - likelihoods[:, 0]).astype(np.float64))
    for count in (1, 2, 4, SEGMENTATIONS):
        error = rms(errors.astype(np.float64)) * np.sqrt(SEGMENTATIONS / count)
        row(count, f"{size:.2g}", f"{error:.2g}", f"{error / size:.2f}")


def report_precision(
    exact: Scorer, coarse: Scorer, variants: Sequence[Variant], genome: Genome
) -> None:
    """Effects in bfloat16 beside those in float32."""
    fine, rough = (
        np.stack([at_offsets(scorer, variant, genome, [0])[0] for variant in variants])
        for scorer in (exact, coarse)
    )
    error, size = rms(rough - fine), rms(fine)
    agree = np.corrcoef(rough.ravel(), fine.ravel())[0, 1]
    head("what changes", "promised", "measured")
    sizes = f"{error / size:.1%} of the size of an effect ({error:.1g} of {size:.2g}"
    row("`--precision bf16`", "none", f"{sizes}, root mean squares), correlation {agree:.4f}")


def report_edges(scorer: Scorer, variants: Sequence[Variant], genome: Genome) -> None:
    """Logits and effects where the genome ends near the variant, beside those in the middle."""
    pairs = [windows(variant, genome, CHROMATIN_FLANK, CHROMATIN_FLANK) for variant in variants]
    uncut = [ref for ref, _ in pairs] + [alt for _, alt in pairs]

    def logits_at(before: int, after: int) -> Doubles:  # [allele, n, F]
        texts = [text[max(0, at - before) : at + after] for text, at in uncut]
        logits = scorer.chromatin_logits(texts, [min(at, before) for _, at in uncut])
        return logits.astype(np.float64).reshape(2, len(pairs), -1)

    whole = logits_at(CHROMATIN_FLANK, CHROMATIN_FLANK)
    effects = whole[1] - whole[0]
    head("bases that are left", "of its window missing", "a logit moves by", "an effect moves by",
         "movement / size", "correlation of effects")  # fmt: skip
    cuts = [("before", bases, CHROMATIN_FLANK) for bases in EDGES]
    for side, before, after in [*cuts, *(("on each side", bases, bases) for bases in EDGES)]:
        found = logits_at(before, after)
        moved = found[1] - found[0]
        error = rms(moved - effects)
        known = min(before, CHROMATIN_FLANK) + min(after, CHROMATIN_FLANK)
        row(
            f"{before:,} {side}", f"{1 - known / (2 * CHROMATIN_FLANK):.0%}",
            f"{rms(found[0] - whole[0]):.2g}", f"{error:.2g}", f"{error / rms(effects):.2f}",
            f"{np.corrcoef(moved.ravel(), effects.ravel())[0, 1]:.3f}",
        )  # fmt: skip


def report_equality(
    scorer: Scorer, variants: Sequence[Variant], genome: Genome, parts: str
) -> None:
    """Chromatin scores that ought to be equal: the largest difference between them.

    The dense reference takes most of the time, so it is a part of its own.
    """
    checkpoint = replace(scorer.checkpoint, promoter=None, mlm=None)

    def table(order: int = 1, most: int | Literal["auto"] = "auto") -> pd.DataFrame:
        other = Scorer(checkpoint, device=str(scorer.device), batch_size=most)
        other.background = scorer.background
        rows = other.screen_variants(variants[::order], genome)[::order]
        return rows.select_dtypes("floating")

    expected = table()
    head("what changes", *(f"largest difference of {what}" for what in COMPARED))

    def compare(what: str, found: pd.DataFrame) -> None:
        differences = np.abs(found.to_numpy() - expected.to_numpy()).max(axis=0)
        largest = pd.Series(differences, found.columns)
        ends = [largest[largest.index.str.endswith(end)] for end in COMPARED.values()]
        row(what, *(f"{end.max():.2g}" if len(end) else "-" for end in ends))

    if "equality" in parts:
        compare("reversed order", table(order=-1))
        for most in (1, 8, 32):
            compare(f"{most} sequences per pass", table(most=most))
        threads = torch.get_num_threads()
        torch.set_num_threads(3 - min(2, threads))
        compare(f"{torch.get_num_threads()} threads instead of {threads}", table())
        torch.set_num_threads(threads)
    if "reference" in parts:
        encoder = checkpoint.encoder
        reference = partial(encoder.forward, backend="reference")
        encoder.forward = reference  # type: ignore[method-assign]
        compare("dense reference", table())
        del encoder.forward


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vcf", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--records", type=int, default=10)
    parser.add_argument("--region", type=parse_region, help="chr20:54,000,001-58,000,000")
    parser.add_argument("--parts", default="offset,segmentation,precision,edges,equality,reference")
    asked = parser.parse_args(arguments)
    scorer = load(asked.model, asked.device)
    with Genome(asked.fasta) as genome:
        variants = spread(asked.vcf, genome, asked.records, asked.region)
        say(
            f"Model `{scorer.model_hash}`, {len(variants)} variants of {asked.vcf.name}, "
            f"{len(scorer.features)} features, {OFFSETS} windows {SHIFT_BP} bp apart, {cpu_name()}"
        )
        if "offset" in asked.parts:
            offsets = EffectSettings(shifts=OFFSETS).offsets(0)
            report_offsets(
                np.stack([at_offsets(scorer, variant, genome, offsets) for variant in variants])
            )
        if "segmentation" in asked.parts:
            report_segmentations(scorer, variants, genome)
        if "precision" in asked.parts:
            coarse = load(asked.model, asked.device, precision="bf16")
            report_precision(scorer, coarse, variants, genome)
        if "edges" in asked.parts:
            report_edges(scorer, variants, genome)
        if {"equality", "reference"} & set(asked.parts.split(",")):
            report_equality(scorer, variants, genome, asked.parts)


if __name__ == "__main__":
    main()
