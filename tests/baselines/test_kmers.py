from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genobird.baselines.linear_models import (
    GappedShape,
    columns,
    count_gapped,
    kmer_shares,
    unit_rows,
)
from genobird.genome.sequence import base_codes, reverse_complement

SHAPES = [GappedShape(length=n, letters=k) for n, k in ((1, 1), (3, 3), (4, 2), (5, 4))]


def gapped_words(text, shape):
    """Gapped k-mers of one strand, with `.` for a free base."""
    for start in range(len(text) - shape.length + 1):
        for places in combinations(range(shape.length), shape.letters):
            word = "".join(text[start + i] if i in places else "." for i in range(shape.length))
            if "N" not in word:
                yield word


def turned(word):
    return reverse_complement(word.replace(".", "N")).replace("N", ".")


def expected(text, shape):
    """How often each gapped k-mer occurs, it and its reverse complement as one, sorted."""
    counts = {}
    for word in gapped_words(text, shape):
        name = min(word, turned(word))
        counts[name] = counts.get(name, 0) + 1
    return sorted(counts.values())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(text=st.text("ACGTN", min_size=8, max_size=40))
def test_gapped_kmers_are_counted_as_words_are(shape, text):
    found = count_gapped(base_codes(text)[None], shape).toarray()[0]
    assert sorted(found[found > 0].astype(int)) == expected(text, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(text=st.text("ACGTN", min_size=8, max_size=40))
def test_both_strands_have_the_same_counts(shape, text):
    one = count_gapped(base_codes(text)[None], shape).toarray()
    other = count_gapped(base_codes(reverse_complement(text))[None], shape).toarray()
    np.testing.assert_array_equal(one, other)


def test_there_are_as_many_columns_as_words_without_their_complements():
    assert columns(GappedShape(length=4, letters=4))[1] == (4**4 + 4**2) // 2
    assert columns(GappedShape(length=6, letters=6))[1] == 2080


def test_a_sequence_counts_the_same_in_any_company():
    codes = np.random.default_rng(0).integers(0, 5, (130, 50)).astype(np.uint8)
    shape = GappedShape(length=5, letters=3)
    together = count_gapped(codes, shape).toarray()
    for i in (0, 63, 64, 129):
        np.testing.assert_array_equal(
            together[i], count_gapped(codes[i : i + 1], shape).toarray()[0]
        )


def test_rows_have_unit_length_and_an_empty_one_stays_empty():
    codes = np.stack([base_codes("ACGTACGTAC"), base_codes("N" * 10)])
    rows = unit_rows(count_gapped(codes, GappedShape(length=3, letters=2))).toarray()
    assert np.linalg.norm(rows[0]) == pytest.approx(1)
    assert not rows[1].any()


def test_shares_are_those_of_the_windows_around_the_place():
    text = "A" * 20 + "C" * 20
    found = kmer_shares(base_codes(text)[None], 1, 20, (10, 200))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.5, 0.5]])
    left = kmer_shares(base_codes(text)[None], 1, 10, (10,))
    np.testing.assert_allclose(left, [[1.0, 0.0]])


def test_more_letters_than_bases_are_refused():
    with pytest.raises(ValidationError, match="a word of 3 bases has no 4 letters"):
        GappedShape(length=3, letters=4)
