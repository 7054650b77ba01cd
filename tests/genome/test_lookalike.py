from __future__ import annotations

from pathlib import Path

import pytest

from genobird.errors import BedError, InputError, VcfError
from genobird.genome.interval import read_bed
from genobird.genome.streams import kind_of, lines, without_header
from tests.scoring.calls import read_alleles

MAF = b"#version 2.4\nHugo_Symbol\tChromosome\tStart_Position\nA\t1\t5\n"
KINDS = {
    "is empty": b"\n\n",
    "is a MAF: convert it to VCF.*give the base before": MAF,
    "separated by semicolons: separate them by tabs or commas": b"chrom;pos;ref;alt\n1;5;A;C\n",
    "is a web page instead of data": b"<!DOCTYPE html>\n<html>",
    "is an Excel file or an archive": b"PK\x03\x04\x14",
    "is FASTA": b">chr1\nACGT\n",
    "is FASTQ": b"@read 1\nACGT\n+\nIIII\n",
    "end as on an old Mac": b"chrom,pos,ref,alt\rchr1,5,A,C\r",
    "end as on an old Mac: convert": b"##fileformat=VCFv4.2\r#CHROM\tPOS\tID\tREF\tALT\r",
    "is packed: unpack it, or use bgzip": b"BZh91AY&SY",
    "is packed: unpack": b"\xfd7zXZ\x00\x00\x04",
    "is packed": b"\x28\xb5\x2f\xfd\x24\x00",
}


@pytest.mark.parametrize("phrase", KINDS)
def test_a_file_is_named_for_what_it_is(phrase: str, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(KINDS[phrase])
    with pytest.raises(VcfError, match=f"has no VCF header; .*{phrase}"):
        list(read_alleles(path))
    with pytest.raises(BedError, match=phrase):
        list(read_bed(path))


def test_a_vcf_is_no_bed_and_spaces_are_no_tabs(tmp_path: Path) -> None:
    path = tmp_path / "in.bed"
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\nchr1\t5\t.\tA\tC\n")
    with pytest.raises(BedError, match="is a VCF: variants are scored by genobird variants"):
        list(read_bed(path))
    path.write_text("##fileformat=VCFv4.2\n#CHROM POS ID REF ALT\nchr1 5 . A C\n")
    with pytest.raises(VcfError, match="separated by spaces: VCF needs tabs"):
        list(read_alleles(path))


@pytest.mark.parametrize(
    ("row", "phrase"),
    [
        ("1 881907 881907 A -", "looks like input of ANNOVAR.*give the base before"),
        ("chr1\t5\t9\tpeak\t0\t+", "looks like BED: regions are scored by genobird score"),
        ("chr1\t5\tA\tC", "looks like a table: begin it with a line that names chrom, pos, ref"),
        ("chr1\t5\trs1\tA\tC", "looks like a table"),
        ("chr1_5_A_C_b37", "looks like a list of variants: give them as arguments"),
        ("rs123", "looks like a list of variants.*an rs number needs to be looked up first"),
        ('"chr";"pos";"ref"', "columns are separated by semicolons"),
        ("some text", "must begin with ##fileformat=VCF"),
    ],
)
def test_rows_without_a_header_are_named(row: str, phrase: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text(row + "\n")
    with pytest.raises(VcfError, match=phrase):
        list(read_alleles(tmp_path / "in"))


@pytest.mark.parametrize("start", [b"##fileformat=VCFv4.2\n#CHROM\tPOS\n", b"chr1\t1\t2\n", b"x"])
def test_what_is_fine_or_unknown_has_no_name(start: bytes) -> None:
    assert "VCF" in kind_of(start) if start.startswith(b"##") else kind_of(start) == ""
    assert without_header(b"x y\n") == without_header(b"") == ""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_letters_of_several_bytes_are_refused_in_every_reader(
    encoding: str, tmp_path: Path
) -> None:
    path = tmp_path / "in"
    path.write_bytes("chr1\t5\t9\n".encode(encoding))
    for read in (read_bed, read_alleles, lambda path: lines(path, InputError)):
        with pytest.raises(
            InputError, match=f"is text in {encoding[:6].upper()}; save it as UTF-8"
        ):
            list(read(path))
