"""A genome of short contigs, a VCF of many records on it, and scores that cost no model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird.columns import TOP, VARIANT_KEYS
from genobird.genome.locus import Locator
from genobird.genome.variant import Status
from genobird.scoring import scan
from genobird.scoring.alleles import Allele
from genobird.scoring.effects import leading
from genobird.scoring.scorer import Scorer
from genobird.scoring.settings import RefMismatch
from genobird.scoring.table import clean_text
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
        place = number * 200 // max(1, count)
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


class Screen:
    """Stands for `screen`: numbers that follow from variant and output; counts the ALTs scored."""

    def __init__(self) -> None:
        self.scored = 0

    def __call__(
        self,
        scorer: Scorer,
        alleles: Sequence[Allele],
        locator: Locator,
        policy: RefMismatch,
        features: Sequence[str] | None,
        *_: object,
    ) -> pd.DataFrame:
        names = ["promoter", "llr", *(scorer.features[p] for p in scorer.select_features(features))]
        loci = [locator.find(allele.variant) for allele in alleles]
        scored = [
            locus.status is Status.OK or (policy is RefMismatch.SWAP and locator.is_swapped(locus))
            for locus in loci
        ]
        self.scored += sum(scored)
        table: dict[str, object] = {
            "chrom": [clean_text(allele.variant.contig) for allele in alleles],
            "pos": np.array([allele.variant.position + 1 for allele in alleles], np.int64),
            "ref": [clean_text(allele.variant.ref) for allele in alleles],
            "alt": [clean_text(allele.variant.alt) for allele in alleles],
            "id": [clean_text(allele.id) for allele in alleles],
            "record": np.array([allele.record for allele in alleles], np.int64),
            "allele": np.array([allele.allele for allele in alleles], np.int64),
            "status": [locus.status.value for locus in loci],
            "flags": [""] * len(loci),
        }
        for name in names:
            texts = (
                f"{allele.variant} {name}".encode("utf-8", "surrogateescape") for allele in alleles
            )
            values = np.array([zlib.crc32(text) for text in texts], np.float32) / 2**32
            values[~np.array(scored, bool)] = np.nan
            table |= {f"{name}|ref": values, f"{name}|alt": values**2}
            table[f"{name}|delta"] = values**2 - values
        frame = pd.DataFrame(table)
        if names[2:]:
            frame.insert(len(VARIANT_KEYS), TOP, leading(frame, names[2:], scorer.background))
        return frame


def stub_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Put `Screen` in the place of the model."""
    screen = Screen()
    monkeypatch.setattr(scan, "screen", screen)
    return screen
