"""DNA as upper-case text over `ACGTN`: enters any FASTA spelling, leaves one alphabet."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genobird.errors import SequenceError

ALPHABET: Final = "ACGTN"
"""The letters of a normalised sequence."""

ILLEGAL: Final = b"\0"
"""What `NORMAL` makes of a byte that is no letter of DNA."""

_RUN_OF_N = re.compile("N+")
_AMBIGUOUS = "RYSWKMBDHVN"
_PAIRED = dict(zip("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN", strict=True))

NO_BASE: Final = 4
"""Code of N, of a masked base and of what lies beyond a sequence; A C G T are 0 to 3."""

_CODES = np.full(256, NO_BASE, dtype=np.uint8)
_CODES[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)
_COMPLEMENT = np.array([3, 2, 1, 0, NO_BASE], dtype=np.uint8)


def _byte_table(mapping: dict[str, str]) -> bytes:
    table = bytearray(ILLEGAL * 256)
    for letter, image in mapping.items():
        table[ord(letter)] = ord(image)
    return bytes(table)


NORMAL: Final = _byte_table(
    {case(x): x for x in "ACGT" for case in (str.upper, str.lower)}
    | {case(x): "N" for x in _AMBIGUOUS for case in (str.upper, str.lower)}
)
"""Table for `bytes.translate`: upper-case, ambiguity codes to N, everything else to `ILLEGAL`."""

_REVERSED = _byte_table(
    _PAIRED | {letter.lower(): image.lower() for letter, image in _PAIRED.items()}
)


def normalise(text: str, where: str = "sequence") -> str:
    """Spell DNA with `ACGTN`: upper-case, and the IUPAC ambiguity codes become N.

    Args:
        text: Sequence in any case; U is not read as T.
        where: What the text is, for the error message.

    Raises:
        SequenceError: A letter is no IUPAC code of DNA; the message names it and its offset.
    """
    raw = text.encode("ascii", "replace")
    clean = raw.translate(NORMAL)
    offset = clean.find(ILLEGAL)
    if offset >= 0:
        raise SequenceError(_unknown_letter(text[offset], f"offset {offset:,} of {where}"))
    return clean.decode("ascii")


def reverse_complement(sequence: str) -> str:
    """Return the other strand; case is kept and ambiguity codes are complemented.

    Raises:
        SequenceError: A letter is no IUPAC code of DNA.
    """
    raw = sequence.encode("ascii", "replace").translate(_REVERSED)
    offset = raw.find(ILLEGAL)
    if offset >= 0:
        raise SequenceError(_unknown_letter(sequence[offset], f"offset {offset:,} of sequence"))
    return raw[::-1].decode("ascii")


def n_runs(sequence: str) -> list[tuple[int, int]]:
    """Return the maximal runs of N in a normalised sequence as half-open `(start, end)`."""
    runs: list[tuple[int, int]] = []
    start = sequence.find("N")  # finds the next one many times as fast as a pattern does
    while start >= 0 and (run := _RUN_OF_N.match(sequence, start)):
        runs.append(run.span())
        start = sequence.find("N", run.end())
    return runs


def n_fraction(sequence: str) -> float:
    """Return the share of N in a normalised sequence; 0 for an empty one."""
    return sequence.count("N") / len(sequence) if sequence else 0.0


def _unknown_letter(letter: str, place: str) -> str:
    hint = "write T for U" if letter in "Uu" else "remove it or give the DNA sequence"
    return f"letter {letter!r} at {place} is no DNA; allowed are ACGTN and IUPAC codes; {hint}"


def base_codes(sequence: str) -> NDArray[np.uint8]:
    """Return the codes of upper-case bases: 0 to 3 for A C G T, `NO_BASE` for all else, [L]."""
    return _CODES[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]


def complement_codes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes [..., L] of the other strand, read in its direction."""
    return _COMPLEMENT[codes[..., ::-1]]
