"""Variants a second, beside a naive loop and a convolutional network.

    python -m tests.benchmarks.bench_variants sites.vcf.gz chr20.fa.gz --threads 2
    python -m tests.benchmarks.bench_variants sites.vcf.gz chr20.fa.gz --seconds 40  # 4-5 minutes

With `--seconds` each way stops when its time is over; the table says how many ALTs it did, and the
last column is extrapolated to all sites. It is Markdown, as in the documentation.

All ways read the same alleles of the same VCF. The naive loop runs the same model on one variant,
one allele and one strand at a time, every layer in full. DeepSEA's network (random weights, 919
outputs) sees 1,000 bp of each allele and strand in batches, as it was made to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from genobird.baselines.network import DeepSEA
from genobird.batch import add_specials, pack
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, left_align, windows
from genobird.genome.vcf import VcfReader
from genobird.heads import Head
from genobird.places import pack_places
from genobird.scoring.alleles import Allele, alleles_of
from genobird.scoring.effects import LLR_FLANK, screen
from genobird.scoring.likelihood import draw_cuts
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.table import in_chunks
from genobird.scoring.windows import CHROMATIN_FLANK, PROMOTER_AFTER, PROMOTER_BEFORE
from genobird.tokenizer import MASK
from tests.benchmarks.timing import cpu_name

GRID, BATCH = 128, 64
HEAD = ("way", "ALTs timed", "ALTs a second", "of CPU time", "times naive", "of CPU time", "all")
Run = Callable[[Sequence[Allele], Genome], None]


@dataclass(frozen=True)
class Way:
    """A way to score ALTs, so many at a time."""

    run: Run
    step: int


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def row(*cells: object) -> None:
    say(f"| {' | '.join(map(str, cells))} |")


def read(path: Path, count: int) -> list[Allele]:
    """The ALTs of the first sites, those that are spelled out: no way is timed on `<DEL>`."""
    alleles: list[Allele] = []
    with VcfReader(path) as reader:
        for record in reader:
            if record.number == count:
                break
            alleles += alleles_of(record)
    return [a for a in alleles if set(a.variant.ref + a.variant.alt) <= set("ACGT")]


def ours(scorer: Scorer, settings: EffectSettings) -> Way:
    def run(alleles: Sequence[Allele], genome: Genome) -> None:
        screen(scorer, alleles, genome, settings=settings)

    return Way(run, scorer.chunk)


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
        head(parts.encoder(asked.batch), asked).cpu()

    def mask(text: str, place: int) -> None:
        if parts.mlm is None:
            return
        encoding = parts.tokenizer.encode(text)
        batch = pack([add_specials(encoding.ids)], size).to(scorer.device)
        number = 1 + int(np.searchsorted(encoding.spans[:, 1], place, side="right"))
        token = torch.tensor([number], device=scorer.device)
        batch = batch.with_ids(batch.ids.index_fill(0, token, MASK))
        around = batch.around(token, parts.mlm.reach)
        logits = parts.mlm(parts.encoder(batch)[token], parts.encoder.embedding.weight, around)
        logits.log_softmax(-1).cpu()

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

    return Way(run, 1)


def of_alleles(variant: Variant, genome: Genome, before: int, after: int) -> list[tuple[str, int]]:
    """The windows of both alleles on both strands."""
    alleles = windows(variant, genome, before, after)
    return [stranded for allele in alleles for stranded in both_strands(*allele)]


def convolutional(device: torch.device) -> Way:
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
            letters = np.stack([np.frombuffer(text.encode(), np.uint8) for text in texts])
            bases = one_hot[torch.from_numpy(codes[letters]).long()].transpose(1, 2)
            network.place(bases.to(device)).cpu()

    return Way(run, BATCH)


def timed(
    way: Way, alleles: Sequence[Allele], genome: Genome, most: float | None
) -> tuple[int, float, float]:
    """How many ALTs were scored until the time was over; wall and CPU seconds."""
    way.run(alleles[:1], genome)
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    for part in in_chunks(alleles, way.step):
        way.run(part, genome)
        done += len(part)
        if most is not None and time.perf_counter() - wall >= most:
            break
    return done, time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vcf", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--sites", type=int, default=1_000, help="the first so many of the file")
    parser.add_argument("--seconds", type=float, default=None, help="most for each way")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", default="naive,two windows,float32,grid,bf16,bf16 grid,DeepSEA")
    asked = parser.parse_args(arguments)
    exact, coarse = (
        load(asked.model, asked.device, threads=asked.threads, precision=precision)
        for precision in ("float32", "bf16")
    )
    grid = EffectSettings(grid=GRID)
    ways: dict[str, Way] = {
        "naive": naive(exact),
        "float32": ours(exact, DEFAULT),
        "two windows": ours(exact, EffectSettings(one_window=False)),
        "grid": ours(exact, grid),
        "bf16": ours(coarse, DEFAULT),
        "bf16 grid": ours(coarse, grid),
        "DeepSEA": convolutional(exact.device),
    }
    alleles = read(asked.vcf, asked.sites)
    say(
        f"Model `{exact.model_hash}`, the first {asked.sites:,} sites of {asked.vcf.name} "
        f"({len(alleles):,} ALTs), {exact.device}, {cpu_name()}, threads: {asked.threads}\n"
    )
    row(*HEAD[:-1], f"all {len(alleles):,} ALTs")
    say("|---" * len(HEAD) + "|")
    loop: list[float] = []
    with Genome(asked.fasta) as genome:
        for name in asked.ways.split(","):
            done, wall, cpu = timed(ways[name], alleles, genome, asked.seconds)
            rates = [done / wall, done / cpu]
            loop = rates if name == "naive" else loop
            ratios = [f"{rate / base:.1f}" for rate, base in zip(rates, loop or (), strict=False)]
            about = "" if done == len(alleles) else "about "
            whole = f"{about}{len(alleles) / rates[0] / 60:.1f} min"
            row(name, done, *(f"{rate:.3g}" for rate in rates), *(ratios or ["", ""]), whole)


if __name__ == "__main__":
    main()
