from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import SequenceError, TableError, UsageError
from genobird.genome.fasta import Genome
from pipelines.cagi import (
    COLUMNS,
    FLANK,
    Construct,
    alleles,
    gc_change,
    in_genome,
    read_variants,
)

DNA = st.text("ACGT", max_size=12)


@given(DNA, st.text("ACGT", max_size=3), st.text("ACGT", max_size=3), DNA)
def test_the_allele_is_what_differs(left, ref, alt, right):
    construct = Construct.of(left + ref + right, left + alt + right)
    (a, b), (c, d) = construct.ref_span, construct.alt_span
    assert construct.ref[:a] == construct.alt[:c]
    assert construct.ref[b:] == construct.alt[d:]
    assert b - a <= len(ref)
    assert d - c <= len(alt)
    assert 0 <= a <= b <= len(construct.ref)
    assert 0 <= c <= d <= len(construct.alt)


def test_sequence_on_both_sides_moves_the_allele():
    construct = Construct.of("AACAA", "AAGGAA").inside("TTT", "CC")
    assert construct == Construct("TTTAACAACC", "TTTAAGGAACC", (5, 6), (5, 7))


def test_alleles_come_in_turn_with_their_places():
    texts, places = alleles([Construct.of("AACAA", "AATAA"), Construct.of("ACC", "A")])
    assert texts == ["AACAA", "AATAA", "ACC", "A"]
    assert places == [2, 2, 1, 0]


def test_gc_change_is_a_difference_of_shares():
    found = gc_change([Construct.of("AACA", "AATA"), Construct.of("AT", "ATGC")])
    assert found.tolist() == [-0.25, 0.5]


def table(rows):
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_constructs_are_placed_where_the_genome_holds_them(tiny_genome_path, tiny_contigs):
    text = tiny_contigs["chr1"]
    here = text[30_000:30_150]
    other = here[:75] + ("A" if here[75] != "A" else "C") + here[76:]
    rows = table(
        [
            ("a", 1, 30_076, here, other, 0.0, 0, 0),
            ("b", "1", 30_076, text[31_000:31_150], other, 0.0, 0, 0),
            ("c", "9", 30_076, here, other, 0.0, 0, 0),
            ("d", "chr1", 60, text[:150], text[:60] + text[61:150], 0.0, 0, 0),
        ]
    )
    constructs = [
        Construct.of(r, a) for r, a in zip(rows["ref_sequence"], rows["alt_sequence"], strict=True)
    ]
    with Genome(tiny_genome_path) as genome:
        placed = in_genome(rows, constructs, genome)
    assert placed[1] is placed[2] is None
    wide, first = placed[0], placed[3]
    assert wide.ref == text[30_075 - FLANK : 30_075 + FLANK]
    assert wide.ref_span == (FLANK, FLANK + 1)
    assert wide.alt == wide.ref[:FLANK] + other[75] + wide.ref[FLANK + 1 :]
    assert first.ref.startswith(text[:150])  # at the end of the contig nothing is made up


def written(tmp_path, rows):
    path = tmp_path / "v.csv"
    rows.to_csv(path, index=False)
    return path


ROW = ("a", 1, 5, "ACGTA", "ACTTA", 0.5, 1, 1)


def test_variants_are_read_with_gaps_taken_out(tmp_path):
    rows = table([ROW, ("b", 2, 5, "acgta", "AC-TA", 0.1, 0, 0)])
    found, constructs = read_variants(written(tmp_path, rows))
    assert found["LogSkew.Comb"].tolist() == [0.5, 0.1]
    assert constructs == [
        Construct("ACGTA", "ACTTA", (2, 3), (2, 3)), Construct("ACGTA", "ACTA", (2, 3), (2, 2)),
    ]  # fmt: skip


def test_tables_that_lack_something_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        read_variants(tmp_path / "no.csv")
    with pytest.raises(TableError, match="has no column emVar_Hit"):
        read_variants(written(tmp_path, table([ROW]).drop(columns="emVar_Hit")))
    with pytest.raises(TableError, match="column pos has empty cells"):
        read_variants(written(tmp_path, table([(*ROW[:2], np.nan, *ROW[3:])])))
    with pytest.raises(SequenceError, match="letter 'X' at offset 1 of a in"):
        read_variants(written(tmp_path, table([(*ROW[:3], "AXGTA", *ROW[4:])])))
