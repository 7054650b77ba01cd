"""The human assemblies: contig lengths, RefSeq accessions, and the many names of one contig."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MITOCHONDRION: Final = "MT"
CHROMOSOMES: Final = (*(str(number) for number in range(1, 23)), "X", "Y", MITOCHONDRION)
"""Names without prefix, as in GRCh37 files of Ensembl and the 1000 Genomes Project."""

_LENGTHS = {
    "GRCh37": (
        *(249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022),
        *(141213431, 135534747, 135006516, 133851895, 115169878, 107349540, 102531392, 90354753),
        *(81195210, 78077248, 59128983, 63025520, 48129895, 51304566, 155270560, 59373566),
    ),
    "GRCh38": (
        *(248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636),
        *(138394717, 133797422, 135086622, 133275309, 114364328, 107043718, 101991189, 90338345),
        *(83257441, 80373285, 58617616, 64444167, 46709983, 50818468, 156040895, 57227415),
    ),
    "T2T-CHM13": (
        *(248387328, 242696752, 201105948, 193574945, 182045439, 172126628, 160567428, 146259331),
        *(150617247, 134758134, 135127769, 133324548, 113566686, 101161492, 99753195, 96330374),
        *(84276897, 80542538, 61707364, 66210255, 45090682, 51324926, 154259566, 62460029),
    ),
}

# Version of NC_0000xx in GRCh37, chromosomes 1-22, X, Y; GRCh38 raised each of them by one.
_GRCH37_VERSIONS = (
    *(10, 11, 11, 11, 9, 11, 13, 10, 11, 10, 9, 11, 10, 8, 9, 9, 10, 9, 9, 10, 8, 10, 10, 9),
)


def _accessions() -> dict[str, tuple[str, str | None]]:
    table: dict[str, tuple[str, str | None]] = {
        "NC_012920.1": (MITOCHONDRION, None),
        "NC_001807.4": (MITOCHONDRION, None),
    }
    for number, (name, version) in enumerate(
        zip(CHROMOSOMES, _GRCH37_VERSIONS, strict=False), start=1
    ):
        table[f"NC_{number:06d}.{version}"] = (name, "GRCh37")
        table[f"NC_{number:06d}.{version + 1}"] = (name, "GRCh38")
        table[f"NC_{60924 + number:06d}.1"] = (name, "T2T-CHM13")
    return table


_ACCESSIONS: Final = _accessions()
_PREFIXED = re.compile(r"(?:chr)?(\d{1,2}|X|Y|M|MT)", re.IGNORECASE)

MITOCHONDRIA: Final = {16_569: "rCRS, NC_012920", 16_571: "NC_001807"}
"""The two mitochondrial references by their length in bp. hg19 as UCSC published it has NC_001807,
GRCh37 and GRCh38 have the rCRS."""

MITOCHONDRION_NAMES: Final = frozenset(("chrM", "M", "MT", "chrMT", "NC_012920.1", "NC_001807.4"))

_PROMISED_MITOCHONDRION = {"NC_012920.1": 16_569, "NC_001807.4": 16_571, "MT": 16_569}

_NAMES = {
    "GRCh37": ("grch37", "hg19", "b37", "hs37d5", "hs37", "g1k_v37", "g1kv37", "ncbi37"),
    "GRCh38": ("grch38", "hg38", "b38", "hs38dh", "hs38d1", "hs38", "ncbi38"),
    "T2T-CHM13": ("t2t", "chm13", "chm13v2", "hs1"),
}
_ASSEMBLY_OF = {name: assembly for assembly, names in _NAMES.items() for name in names}
_LONGEST_FIRST = "|".join(sorted(_ASSEMBLY_OF, key=len, reverse=True))
_NAME = re.compile(rf"(?:(?<![a-z0-9])|(?<=human))({_LONGEST_FIRST})(?![a-z0-9])")


def chromosome(name: str) -> tuple[str, str | None] | None:
    """Read a contig name as a human chromosome.

    `20`, `chr20` and `NC_000020.10` are all chromosome 20; `M`, `MT` and `chrM` are MT.

    Returns:
        The chromosome of `CHROMOSOMES` and, for an accession, the assembly that it belongs to
        (None where the name does not say); None for any other contig.
    """
    if name in _ACCESSIONS:
        return _ACCESSIONS[name]
    match = _PREFIXED.fullmatch(name)
    if match is None:
        return None
    plain = match[1].upper()
    plain = MITOCHONDRION if plain == "M" else plain
    return (plain, None) if plain in CHROMOSOMES else None


def recognise(contigs: Mapping[str, int]) -> str | None:
    """Name the assembly whose chromosome lengths (bp) these contigs have.

    Contigs that are no chromosome, or have a length of their own, do not vote. None when no
    assembly, or more than one, gets a vote.
    """
    found = set()
    for name, length in contigs.items():
        known = chromosome(name)
        if known is None or known[0] == MITOCHONDRION:
            continue
        index = CHROMOSOMES.index(known[0])
        found |= {assembly for assembly, bp in _LENGTHS.items() if bp[index] == length}
    return found.pop() if len(found) == 1 else None


def named(text: str) -> str | None:
    """Name the assembly that a text speaks of: `hg19`, `b37`, `hs37d5.fa`, `GRCh38.p14`.

    None where it names none, or more than one.
    """
    found = {_ASSEMBLY_OF[match] for match in _NAME.findall(text.lower())}
    return found.pop() if len(found) == 1 else None


def fitting(ends: Mapping[str, int]) -> tuple[str, ...]:
    """Return the assemblies that are long enough for a position on each contig.

    Args:
        ends: the largest end (0-based, half-open) seen on each contig; contigs that are no
            chromosome are left aside.
    """
    known = [(chromosome(name), end) for name, end in ends.items()]
    places = [
        (CHROMOSOMES.index(found[0]), end)
        for found, end in known
        if found is not None and found[0] != MITOCHONDRION
    ]
    return tuple(
        assembly
        for assembly, bp in _LENGTHS.items()
        if places and all(end <= bp[index] for index, end in places)
    )


def names_in(contigs: Mapping[str, int]) -> dict[str, str]:
    """Map each chromosome that is among these contigs to its name there."""
    names: dict[str, str] = {}
    for name in contigs:
        known = chromosome(name)
        if known is not None:
            names.setdefault(known[0], name)
    return names


def mitochondrion_of(contigs: Mapping[str, int]) -> int | None:
    """Return the length in bp of the mitochondrial sequence when it is one of `MITOCHONDRIA`."""
    length = contigs.get(names_in(contigs).get(MITOCHONDRION, ""))
    return length if length in MITOCHONDRIA else None


def is_other_mitochondrion(name: str, length: int) -> bool:
    """Tell whether a name means another mitochondrial sequence than one of this length in bp.

    `MT` and `NC_012920.1` are the rCRS, `NC_001807.4` the chrM of hg19; `chrM` may be either.
    """
    promised = _PROMISED_MITOCHONDRION.get(name)
    return promised is not None and length in MITOCHONDRIA and length != promised
