from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.genome.fasta import Genome
from genobird.genome.vcf_writer import InfoField, encode_info, extend_header, own_keys
from tests.conftest import write_fasta

FIELD = InfoField("GB_LLR", 'a "quoted" score')
HEADER = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]


@given(st.text())
def test_percent_encoding_round_trips_and_leaves_no_separator(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    encoded = encode_info(text)
    assert unquote(encoded) == text
    assert not re.search(r"[:;=,\t\r\n ]", encoded)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("Float", 0.123456789, "0.123457"),
        ("Float", -1.5e-12, "-1.5e-12"),
        ("Float", 2, "2"),
        ("Float", float("nan"), "."),
        ("Float", float("inf"), "."),
        ("Float", None, "."),
        ("Integer", 3.0, "3"),
        ("Integer", None, "."),
        ("String", "K562|CTCF|None", "K562|CTCF|None"),
        ("String", "a;b=c,d e%", "a%3Bb%3Dc%2Cd%20e%25"),
        ("String", "", "."),
    ],
)
def test_values_are_written_as_vcf_values(kind: str, value: float | str | None, text: str) -> None:
    assert InfoField("X", "x", kind).text(value) == text


@pytest.mark.parametrize("name", ["", "1X", "GB LLR", "GB;LLR"])
def test_an_info_id_is_one_that_vcf_allows(name: str) -> None:
    with pytest.raises(ValueError, match="is no INFO id"):
        InfoField(name, "x")


def test_other_numbers_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match="Flag with Number=A is not written"):
        InfoField("X", "x", "Flag")


def test_header_lines_are_added_before_the_column_names() -> None:
    meta = {"genobirdVersion": "1", "genobirdCommand": "genobird\nvariants"}
    header = extend_header(HEADER, [FIELD], meta)
    assert header[0] == HEADER[0]
    assert header[-1] == HEADER[-1]
    assert header[1].startswith(r'##INFO=<ID=GB_LLR,Number=A,Type=Float,Description="a \"quoted\"')
    assert header[2:4] == ["##genobirdVersion=1", "##genobirdCommand=genobird variants"]


def test_a_second_run_replaces_our_header_lines_and_no_others() -> None:
    others = ['##INFO=<ID=GB_LLR_SE,Number=A,Type=Float,Description="ID=GB_LLR,">', "##x=1"]
    first = extend_header([HEADER[0], *others, HEADER[1]], [FIELD], {"genobirdVersion": "1"})
    second = extend_header(first, [FIELD], {"genobirdVersion": "2"})
    assert second == [line.replace("Version=1", "Version=2") for line in first]
    assert extend_header(HEADER, [], {}) == HEADER


def test_keys_of_genobird_are_known_by_their_source() -> None:
    lines = [
        FIELD.header_line,
        '##INFO=<ID=OTHER,Number=A,Type=Float,Description="x",Source="vep",Version="1">',
        '##INFO=<ID=GB_THEIRS,Number=1,Type=Float,Description="not by genobird">',
        '##FORMAT=<ID=GB_F,Number=1,Type=Float,Description="x",Source="genobird">',
    ]
    header = [HEADER[0], *lines, "##genobirdModel=1", "##genobirdCommand=x", HEADER[1]]
    assert own_keys(header) == {"GB_LLR"}
    assert extend_header(header, [], {"genobirdModel": "2"}) == [
        *(HEADER[0], *lines[1:], "##genobirdModel=2", HEADER[1])
    ]


@pytest.mark.parametrize(
    ("example", "names"),
    [
        (None, ["chr1", "chrM", "odd"]),
        ("chr1", ["chr1", "chrM", "odd"]),
        ("1", ["1", "MT", "odd"]),
        ("NC_000001.10", ["chr1", "chrM", "odd"]),
        ("other", ["chr1", "chrM", "odd"]),
    ],
)
def test_missing_contigs_are_added_in_the_style_of_the_records(
    example: str | None, names: list[str], tmp_path: Path
) -> None:
    path = write_fasta(tmp_path / "x.fa", {"chr1": "ACGT", "chrM": "AC", "odd": "A"})
    header = extend_header(HEADER, [], {}, Genome(path), example)
    lengths = [4, 2, 1]
    assert header[1:-1] == [
        f"##contig=<ID={name},length={length}>" for name, length in zip(names, lengths, strict=True)
    ]


def test_contigs_that_are_there_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_fasta(tmp_path / "x.fa", {"chr1": "ACGT", "chr2": "AC"})
    present = ["##contig=<ID=1,length=5,assembly=b37>", "##contig=<ID=GL000>"]
    with caplog.at_level(logging.WARNING):
        header = extend_header([HEADER[0], *present, HEADER[1]], [], {}, Genome(path), "1")
    assert header[1:-1] == [*present, "##contig=<ID=2,length=2>"]
    assert "contig 1 has 5 bp in the VCF header but 4 bp in" in caplog.text
