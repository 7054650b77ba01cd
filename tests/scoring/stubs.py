"""A genome of short contigs, a VCF of many records on it, and effects that cost no model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genobird.genome.variant import Variant
from genobird.scoring import variants
from genobird.scoring.scorer import Floats, Scorer
from tests.conftest import random_dna, write_fasta

SHORT_CONTIGS = {f"c{number}": random_dna(240, seed=100 + number) for number in range(4)}
HEADER = [
    "##fileformat=VCFv4.2",
    *(f"##contig=<ID={name},length={len(bases)}>" for name, bases in SHORT_CONTIGS.items()),
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="Count">',
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
]


def short_genome(folder: Path) -> Path:
    """A FASTA file; no window on it is longer than its contigs."""
    return write_fasta(folder / "short.fa", SHORT_CONTIGS)


def records(count: int) -> list[str]:
    """Sorted records of each status: SNVs, symbolic ones, wrong REF, without ALT, two ALTs."""
    lines = []
    for number in range(count):
        contig = f"c{number * len(SHORT_CONTIGS) // max(1, count)}"
        place = number * 7 % 200 if count > 800 else number * 200 // max(1, count)
        ref = SHORT_CONTIGS[contig][20 + place]
        alt = "ACGT"[("ACGT".index(ref) + 1 + number % 3) % 4]
        kind = number % 9
        ref, alt = {2: (ref, "*"), 4: (alt, ref), 6: (ref, "."), 7: (ref, f"{alt},<DEL>")}.get(
            kind, (ref, alt)
        )
        lines.append(f"{contig}\t{21 + place}\trs{number}\t{ref}\t{alt}\t9.50\tPASS\tAC=7")
    return lines


def write_vcf(path: Path, lines: Sequence[str]) -> Path:
    """The lines with a header."""
    path.write_text("".join(f"{line}\n" for line in [*HEADER, *lines]))
    return path


class Effects:
    """Numbers that depend on variant and feature alone; `asked` counts the variants."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(
        self, scorer: Scorer, asked: Sequence[Variant], genome: Any, chosen: Sequence[int]
    ) -> tuple[list[str], Floats]:
        self.asked += len(asked)
        names = ["promoter", "llr", *(scorer.features[place] for place in chosen)]
        seeds = [zlib.crc32(f"{variant} {name}".encode()) for variant in asked for name in names]
        values = np.array(seeds, np.float64).reshape(len(asked), len(names), 1) / 2**32
        return names, np.concatenate([values, values * values], axis=2).astype(np.float32)


def stub_effects(monkeypatch: pytest.MonkeyPatch) -> Effects:
    """Put `Effects` in the place of the model."""
    effects = Effects()
    monkeypatch.setattr(variants, "effects", effects)
    return effects
