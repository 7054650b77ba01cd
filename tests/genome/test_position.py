from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import BedError, ChainError, UsageError, VcfError
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.interval import parse_region, read_bed
from genobird.genome.locus import contigs_of
from genobird.genome.streams import BEYOND, grouped, position, position_of, whole
from genobird.genome.variant import Status, check, parse_variant
from genobird.genome.vcf import VcfReader
from genobird.genome.vcf_writer import extend_header
from genobird.scoring.parts import Part
from tests.conftest import write_fasta

LARGE = ["9" * 19, str(2**63), str(2**64 + 1), "1" * 25, "7" * 5_000]
NO_NUMBERS = [
    "",
    "-1",
    "+1",
    " 1",
    "1 ",
    "1.0",
    "1e3",
    "1_000",
    "0x1",
    "²",
    "٣",
    "\uff11",
    "x",
    "1\0",
]
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@given(st.integers(0, BEYOND - 1))
def test_a_number_of_18_digits_is_read(number: int) -> None:
    assert whole(str(number)) == position(str(number)) == grouped(f"{number:,}") == number
    assert position_of(number) == position_of(str(number)) == position_of(f" {number}.0 ") == number


@pytest.mark.parametrize("text", LARGE)
def test_a_larger_number_is_beyond_every_contig(text: str) -> None:
    assert whole(text) is None
    assert position(text) == grouped(text) == position_of(text) == BEYOND
    assert position("0" * 30 + "5") == 5


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_other_text_is_no_number(text: str) -> None:
    assert whole(text) is None
    assert position(text) is None


@given(st.text(max_size=30))
def test_no_text_raises(text: str) -> None:
    for read in (whole, position, grouped, position_of):
        assert read(text) is None or 0 <= read(text) <= BEYOND


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(7), 7),
        (np.uint64(2**64 - 1), BEYOND),
        (np.float32(8), 8),
        (1e300, BEYOND),
        (10**40, BEYOND),
        (Fraction(6, 2), 3),
        ("20.0", 20),
        ("20.", 20),
        *((bad, None) for bad in (True, None, -1, 1.5, float("nan"), float("inf"), pd.NA, [5])),
        *((bad, None) for bad in ("", "20.5", "-1", "1e3", ".0", "²", "20.0.0")),
    ],
)
def test_a_cell_of_a_table_is_read(value: object, expected: int | None) -> None:
    assert position_of(value) == expected


# The kinds of text that hold numbers.


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    return Genome(write_fasta(tmp_path / "x.fa", {"chr1": "ACGT" * 20}))


@pytest.mark.parametrize("large", LARGE)
def test_a_large_position_is_out_of_bounds_and_the_next_record_is_read(
    large: str, genome: Genome, tmp_path: Path
) -> None:
    rows = [f"chr1\t{pos}\t.\tA\tC\t.\t.\t.\n" for pos in (large, "5")]
    (tmp_path / "in.vcf").write_text(HEADER + "".join(rows))
    with VcfReader(tmp_path / "in.vcf") as reader:
        records = list(reader)
    assert [record.line + "\n" for record in records] == rows
    statuses = [check(*record.variants(), genome) for record in records]
    assert statuses == [Status.OUT_OF_BOUNDS, Status.OK]
    assert check(parse_variant(f"chr1:{large}:A>C"), genome) is Status.OUT_OF_BOUNDS
    (tmp_path / "in.bed").write_text(f"chr1\t1\t{large}\nchr1\t{large}\t{large}\nchr1\t1\t2\n")
    first, second, third = read_bed(tmp_path / "in.bed")
    assert (first.end, second.start, third.end) == (BEYOND, BEYOND, 2)
    assert parse_region(f"chr1:1-{large}").end == BEYOND


@pytest.mark.parametrize("bad", ["²", "٣", "1_0", "-5", "+5", "5.0"])
def test_what_is_no_number_is_one_line(bad: str, tmp_path: Path) -> None:
    (tmp_path / "in.vcf").write_text(f"{HEADER}chr1\t{bad}\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(VcfError, match=r"line 3: POS '.*' is no whole number"):
        list(VcfReader(tmp_path / "in.vcf"))
    (tmp_path / "in.bed").write_text(f"chr1\t{bad}\t9\n")
    with pytest.raises(BedError, match=r"line 1: start '.*' is no whole number"):
        list(read_bed(tmp_path / "in.bed"))
    if bad != "-5":  # a contig may be called "chr1:"
        with pytest.raises(UsageError):
            parse_variant(f"chr1:{bad}:A>C")
        with pytest.raises(UsageError):
            parse_region(f"chr1:{bad}-9")
    with pytest.raises(UsageError, match="give i/n"):
        Part.parse(f"1/{bad}")


@pytest.mark.parametrize("column", [3, 5, 6, 8, 10, 11])
@pytest.mark.parametrize("bad", [*LARGE, "²", "1_0", "-5", "x"])
def test_a_number_of_a_chain_that_is_none_is_one_line(
    column: int, bad: str, tmp_path: Path
) -> None:
    words = [
        "chain",
        "1000",
        "chr1",
        "60000",
        "+",
        "0",
        "60000",
        "chr1",
        "60000",
        "+",
        "0",
        "60000",
        "1",
    ]
    words[column] = bad
    (tmp_path / "in.chain").write_text(" ".join(words) + "\n60000\n\n")
    with pytest.raises(ChainError, match=r"line 1: .* does not belong in a chain file") as caught:
        ChainFile(tmp_path / "in.chain")
    assert len(str(caught.value)) < 400
    (tmp_path / "in.chain").write_text(f"chain 1 chr1 9 + 0 9 chr1 9 + 0 9 1\n{bad}\n\n")
    with pytest.raises(ChainError, match="line 2: "):
        ChainFile(tmp_path / "in.chain")


@pytest.mark.parametrize("length", [*LARGE, "²", "x", "", "-1"])
def test_a_length_that_is_no_number_is_unknown(length: str, genome: Genome) -> None:
    header = [f"##contig=<ID=chr1,length={length}>", "##contig=<ID=b,length=7>"]
    assert contigs_of(header) == {"b": 7}
    quoting = '##contig=<ID="c",Description="a,length=9,ID=b \\", ID=b",length="8",assembly=x>'
    assert contigs_of([quoting]) == {"c": 8}
    lines = extend_header([*header, "#CHROM"], [], {}, genome)
    assert lines == [*header, "#CHROM"]


@pytest.mark.parametrize("text", [f"1/{'9' * 5_000}", f"{'9' * 19}/2", "2/1", "0/1", "1/2/3", "1"])
def test_an_impossible_shard_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="give i/n") as caught:
        Part.parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("column", [1, 2, 3, 4])
@pytest.mark.parametrize("bad", [*LARGE, "9" * 18, "999999999", "²", "-5", "0"])
def test_an_index_of_impossible_numbers_is_built_again(
    column: int, bad: str, tmp_path: Path
) -> None:
    path = write_fasta(tmp_path / "x.fa", {"chr1": "ACGT" * 20})
    cells = ["chr1", "80", "6", "60", "61"]
    cells[column] = bad
    Path(f"{path}.fai").write_text("\t".join(cells) + "\n")
    assert Genome(path).contigs == {"chr1": 80}
    assert Path(f"{path}.fai").read_text().split() == ["chr1", "80", "6", "60", "61"]
