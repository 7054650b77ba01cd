from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import SequenceError
from genobird.genome.sequence import (
    ALPHABET,
    n_fraction,
    n_runs,
    normalise,
    reverse_complement,
)

IUPAC = "ACGTRYSWKMBDHVN"


@given(st.text(IUPAC + IUPAC.lower()))
def test_reverse_complement_is_an_involution_and_keeps_length(sequence: str) -> None:
    once = reverse_complement(sequence)
    assert len(once) == len(sequence)
    assert reverse_complement(once) == sequence


@given(st.text(IUPAC), st.text(IUPAC))
def test_reverse_complement_of_a_join_is_the_join_of_the_reverse_complements(
    left: str, right: str
) -> None:
    assert reverse_complement(left + right) == reverse_complement(right) + reverse_complement(left)


def test_reverse_complement_keeps_case_and_complements_ambiguity_codes() -> None:
    assert reverse_complement("AacGTnRyB") == "VrYnACgtT"


def test_reverse_complement_refuses_other_letters() -> None:
    with pytest.raises(SequenceError, match="letter 'E' at offset 2 "):
        reverse_complement("ACE")


@given(st.text(IUPAC + IUPAC.lower()))
def test_normalise_keeps_length_and_bases_and_is_idempotent(text: str) -> None:
    clean = normalise(text)
    assert set(clean) <= set(ALPHABET)
    assert all(
        new == (old if old in "ACGT" else "N") for old, new in zip(text.upper(), clean, strict=True)
    )
    assert normalise(clean) == clean


@given(st.text(min_size=1))
def test_normalise_gives_the_alphabet_or_names_the_first_bad_letter(text: str) -> None:
    bad = [offset for offset, letter in enumerate(text) if letter not in IUPAC + IUPAC.lower()]
    if not bad:
        assert set(normalise(text)) <= set(ALPHABET)
        return
    with pytest.raises(SequenceError, match=f"offset {bad[0]:,} of"):
        normalise(text)


def test_normalise_says_where_and_what_to_do() -> None:
    with pytest.raises(SequenceError, match=r"letter 'L' at offset 4 of chr1:1-6 is no DNA; allow"):
        normalise("ACGTLA", "chr1:1-6")
    with pytest.raises(SequenceError, match="write T for U"):
        normalise("ACGU")


@given(st.text(ALPHABET))
def test_n_runs_cover_exactly_the_n_bases(sequence: str) -> None:
    runs = n_runs(sequence)
    covered = {offset for start, end in runs for offset in range(start, end)}
    assert covered == {offset for offset, base in enumerate(sequence) if base == "N"}
    assert all(end < start for (_, end), (start, _) in pairwise(runs)), "runs are maximal"
    assert n_fraction(sequence) == pytest.approx(len(covered) / max(1, len(sequence)))
