"""Motif matrices: what a factor binds, as counts of bases; and where a sequence matches them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genobird.errors import InputError, UsageError, quoted
from genobird.genome.streams import lines

_PSEUDOCOUNT = 0.5


@dataclass(frozen=True, eq=False)
class Motif:
    """A matrix.

    Attributes:
        identifier: such as `MA0139.2`.
        name: of the factor, or of several joined by `::`.
        counts: float64 [4, L], rows A C G T.
    """

    identifier: str
    name: str
    counts: NDArray[np.float64]

    @cached_property
    def odds(self) -> NDArray[np.float64]:
        """Log-odds in bits against equal bases, [4, L]."""
        smooth = self.counts + _PSEUDOCOUNT
        odds: NDArray[np.float64] = np.log2(smooth / smooth.sum(0) * 4)
        return odds

    @property
    def bits(self) -> float:
        """Information of the whole matrix."""
        share = self.counts + _PSEUDOCOUNT
        return float((share / share.sum(0) * self.odds).sum())

    @property
    def factors(self) -> set[str]:
        """Names of the factors, upper-case."""
        return set(self.name.upper().split("::"))

    def scan(self, codes: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score each place of sequences on both strands.

        Args:
            codes: [..., W] of `local.base_codes`; an unknown base scores as the worst one.

        Returns:
            Scores of matches that begin at each place, on the strand given and on the other,
            each [..., W - L + 1].
        """
        both = []
        for odds in (self.odds, self.odds[::-1, ::-1]):
            table = np.concatenate([odds, odds.min(0, keepdims=True)])  # [5, L]
            width = table.shape[1]
            room = codes.shape[-1] - width + 1
            both.append(sum(table[codes[..., i : i + room], i] for i in range(width)))
        return both[0], both[1]


def read_motifs(path: Path) -> list[Motif]:
    """Read matrices in JASPAR's format, plain or gzip: `>identifier name`, then four rows.

    Each row begins with its letter, or none does, and the rows are A C G T.

    Raises:
        UsageError: there is no such file.
        InputError: a matrix of other rows or without the same number of counts in each, no matrix,
            or a damaged file.
    """
    if not path.is_file():
        raise UsageError(f"there is no file of motifs {path}")
    blocks = re.split("^>", "\n".join(lines(path, InputError)), flags=re.MULTILINE)[1:]
    motifs = [_motif(block, path) for block in blocks]
    if not motifs:
        raise InputError(f"{path} holds no matrix; each begins with a line `>identifier name`")
    return motifs


def _motif(block: str, path: Path) -> Motif:
    head, *rest = block.splitlines() or [""]
    identifier, _, name = head.partition("\t") if "\t" in head else head.partition(" ")
    rows = [line.strip() for line in rest if line.strip()]
    letters = [row[0].upper() if row[0].isalpha() else "" for row in rows]
    texts = [
        row[len(letter) :].strip(" \t:|[]").replace(",", " ").split()
        for row, letter in zip(rows, letters, strict=True)
    ]
    lengths = {len(row) for row in texts}
    what = f"{path}: the matrix {quoted(identifier)}"
    if len(rows) != 4 or len(lengths) != 1 or lengths == {0}:
        raise InputError(
            f"{what} has {len(rows)} rows of {sorted(lengths)} counts; four rows A C G T of one "
            "length are needed"
        )
    if "".join(letters) not in ("", "ACGT"):
        raise InputError(
            f"{what} has the rows {', '.join(map(quoted, letters))}; A, C, G and T in this order "
            "are needed, or no letters"
        )
    try:
        counts = np.array(texts, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{what} holds no counts: {error}") from error
    return Motif(identifier, name.strip() or identifier, counts)


def best_of_each(motifs: Iterable[Motif]) -> dict[str, Motif]:
    """Return the most informative matrix of each factor that has one of its own, by its name."""
    found: dict[str, Motif] = {}
    for motif in sorted(motifs, key=lambda motif: motif.bits):
        if len(motif.factors) == 1:
            found[motif.name.upper()] = motif
    return found


def distinct(motifs: Sequence[Motif], wanted: set[str], count: int) -> list[Motif]:
    """Choose motifs to begin filters with: those of wanted factors first, then unlike ones.

    Args:
        motifs: to choose from.
        wanted: names of factors, upper-case.
        count: how many at most.
    """
    ordered = sorted(motifs, key=lambda motif: -motif.bits)
    first: dict[str, Motif] = {}
    for motif in ordered:
        if motif.factors & wanted:
            first.setdefault(motif.name.upper(), motif)
    chosen = list(first.values())
    families = {motif.name.upper()[:3] for motif in chosen}
    for motif in ordered:  # paralogs share the first letters of their names
        family = motif.name.upper()[:3]
        if family not in families:
            families.add(family)
            chosen.append(motif)
    return chosen[:count]
