from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.genome.sequence import reverse_complement
from pipelines import exact_match
from pipelines.exact_match import WindowIndex, complement, window_hashes

DNA = st.text("ACGTN", min_size=1, max_size=60)


def letters(text):
    return np.frombuffer(text.encode(), dtype=np.uint8)


def found(index, contig):
    return [
        (int(start), int(index.hashes[at]))
        for starts, places in index.scan(letters(contig))
        for start, at in zip(starts, places, strict=True)
    ]


@given(DNA, st.integers(1, 12), st.lists(st.integers(0, 59), max_size=5), st.integers(2, 9))
def test_all_places_of_all_windows_are_found_and_no_others(contig, length, chosen, stride):
    windows = [contig[at : at + length] for at in chosen if at + length <= len(contig)]
    windows.append("ACGT" * length)
    windows = [w[:length] for w in windows]
    hashes = window_hashes(np.stack([letters(w) for w in windows]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exact_match, "STRIDE", stride)  # windows cross the borders of pieces
        hits = found(WindowIndex(hashes, length), contig)
    expected = [
        (at, int(hashes[windows.index(contig[at : at + length])]))
        for at in range(len(contig) - length + 1)
        if contig[at : at + length] in windows
    ]
    assert hits == expected


@given(st.lists(st.text("ACGTN", min_size=9, max_size=9), min_size=1, max_size=4))
def test_the_other_strand_is_the_reverse_complement(windows):
    turned = complement(np.stack([letters(w) for w in windows]))
    assert [row.tobytes().decode() for row in turned] == [reverse_complement(w) for w in windows]


def test_hashes_of_near_windows_differ():
    window = np.tile(letters("ACGTTGCA"), 125)
    near = np.tile(window, (1001, 1))
    rows = np.arange(1000)
    near[rows, rows] = letters("N")[0]
    shifted = np.stack([np.roll(window, n) for n in range(8)])
    hashes = window_hashes(np.concatenate([near, shifted]))
    assert len(set(hashes.tolist())) == 1001 + 7  # one shift is the window itself
    assert len(set((hashes >> np.uint64(40)).tolist())) > 1000


def test_a_contig_shorter_than_a_window_holds_none():
    index = WindowIndex(window_hashes(letters("ACGTACGT")[None]), 8)
    assert found(index, "ACGTACG") == []
    assert len(found(index, "ACGTACGT")) == 1


def test_what_is_not_looked_for_has_no_place():
    hashes = window_hashes(np.stack([letters("ACGT"), letters("AAAA"), letters("NNNN")]))
    index = WindowIndex(hashes[:2], 4)
    places = index.find(hashes)
    assert places[2] == -1
    assert index.hashes[places[:2]].tolist() == hashes[:2].tolist()
