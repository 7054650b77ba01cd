"""Variants a second, beside a naive loop and a convolutional network.

    python -m tests.benchmarks.bench_variants sites.vcf.gz chr20.fa.gz --records 30

All ways read the same alleles of the same VCF. The naive loop runs the same model on one variant,
one allele and one strand at a time, every layer in full. DeepSEA's network (random weights, 919
outputs) sees 1,000 bp of each allele and strand in batches, as it was made to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from genobird.baselines.published import DeepSEA
from genobird.batch import add_specials, pack
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, left_align, windows
from genobird.genome.vcf import VcfReader
from genobird.heads import Head
from genobird.places import pack_places
from genobird.scoring.alleles import Allele, alleles_of
from genobird.scoring.effects import LLR_FLANK
from genobird.scoring.likelihood import draw_cuts
from genobird.scoring.scorer import (
    CHROMATIN_FLANK,
    PROMOTER_AFTER,
    PROMOTER_BEFORE,
    Scorer,
    load,
)
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.variants import effect_table
from genobird.tokenizer import MASK
from tests.benchmarks.timing import cpu_name

GRID = 128
Way = Callable[[Sequence[Allele], Genome], None]


def line(*cells: object) -> None:
    sys.stdout.write("\t".join(map(str, cells)) + "\n")
    sys.stdout.flush()


def read(path: Path, count: int) -> list[Allele]:
    """The ALTs of the first records."""
    alleles: list[Allele] = []
    with VcfReader(path) as reader:
        for record in reader:
            if record.number == count:
                break
            alleles += alleles_of(record.number, record.variants())
    return alleles


def ours(scorer: Scorer, settings: EffectSettings) -> Way:
    def run(alleles: Sequence[Allele], genome: Genome) -> None:
        for first in range(0, len(alleles), scorer.chunk):
            effect_table(scorer, alleles[first : first + scorer.chunk], genome, settings=settings)

    return run


def both_strands(text: str, place: int) -> list[tuple[str, int]]:
    return [(text, place), (reverse_complement(text), len(text) - 1 - place)]


def naive(scorer: Scorer) -> Way:
    """One variant, one allele, one strand at a time."""
    parts = scorer.checkpoint
    size = parts.encoder.config.block_size
    cuts = [(0, 0), *draw_cuts(12, DEFAULT.segmentations - 1, 0)]

    def ask(head: Head | None, text: str, place: int) -> None:
        if head is None:
            return
        at = [np.array([place], dtype=np.int64)]
        asked = pack_places([text], at, parts.tokenizer, head.config, size).to(scorer.device)
        head(parts.encoder(asked.batch), asked.batch, asked.spans, asked.owner).cpu()

    def mask(text: str, place: int) -> None:
        if parts.mlm is None:
            return
        encoding = parts.tokenizer.encode(text)
        batch = pack([add_specials(encoding.ids)], size).to(scorer.device)
        token = 1 + int(np.searchsorted(encoding.spans[:, 1], place, side="right"))
        hidden = parts.encoder(batch.with_ids(batch.ids.clone().index_fill_(0, _at(token), MASK)))
        parts.mlm(hidden[token : token + 1], parts.encoder.embedding.weight).log_softmax(-1).cpu()

    def _at(token: int) -> torch.Tensor:
        return torch.tensor([token], device=scorer.device)

    def run(alleles: Sequence[Allele], genome: Genome) -> None:
        with torch.inference_mode():
            for allele in alleles:
                variant = left_align(allele.variant, genome)
                for head, before, after in (
                    (parts.promoter, PROMOTER_BEFORE, PROMOTER_AFTER),
                    (parts.chromatin, CHROMATIN_FLANK, CHROMATIN_FLANK),
                ):
                    for text, place in of_alleles(variant, genome, before, after):
                        ask(head, text, place)
                for text, place in of_alleles(variant, genome, LLR_FLANK, LLR_FLANK):
                    for _ in cuts:
                        mask(text, place)

    return run


def of_alleles(variant: Variant, genome: Genome, before: int, after: int) -> list[tuple[str, int]]:
    """The windows of both alleles on both strands."""
    pair = windows(variant, genome, before, after)
    alleles = ((pair.ref, pair.ref_anchor), (pair.alt, pair.alt_anchor))
    return [stranded for allele in alleles for stranded in both_strands(*allele)]


def convolutional(device: torch.device, batch: int = 64) -> Way:
    """DeepSEA's network: both alleles, both strands."""
    network = DeepSEA().eval().to(device)
    codes = np.full(256, 4, np.uint8)
    codes[np.frombuffer(b"ACGT", np.uint8)] = np.arange(4)
    one_hot = torch.cat([torch.eye(4), torch.zeros(1, 4)])

    def run(alleles: Sequence[Allele], genome: Genome) -> None:
        half = network.INPUT_BP // 2
        texts = [
            text
            for allele in alleles
            for text, _ in of_alleles(left_align(allele.variant, genome), genome, half, half)
        ]
        with torch.inference_mode():
            for first in range(0, len(texts), batch):
                part = [np.frombuffer(t.encode(), np.uint8) for t in texts[first : first + batch]]
                bases = one_hot[torch.from_numpy(codes[np.stack(part)]).long()].transpose(1, 2)
                network.place(bases.to(device)).cpu()

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vcf", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--records", type=int, default=1_000)
    parser.add_argument("--naive", type=int, default=None, help="ALTs of the naive loop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", default="naive,float32,grid,bf16,bf16 grid,DeepSEA")
    asked = parser.parse_args(arguments)
    exact, coarse = (
        load(asked.model, asked.device, threads=asked.threads, precision=precision)
        for precision in ("float32", "bf16")
    )
    grid = EffectSettings(grid=GRID)
    ways: dict[str, Way] = {
        "naive": naive(exact),
        "float32": ours(exact, DEFAULT),
        "grid": ours(exact, grid),
        "bf16": ours(coarse, DEFAULT),
        "bf16 grid": ours(coarse, grid),
        "DeepSEA": convolutional(exact.device),
    }
    alleles = read(asked.vcf, asked.records)
    line(f"{cpu_name()}, {asked.threads} threads, {exact.device}", f"model {exact.model_hash}")
    line("way", "ALTs", "wall_s", "cpu_s", "ALTs/wall_s", "ALTs/cpu_s", "wall ratio", "CPU ratio")
    loop: tuple[float, float] | None = None
    with Genome(asked.fasta) as genome:
        for name in asked.ways.split(","):
            part = alleles[: asked.naive] if name == "naive" else alleles
            ways[name](part[:1], genome)
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name](part, genome)
            seconds = time.perf_counter() - wall, time.process_time() - cpu
            rates = [len(part) / used for used in seconds]
            loop = (rates[0], rates[1]) if name == "naive" else loop
            ratios = [f"{rate / base:.2f}" for rate, base in zip(rates, loop or (), strict=False)]
            line(name, len(part), *(f"{x:.2f}" for x in seconds), *(f"{x:.3f}" for x in rates),
                 *ratios)  # fmt: skip


if __name__ == "__main__":
    main()
