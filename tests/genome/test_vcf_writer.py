from __future__ import annotations

import errno
import gzip
import logging
import os
from pathlib import Path

import pysam
import pytest

from genobird.errors import OutputError, UsageError, VcfError
from genobird.genome import streams, vcf_writer
from genobird.genome.vcf import Record, VcfReader
from genobird.genome.vcf_writer import InfoField, VcfWriter

HEADER = [
    "##fileformat=VCFv4.2",
    "##contig=<ID=chr1,length=60000>",
    "##contig=<ID=chr2,length=600000000>",
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="x">',
    InfoField("GB_LLR", "score").header_line,
    InfoField("GB_TOP", "name", "String").header_line,
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
]
INFO = [InfoField("GB_LLR", "score"), InfoField("GB_TOP", "name", "String")]


def record(contig: str = "chr1", position: int = 4, alts: str = "C", info: str = "AC=1") -> Record:
    columns = (contig, str(position + 1), ".", "A", alts, ".", "PASS")
    return Record(0, contig, position, "A", tuple(alts.split(",")), info, columns, "")


def write(path: Path, records: list[Record], force: bool = False) -> None:
    with VcfWriter(path, HEADER, INFO, force=force) as writer:
        for one in records:
            writer.write(one, {"GB_LLR": [0.25] * len(one.alts)})


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "index"),
    [("x.vcf", None), ("x.vcf.gz", ".tbi"), ("x.vcf.bgz", ".tbi"), ("x.bcf", ".csi")],
)
def test_the_ending_of_the_name_chooses_the_format(
    name: str, index: str | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path, [record(), record(position=9), record("chr2", 1)])
    assert names(tmp_path) == {name} | ({name + index} if index else set())
    kind = streams.compression_of(path)
    assert kind == (streams.Compression.BGZF if index else streams.Compression.PLAIN)
    with pysam.VariantFile(str(path)) as file:
        assert [one.info["GB_LLR"] for one in file] == [(0.25,)] * 3
        if index:
            assert [one.pos for one in file.fetch("chr1", 8, 20)] == [10]


def test_a_position_beyond_512_mbp_gets_a_csi_index(tmp_path: Path) -> None:
    path = tmp_path / "x.vcf.gz"
    write(path, [record("chr2", 590_000_000)])
    assert names(tmp_path) == {"x.vcf.gz", "x.vcf.gz.csi"}
    with pysam.VariantFile(str(path)) as file:
        assert sum(1 for _ in file.fetch("chr2", 589_999_999, 590_000_002)) == 1


@pytest.mark.parametrize("name", ["x.vcf.gz", "x.bcf"])
@pytest.mark.parametrize(
    "order",
    [
        [("chr1", 9), ("chr1", 4)],
        [("chr1", 1), ("chr2", 1), ("chr1", 2)],
    ],
)
def test_unsorted_records_are_written_in_order_without_index(
    name: str, order: list[tuple[str, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    with caplog.at_level(logging.WARNING):
        write(path, [record(*place) for place in order])
    assert names(tmp_path) == {name}
    assert "is not sorted" in caplog.text
    assert "bcftools sort" in caplog.text
    with VcfReader(path) as reader:
        assert [(one.contig, one.position) for one in reader] == order


def test_an_index_of_an_older_output_does_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.vcf.gz"
    write(path, [record(position=1), record(position=2)])
    assert Path(f"{path}.tbi").exists()
    write(path, [record(position=2), record(position=1)], force=True)
    assert names(tmp_path) == {"x.vcf.gz"}


def test_records_at_the_telomere_and_none_at_all_are_written(tmp_path: Path) -> None:
    write(tmp_path / "none.vcf.gz", [])
    write(tmp_path / "zero.vcf.gz", [record(position=-1), record(position=0)])
    with VcfReader(tmp_path / "zero.vcf.gz") as reader:
        assert [one.position for one in reader] == [-1, 0]
    with VcfReader(tmp_path / "none.vcf.gz") as reader:
        assert list(reader) == []


def test_an_existing_output_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.vcf"
    path.write_text("precious")
    with pytest.raises(UsageError, match=r"x\.vcf exists; choose another name or pass --force"):
        VcfWriter(path, HEADER, INFO)
    assert path.read_text() == "precious"
    write(path, [record()], force=True)
    assert "GB_LLR=0.25" in path.read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.txt", "unknown ending"),
        ("x.vcf.zip", "unknown ending"),
        ("X.VCF.GZ", r"\.bcf.*, in lower case"),
        ("x\0.vcf", "is no name of a file"),
        ("none/x.vcf", "make the folder"),
        ("folder.vcf", "is no file"),
    ],
)
def test_an_impossible_output_is_a_misuse(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder.vcf").mkdir()
    with pytest.raises(UsageError, match=reason):
        VcfWriter(tmp_path / name, HEADER, INFO)


@pytest.mark.parametrize("name", ["x.vcf", "x.vcf.gz", "x.bcf"])
def test_a_failed_run_leaves_nothing_and_keeps_the_older_output(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path, [record()])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with (
        pytest.raises(ValueError, match="not declared"),
        VcfWriter(path, HEADER, INFO, force=True) as writer,
    ):
        writer.write(record(), {"GB_X": [1]})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["x.vcf", "x.vcf.gz"])
def test_a_full_disk_is_one_clear_error(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = VcfWriter(tmp_path / name, HEADER, INFO)
    os.unlink(writer._text)
    writer._file.close()
    os.symlink("/dev/full", writer._text)
    writer._file = writer._open()

    def fill() -> None:
        with writer:
            for _ in range(100_000):
                writer.write(record(), {})

    with pytest.raises(OutputError, match=r"cannot be written: .*check space"):
        fill()
    assert names(tmp_path) == set()
    assert capfd.readouterr().err == ""


def test_standard_output_is_plain_text(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write(Path("-"), [record()])
    assert capfdbinary.readouterr().out.endswith(b"PASS\tAC=1;GB_LLR=0.25\n")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (".", "GB_LLR=1,.;GB_TOP=a%3Bb,."),
        ("", "GB_LLR=1,.;GB_TOP=a%3Bb,."),
        ("AC=1", "AC=1;GB_LLR=1,.;GB_TOP=a%3Bb,."),
        ("AC=1;", "AC=1;GB_LLR=1,.;GB_TOP=a%3Bb,."),
        ("GB_LLR=7;AC=1;GB_TOP;GB_LLR_SE=2", "AC=1;GB_LLR_SE=2;GB_LLR=1,.;GB_TOP=a%3Bb,."),
        ("GB_LLR=7", "GB_LLR=1,.;GB_TOP=a%3Bb,."),
    ],
)
def test_info_is_added_at_the_end_and_old_values_go(
    info: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.vcf"
    with VcfWriter(path, HEADER, INFO) as writer:
        one = record(alts="C,G", info=info)
        writer.write(one, {"GB_LLR": [1.0, None], "GB_TOP": ["a;b", None]})
    assert path.read_text().splitlines()[-1].split("\t")[7] == expected


def test_values_must_be_declared_and_one_an_alt(tmp_path: Path) -> None:
    with VcfWriter(tmp_path / "x.vcf", HEADER, INFO) as writer:
        with pytest.raises(ValueError, match="INFO GB_X was not declared"):
            writer.write(record(), {"GB_X": [1]})
        with pytest.raises(ValueError, match=r"GB_LLR of chr1:5 has 1 value for 2 ALTs"):
            writer.write(record(alts="C,G"), {"GB_LLR": [1]})


def test_bcf_holds_records_whose_contig_filter_and_keys_are_not_declared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.bcf"
    lines = [
        "chr9\t5\trs1\tA\tC\t29.5\tq10\tFOO=3;FLAG\tGT:XX\t0/1:3",
        "chr9\t6\t.\ta\tC,<DEL>,*\t.\t.\t.\tGT\t0/2",
        "chr9\t9\t.\tA\t<DEL>\t.\tPASS\tSVLEN=-10\tGT\t0/1",
        "chr9\t9\t.\tA\tN]chr2:3]\t.\tPASS\tEND=3\tGT\t0/1",
    ]
    header = [HEADER[0], HEADER[-1] + "\tFORMAT\ts"]
    with VcfWriter(path, header, []) as writer:
        for number, line in enumerate(lines):
            *columns, info, form, sample = line.split("\t")
            rest = f"\t{form}\t{sample}"
            alts = tuple(columns[4].split(","))
            writer.write(Record(number, "chr9", number, "A", alts, info, tuple(columns), rest), {})
    with VcfReader(path) as reader:
        assert [record.line for record in reader] == lines
    assert capfd.readouterr().err == ""


def test_what_bcf_cannot_hold_is_kept_as_vcf(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "x.bcf.vcf.gz"
    with (
        pytest.raises(VcfError, match=r"cannot write the records as BCF.* they are in .*bcf\.vcf"),
        VcfWriter(tmp_path / "x.bcf", HEADER, INFO) as writer,
    ):
        writer.write(record(position=10**11), {"GB_LLR": [0.5]})
    assert names(tmp_path) == {kept.name}
    assert gzip.decompress(kept.read_bytes()).decode().splitlines()[:-1] == HEADER
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("force", [False, True])
def test_what_bcf_cannot_hold_replaces_no_other_file(tmp_path: Path, force: bool) -> None:
    for name in ("x.bcf.vcf.gz", "x.bcf.2.vcf.gz"):
        (tmp_path / name).write_text("kept")
    with (
        pytest.raises(VcfError, match=r"they are in .*x\.bcf\.3\.vcf\.gz"),
        VcfWriter(tmp_path / "x.bcf", HEADER, INFO, force=force) as writer,
    ):
        writer.write(record(position=10**11), {"GB_LLR": [0.5]})
    assert names(tmp_path) == {"x.bcf.vcf.gz", "x.bcf.2.vcf.gz", "x.bcf.3.vcf.gz"}
    assert (tmp_path / "x.bcf.vcf.gz").read_text() == "kept"
    assert (tmp_path / "x.bcf.2.vcf.gz").read_text() == "kept"


@pytest.mark.parametrize("name", ["x.vcf.gz", "x.bcf"])
def test_a_disk_that_is_full_in_the_last_step_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_index(*_: object, **__: object) -> None:
        raise OSError("building of index failed")

    def no_bcf(*_: object, **__: object) -> None:
        raise pysam.SamtoolsError("Error: cannot write")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(vcf_writer.pysam, "tabix_index", no_index)
    monkeypatch.setattr(vcf_writer, "_view", no_bcf)
    monkeypatch.setattr(vcf_writer.tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="cannot be written: No space left on device; check"):
        write(tmp_path / name, [record()])
    assert names(tmp_path) == set()


def test_the_compressed_text_is_what_the_plain_text_is(tmp_path: Path) -> None:
    records = [record(position=position) for position in range(500)]
    write(tmp_path / "x.vcf", records)
    write(tmp_path / "x.vcf.gz", records)
    packed = gzip.decompress((tmp_path / "x.vcf.gz").read_bytes())
    assert packed == (tmp_path / "x.vcf").read_bytes()
