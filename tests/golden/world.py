"""What the recorded commands read: two short contigs, a random model, some data of each kind.

Numbers come from numpy's Philox generator, which draws the same ones on every machine. Contigs are
short, so that windows of 16 kb are cheap; `long.fa` is for what needs places to choose from.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import torch

from genobird import shards
from genobird.cli import main
from genobird.corpus import CorpusSettings, build
from genobird.demo import GENOME, REGIONS, VARIANTS, bundled
from genobird.genome.fasta import Genome
from genobird.tokenizer import Tokenizer
from tests.conftest import random_dna, write_fasta
from tests.models import tiny_checkpoint

CONTIGS = {"chr1": random_dna(1_500, seed=51), "chr2": random_dna(900, seed=52)}
LONG = {"chr1": random_dna(30_000, seed=53), "chr2": random_dna(15_000, seed=54)}
OTHER = {"chr3": random_dna(6_000, seed=57)}
CORPUS = CorpusSettings(passes=1, start_max=500, sentences=(4, 9), sentence_bp=(90, 110))
HEADER = """##fileformat=VCFv4.2
##contig=<ID=chr1,length=1500>
##contig=<ID=chr2,length=900>
##FILTER=<ID=q10,Description="Low">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=AC,Number=A,Type=Integer,Description="Count">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
"""
CHAIN = """chain 100 chr1 1500 + 0 1500 chr1 1500 + 0 1500 1
1500

chain 90 old2 800 + 0 800 chr2 900 + 100 900 2
800
"""


def make_world(folder: Path, tokenizer: Tokenizer) -> None:
    """Write everything into a folder."""
    for name, contigs in (("genome", CONTIGS), ("long", LONG), ("other", OTHER)):
        with Genome(write_fasta(folder / f"{name}.fa", contigs)):
            pass
    _model(folder, tokenizer)
    _regions(folder)
    _variants(folder)
    _demo(folder)
    for name, documents in (("long", "corpus"), ("other", "held")):
        corpus = build([folder / f"{name}.fa"], folder / documents, CORPUS)
        shards.write(corpus.path, tokenizer, folder / f"{documents}.shards")
    _promoters(folder / "promoters.parquet")
    _chromatin(folder / "chromatin")
    peaks = (f"chr1\t{at}\t{at + 200}\tp{at}\n" for at in range(0, 30_000, 800))
    (folder / "peaks.bed").write_text("".join(peaks))
    rows = [
        f"chr1\t{at}\t{at + 150}\t{'+-.'[at // 500 % 3]}\t{at % 7 / 2}\t{at % 11 or ''}\t"
        f"{('train', 'train', 'validation', 'test')[at // 500 % 4]}\n"
        for at in range(500, 29_000, 500)
    ]
    head = "chrom\tstart\tend\tstrand\theight\twidth\tsplit\n"
    (folder / "table.tsv").write_text(head + "".join(rows))
    words = ["background", "build", str(folder / "calls.vcf"), "-f", str(folder / "genome.fa")]
    words += ["-m", str(folder / "model"), "--device", "cpu", "-q"]
    assert main([*words, "-o", str(folder / "background.npz")]) == 0


def _model(folder: Path, tokenizer: Tokenizer) -> None:
    # Without a tower: in front of its batch norms a bias has no gradient but rounding, which Adam
    # makes as large as any.
    made = tiny_checkpoint(tokenizer, stem="none")
    rng = np.random.Generator(np.random.Philox(55))
    with torch.no_grad():
        for module in made.modules().values():
            for name, parameter in sorted(module.named_parameters()):
                values = rng.standard_normal(tuple(parameter.shape))
                values = 0.3 * values if parameter.dim() > 1 else 0.1 * values
                parameter.copy_(torch.from_numpy(values + name.endswith("norm.weight")))
    made.save(folder / "model")
    tokenizer.save(folder / "tokenizer.model")


def _regions(folder: Path) -> None:
    rows = ["chr1\t700\t900\tmiddle\t0\t+", "chr1\t700\t900\tturned\t0\t-", "chr2\t100\t101\tbase"]
    (folder / "regions.bed").write_text("\n".join(rows) + "\n")
    rows += ["chr1\t2000\t2100\tbeyond", "chr9\t1\t2\tnowhere"]
    (folder / "odd.bed").write_text("\n".join(rows) + "\n")
    sequences = {"one": CONTIGS["chr1"][:800], "two": CONTIGS["chr2"][:501].lower()}
    write_fasta(folder / "regions.fa", sequences)
    (folder / "old.bed").write_text("old2\t300\t500\tlifted\t0\t+\n")
    (folder / "old.chain").write_text(CHAIN)


def _variants(folder: Path) -> None:
    def base(contig: str, position: int, length: int = 1) -> str:
        return CONTIGS[contig][position - 1 : position - 1 + length]

    def other(contig: str, position: int, step: int = 1) -> str:
        return "ACGT"[("ACGT".index(base(contig, position)) + step) % 4]

    rows = [
        ("chr1", 300, "rs1", base("chr1", 300), other("chr1", 300), "0|1"),
        ("chr1", 310, "two", base("chr1", 310), f"{other('chr1', 310)},{other('chr1', 310, 2)}",
         "1|2"),
        ("chr1", 320, "deletion", base("chr1", 320, 3), base("chr1", 320), "0|1"),
        ("chr1", 700, "insertion", base("chr1", 700), f"{base('chr1', 700)}ACG", "1|0"),
        ("chr1", 900, "symbolic", base("chr1", 900), "<DEL>", "0|1"),
        ("chr1", 950, "mismatch", other("chr1", 950), base("chr1", 950), "0|0"),
        ("chr1", 990, "star", base("chr1", 990), f"*,{other('chr1', 990)}", "0/1"),
        ("chr2", 400, ".", base("chr2", 400), other("chr2", 400), "1|1"),
        ("chr2", 410, "none", base("chr2", 410), ".", "0|0"),
    ]  # fmt: skip
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
    lines = [f"{columns}\tFORMAT\tme\n"]
    lines += [
        "\t".join([contig, str(at), name, ref, alt, "29.50", "PASS", "AC=1", "GT", call]) + "\n"
        for contig, at, name, ref, alt, call in rows
    ]
    (folder / "calls.vcf").write_text(HEADER + "".join(lines))
    with (
        pysam.VariantFile(str(folder / "calls.vcf")) as source,
        pysam.VariantFile(str(folder / "calls.bcf"), "wb", header=source.header) as made,
    ):
        for record in source:
            made.write(record)
    table = pd.DataFrame(rows, columns=["chrom", "pos", "id", "ref", "alt", "call"])
    table[["chrom", "pos", "ref", "alt"]].iloc[:4].to_csv(
        folder / "calls.tsv", sep="\t", index=False
    )
    at, ref, alt = 300, base("chr2", 400), other("chr2", 400)
    old = f"##fileformat=VCFv4.2\n{columns}\nold2\t{at}\tmoved\t{ref}\t{alt}\t.\t.\t.\n"
    (folder / "old.vcf").write_text(old)


def _demo(folder: Path) -> None:
    (folder / "demo").mkdir()
    for name in (GENOME, f"{GENOME}.fai", f"{GENOME}.gzi"):
        shutil.copy(bundled(name), folder / "demo" / name)
    for name, count in ((REGIONS, 2), (VARIANTS, 5)):
        lines = bundled(name).read_text().splitlines(keepends=True)[:count]
        (folder / "demo" / name).write_text("".join(lines))


def _promoters(path: Path) -> None:
    numbers = np.arange(12)
    table = pd.DataFrame(
        {
            "chrom": "chr1",
            "start": numbers * 10_000,
            "end": numbers * 10_000 + 8000,
            "strand": "+",
            "name": [f"window{i}" for i in numbers],
            "label": numbers % 2,
            "split": ["train"] * 4 + ["validation"] * 2 + ["test"] * 6,
            "group": [f"chr1:{i}" for i in numbers],
            "sequence": [random_dna(8000, seed=100 + i) for i in numbers],
        }
    )
    table.to_parquet(path)


def _chromatin(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.Generator(np.random.Philox(56))
    for name, bases in LONG.items():
        labels = rng.integers(0, 2, size=(len(bases) // 200, 3)).astype(np.uint8)
        np.save(folder / f"{name}.sequence.npy", np.frombuffer(bases.encode(), np.uint8))
        np.save(folder / f"{name}.labels.npy", np.packbits(labels, axis=1, bitorder="little"))
        np.save(folder / f"{name}.usable.npy", np.ones(len(labels), np.uint8))
    shutil.copy(folder.parent / "model" / "features.tsv", folder)
    splits = {
        "train": [["chr1", 0, 20_000]],
        "validation": [["chr1", 20_000, 30_000]],
        "test": [["chr2", 0, 15_000]],
    }
    facts = {"bin_bp": 200, "splits": splits, "split": "golden", "bins": {"train": 100},
             "positives": {"train": [40] * 3}, "sources": {}}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(facts))
