"""How far scores of variants move with what should not matter; not collected by pytest.

Window offset, segmentation and bfloat16 are changed, and the movement of the effects (ALT - REF) is
set against their size. A line of the table is a root mean square over variants and features.

python tests/benchmarks/bench_scores.py sites.vcf.gz chr20.fa.gz --records 10
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genobird.genome.fasta import Genome
from genobird.genome.variant import Status, Variant, check, left_align, windows
from genobird.genome.vcf import VcfReader
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import CHROMATIN_FLANK, Scorer, load
from genobird.scoring.settings import SHIFT_BP, EffectSettings

FLANK = 2_000
OFFSETS, SEGMENTATIONS = 8, 8
Doubles = NDArray[np.float64]


def line(*cells: object) -> None:
    sys.stdout.write("\t".join(map(str, cells)) + "\n")
    sys.stdout.flush()


def rms(values: Doubles) -> float:
    return float(np.sqrt(np.mean(values**2)))


def spread(path: Path, genome: Genome, count: int) -> list[Variant]:
    """Variants at even distances in a VCF."""
    with VcfReader(path) as reader:
        found = [
            left_align(variant, genome)
            for record in reader
            for variant in record.variants()[:1]
            if check(variant, genome) is Status.OK
        ]
    return found[:: max(1, len(found) // count)][:count]


def at_offsets(scorer: Scorer, variant: Variant, genome: Genome, offsets: Sequence[int]) -> Doubles:
    """Effects on all features with the window shifted, [offsets, F]."""
    texts, places = [], []
    for offset in offsets:
        pair = windows(variant, genome, CHROMATIN_FLANK + offset, CHROMATIN_FLANK - offset)
        texts += [pair.ref, pair.alt]
        places += [pair.ref_anchor, pair.alt_anchor]
    logits = scorer.chromatin_logits(texts, places).astype(np.float64)
    return logits[1::2] - logits[::2]


def report_offsets(deltas: Doubles) -> None:
    """Deltas [n, offsets, F]: means over K windows, and over K others, differ by so much."""
    size = rms(deltas.mean(axis=1))
    for count in (1, 2, 4):
        groups = deltas[:, : deltas.shape[1] // (2 * count) * 2 * count]
        means = groups.reshape(len(deltas), -1, count, deltas.shape[2]).mean(axis=2)
        pairs = means[:, ::2] - means[:, 1::2]
        error = rms(pairs) / np.sqrt(2)
        agree = np.corrcoef(means[:, ::2].ravel(), means[:, 1::2].ravel())[0, 1]
        line("offset", f"mean of {count}", f"{size:.4f}", f"{error:.4f}", f"{error / size:.3f}",
             f"{agree:.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vcf", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--records", type=int, default=10)
    parser.add_argument("--parts", default="offset,segmentation,bf16")
    arguments = parser.parse_args()
    scorer = load(arguments.model, device="cpu")
    exact = EffectSettings(shifts=OFFSETS)
    with Genome(arguments.fasta) as genome:
        variants = spread(arguments.vcf, genome, arguments.records)
        line("model", scorer.model_hash, f"{len(variants)} variants, offsets {SHIFT_BP} bp apart")
        line("what", "of", "size", "movement", "movement/size", "correlation")
        if "offset" in arguments.parts:
            offsets = exact.offsets(0)
            report_offsets(
                np.stack([at_offsets(scorer, variant, genome, offsets) for variant in variants])
            )
        if "bf16" in arguments.parts:
            coarse = load(arguments.model, device="cpu", precision="bf16")
            fine, rough = (
                np.stack([at_offsets(one, variant, genome, [0])[0] for variant in variants])
                for one in (scorer, coarse)
            )
            error, size = rms(rough - fine), rms(fine)
            agree = np.corrcoef(rough.ravel(), fine.ravel())[0, 1]
            line("precision", "bf16", f"{size:.4f}", f"{error:.4f}", f"{error / size:.3f}",
                 f"{agree:.4f}")  # fmt: skip
        if "segmentation" in arguments.parts:
            report_segmentations(scorer, variants, genome)


def report_segmentations(scorer: Scorer, variants: Sequence[Variant], genome: Genome) -> None:
    """Masked-LM log-likelihood ratios: their size and their standard error over K segmentations."""
    pairs = []
    for variant in variants:
        window = windows(variant, genome, FLANK, FLANK)
        spans = [
            (anchor, anchor + len(allele))
            for anchor, allele in (
                (window.ref_anchor, variant.ref),
                (window.alt_anchor, variant.alt),
            )
        ]
        pairs.append(AllelePair(window.ref, window.alt, *spans))
    likelihoods, errors = log_likelihoods(scorer, pairs, SEGMENTATIONS)
    size = rms((likelihoods[:, 1] - likelihoods[:, 0]).astype(np.float64))
    for count in (1, 2, 4, SEGMENTATIONS):
        error = rms(errors.astype(np.float64)) * np.sqrt(SEGMENTATIONS / count)
        line("segmentation", f"mean of {count}", f"{size:.4f}", f"{error:.4f}",
             f"{error / size:.3f}", "")  # fmt: skip


if __name__ == "__main__":
    main()
