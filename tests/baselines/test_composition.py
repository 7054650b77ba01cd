import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.composition import (
    PROMOTER_WINDOWS_BP,
    bin_composition,
    composition,
    place_composition,
)
from genobird.genome.sequence import reverse_complement


def ascii_codes(text):
    return np.frombuffer(text.encode(), np.uint8)


def described(text):
    """GC fraction and CpG observed / expected, by counting letters."""
    c, g, n = text.count("C"), text.count("G"), text.count("N")
    bases = len(text) - n
    gc = (c + g) / bases if bases else 0.0
    return gc, text.count("CG") * bases / (c * g) if c * g else 0.0


@given(st.text("ACGTN", min_size=1, max_size=60), st.data())
def test_composition_is_what_counting_letters_gives(text, data):
    place = data.draw(st.integers(0, len(text)))
    found = composition(ascii_codes(text), np.array([place]), (4, 10, 200))
    for i, width in enumerate((4, 10, 200)):
        window = text[max(0, place - width // 2) : place + width // 2]
        assert found[0, 2 * i : 2 * i + 2] == pytest.approx(described(window), abs=1e-6)


@given(st.text("ACGTN", min_size=1, max_size=60))
def test_composition_is_the_same_on_both_strands(text):
    middle = np.array([len(text) // 2])
    windows = (2 * len(text) + 2,)
    forward = composition(ascii_codes(text), middle, windows)
    np.testing.assert_allclose(
        forward, composition(ascii_codes(reverse_complement(text)), middle, windows)
    )


def test_bins_are_described_by_the_bases_around_their_centre(dataset):
    bins = np.array([0, 3, 7, 250, 299])
    found = bin_composition(dataset, "chr1", bins)
    text = dataset.sequence("chr1", 0, dataset.length("chr1"))
    for row, i in zip(found, bins, strict=True):
        for k, width in enumerate((200, 500, 1000, 2000)):
            window = text[max(0, 200 * i + 100 - width // 2) : 200 * i + 100 + width // 2]
            assert row[2 * k : 2 * k + 2] == pytest.approx(described(window), abs=1e-6)
    assert bin_composition(dataset, "chr1", bins[:0]).shape == (0, 8)


def test_a_promoter_is_described_up_to_the_ends_of_its_window():
    text = "CG" * 2500 + "AT" * 1500
    row = place_composition([text], [5000], PROMOTER_WINDOWS_BP)[0]
    assert row[0] == pytest.approx(0.5)
    assert row[-2] == pytest.approx(4000 / 7000)
