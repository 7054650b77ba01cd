"""Variants a second, beside a naive loop and a convolutional network.

    python -m tests.benchmarks.bench_variants sites.vcf.gz chr20.fa.gz --threads 2
    python -m tests.benchmarks.bench_variants sites.vcf.gz chr20.fa.gz --sites 32  # 4-5 minutes

All ways read the same alleles of the same VCF, in turn: a chunk each, then the next chunk, so that
whatever else the machine does falls on all of them. The naive loop runs the same model on one
variant, one allele and one strand at a time, every layer in full; `--loop 60` lets it take 60 ALTs
drawn at random. DeepSEA's network (random weights, 919 outputs) sees 1,000 bp of each allele and
strand in batches, as it was made to.

The table is Markdown, as in the documentation. Behind the ratio of CPU times is the interval that
holds it for 95 of 100 draws of as many chunks (bootstrap); the last column is extrapolated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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

GRID, DRAWS = 128, 10_000
HEAD = ("way", "ALTs timed", "ALTs per second", "of CPU time", "times naive", "of CPU time", "all")
Way = Callable[[Sequence[Allele], Genome], None]
"""A way to score ALTs."""
Floats = NDArray[np.float64]


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

    return run


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

    return run


def timed(way: Way, alleles: Sequence[Allele], genome: Genome) -> tuple[int, float, float]:
    """Return how many ALTs were scored, wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    if alleles:
        way(alleles, genome)
    return len(alleles), time.perf_counter() - wall, time.process_time() - cpu


def ratio(way: Floats, loop: Floats) -> str:
    """Return how many times as many ALTs per CPU second, and its interval, of [chunks, 3] each."""
    drawn = np.random.default_rng(0).integers(len(way), size=(DRAWS, len(way)))
    sums = [np.stack([one.sum(0), *one[drawn].sum(1)]) for one in (way, loop)]
    with np.errstate(invalid="ignore"):  # a draw without an ALT of the loop
        rates, base = (one[:, 0] / one[:, 2] for one in sums)
    low, high = np.nanquantile(rates[1:] / base[1:], [0.025, 0.975])
    return f"{rates[0] / base[0]:.2f} ({low:.2f} to {high:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vcf", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--sites", type=int, default=1_000, help="the first so many of the file")
    parser.add_argument("--loop", type=int, default=None, help="ALTs that the naive loop takes")
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
    order = np.random.default_rng(0).permutation(len(alleles))
    drawn = {id(alleles[place]) for place in order[: asked.loop]}
    say(
        f"Model `{exact.model_hash}`, the first {asked.sites:,} sites of {asked.vcf.name} "
        f"({len(alleles):,} ALTs), {exact.device}, {cpu_name()}, threads: {asked.threads}\n"
    )
    row(*HEAD[:-1], f"all {len(alleles):,} ALTs")
    say("|---" * len(HEAD) + "|")
    times: dict[str, list[tuple[int, float, float]]] = {name: [] for name in asked.ways.split(",")}
    with Genome(asked.fasta) as genome:
        for name in times:
            ways[name](alleles[:1], genome)
        for part in in_chunks(alleles, exact.chunk):
            some = [allele for allele in part if id(allele) in drawn]
            for name, taken in times.items():
                taken.append(timed(ways[name], some if name == "naive" else part, genome))
    loop = np.array(times.get("naive", []))
    for name, taken in times.items():
        done, wall, cpu = np.sum(taken, axis=0)
        ratios = ["", ""]
        if len(loop):
            ratios = [f"{done / wall / (loop[:, 0].sum() / loop[:, 1].sum()):.2f}"]
            ratios.append(ratio(np.array(taken), loop))
        about = "" if done == len(alleles) else "about "
        whole = f"{about}{len(alleles) * wall / done / 60:.1f} min"
        row(name, int(done), f"{done / wall:.3g}", f"{done / cpu:.3g}", *ratios, whole)


if __name__ == "__main__":
    main()
