from __future__ import annotations

import codecs
import gzip
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.errors import UsageError, VcfError
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status, Variant, check
from genobird.genome.vcf import Record, VcfReader
from genobird.genome.vcf_writer import InfoField, Values
from tests.genome.copies import annotate

COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
# Everything that a parser might be tempted to write in another way.
AWKWARD = [
    "chr1\t5\trs1;rs2\tA\tC\t29.500\tPASS\tAC=1;;DB;X=1.0e-05;",
    "chr1\t5\trs1;rs2\tA\tC\t29.500\tPASS\tAC=1;;DB;X=1.0e-05;",
    "chr1\t7\t.\ta\tC,G,<DEL>,*\t.\t.\t.",
    "chr1\t9\t.\tR\tA\t1e3\tq10;s50\tNOT_IN_HEADER=é%3B",
    "chr1\t0\t.\tN\t]chr2:3]N\t0\tPASS\t.",
    "chr1\t3\t.\tACGT\tA[chr2:5[\t00.10\tPASS\tEND=9;A=x#y",
    "chr1\t60000\t.\tC\t.\t30\tPASS\tDP=014",
    "missing_contig\t60001\t.\tCC\tC\t30\tPASS\t",
    "20\t1\t.\t\t\t\t\t.",
]
HEADER = [
    "##fileformat=VCFv4.2",
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="x">',
    "##odd line, kept as it is",
    "##contig=<ID=chr1>",
]
STATUS = InfoField("GB_STATUS", "status", "String", ".")
SCORE = InfoField("GB_LLR", "score")


def text_of(records: list[str], samples: bool = False, ending: str = "\n") -> bytes:
    column_names = COLUMNS
    if samples:
        column_names += "\tFORMAT\ts1\ts2"
        records = [f"{record}\tGT:GQ:X\t0|1:007:a b\t./." for record in records]
    return "".join(f"{line}{ending}" for line in [*HEADER, column_names, *records]).encode()


def numbered(records: Iterator[Record]) -> Iterator[tuple[Record, Values]]:
    for record in records:
        alts = [Status.OK] * len(record.alts) or [Status.MISSING_ALT]
        yield record, {"GB_STATUS": alts, "GB_LLR": [0.5] * len(record.alts)}


def without_added(line: str) -> str:
    columns = line.split("\t")
    if len(columns) >= 8 and not line.startswith("#"):
        columns[7] = columns[7].partition("GB_STATUS=")[0].removesuffix(";") or "."
    return "\t".join(columns)


@pytest.mark.parametrize("kind", ["plain", "gzip", "bgzf", "stdin"])
@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_byte_outside_of_what_is_added_stays(
    kind: str, samples: bool, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(AWKWARD, samples, ending)
    source = tmp_path / "in.vcf"
    if kind == "bgzf":
        with pysam.BGZFile(str(source), "wb") as file:
            file.write(text)
    elif kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        source = Path("-")
    else:
        source.write_bytes(gzip.compress(text) if kind == "gzip" else text)
    output = tmp_path / "out.vcf"
    assert annotate(source, output, [STATUS, SCORE], numbered) == len(AWKWARD)

    before = text.decode().split("\n")
    after = output.read_bytes().decode().split("\n")
    added = [line for line in after if line not in before and line.startswith("##")]
    assert [line[:18] for line in added] == ["##INFO=<ID=GB_STAT", "##INFO=<ID=GB_LLR,"]
    kept = [line for line in after if line not in added]
    assert len(kept) == len(before)
    for old, new in zip(before, kept, strict=True):
        if old.startswith("#") or not old:
            assert new == old
            continue
        assert new != old
        columns, changed = old.split("\t"), new.split("\t")
        assert changed[:7] + changed[8:] == columns[:7] + columns[8:]
        info, has_info = columns[7].rstrip("\r"), columns[7].rstrip("\r") not in ("", ".")
        separator = "" if info.endswith(";") else ";"
        assert changed[7].startswith((info + separator if has_info else "") + "GB_STATUS=")
        assert changed[7].endswith("\r") == columns[7].endswith("\r")


FIELD_TEXT = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\t\n\r\0"), max_size=12
)
RECORDS = st.lists(
    st.tuples(
        FIELD_TEXT.filter(lambda text: text.strip() and not text.startswith("#")),
        st.integers(0, 2**31 - 1).map(str),
        FIELD_TEXT,
        st.text("ACGTNacgtR*<>.[]:", min_size=1, max_size=5),
        st.text("ACGTN,.<>*[]:=", min_size=1, max_size=8),
        FIELD_TEXT,
        FIELD_TEXT,
        FIELD_TEXT,
    ).map("\t".join),
    max_size=15,
)


@settings(max_examples=100)
@given(RECORDS, st.booleans())
def test_any_record_passes_through_unchanged_when_nothing_is_added(
    tmp_path_factory: pytest.TempPathFactory, records: list[str], samples: bool
) -> None:
    folder = tmp_path_factory.mktemp("vcf")
    source, output = folder / "in.vcf", folder / "out.vcf"
    source.write_bytes(text_of(records, samples))
    written = annotate(source, output, [], lambda found: ((record, {}) for record in found))
    assert written == len(records)
    # An empty INFO is written as the missing value; nothing else may change.
    expected = text_of(records, samples).decode().split("\n")
    for old, new in zip(expected, output.read_bytes().decode().split("\n"), strict=True):
        columns = old.split("\t")
        if len(columns) > 7 and columns[7] == "":
            columns[7] = "."
        assert new == "\t".join(columns)


def test_a_record_knows_its_alleles(tmp_path: Path) -> None:
    path = tmp_path / "x.vcf"
    path.write_bytes(text_of(AWKWARD, samples=True))
    with VcfReader(path) as reader:
        assert reader.samples == ("s1", "s2")
        records = list(reader)
    assert [record.number for record in records] == list(range(len(AWKWARD)))
    assert records[2].variants() == tuple(
        Variant("chr1", 6, "a", alt) for alt in ("C", "G", "<DEL>", "*")
    )
    assert records[4].position == -1
    assert records[6].alts == ()
    assert records[6].variants() == (Variant("chr1", 59_999, "C", "."),)
    assert records[3].info == "NOT_IN_HEADER=é%3B"
    assert records[0].line == AWKWARD[0] + "\tGT:GQ:X\t0|1:007:a b\t./."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "has no VCF header; it is empty"),
        (b"x\n", "has no VCF header; it must begin with ##fileformat=VCF"),
        (b"chr1\t5\t.\tA\tC\t.\t.\t.\n", "has no VCF header"),
        (
            COLUMNS.encode() + b"\nchr1\t5\t.\tA\tC\t.\t.\t.\n",
            "has a #CHROM line but no ##fileformat line before it; put ##fileformat=VCFv4.2",
        ),
        (b"##fileformat=VCFv4.2\nchr1\t5\t.\tA\tC\t.\t.\t.\n", "has no VCF header"),
        (b"##fileformat=VCFv4.2\n", "has no VCF header"),
        (b"\x00\x01\x02", "has no VCF header"),
        (text_of(["chr1\t5\t.\tA\tC"]), r"line 6: 5 tab-separated columns found"),
        (text_of(["chr1 5 . A C . . ."]), r"line 6: 1 tab-separated column .*; tabs separate them"),
        (text_of(["\r".join(AWKWARD[:2])]), "line 6: a carriage return is found within the record"),
        (text_of([AWKWARD[0], "chr1\tx\t.\tA\tC\t.\t.\t."]), "line 7: POS 'x' is no whole"),
        (
            text_of([AWKWARD[0], COLUMNS]),
            "line 7: a header line .* remove it, and join VCFs with bc",
        ),
        (gzip.compress(text_of(AWKWARD * 50))[:-30], "is cut short"),
    ],
)
def test_a_malformed_file_is_one_clear_error_and_leaves_no_output(
    text: bytes, reason: str, tmp_path: Path
) -> None:
    source = tmp_path / "in.vcf"
    source.write_bytes(text)
    with pytest.raises(VcfError, match=reason) as caught:
        annotate(source, tmp_path / "out.vcf.gz", [STATUS, SCORE], numbered)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["in.vcf"]


@pytest.mark.parametrize("packing", [bytes, gzip.compress])
def test_the_byte_order_mark_of_an_editor_is_no_part_of_the_header(
    packing: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    text = f"##fileformat=VCFv4.2\n{COLUMNS}\nchr1\t5\t.\tA\tC\t.\t.\t.\n".encode()
    path = tmp_path / "in.vcf"
    path.write_bytes(packing(codecs.BOM_UTF8 + text))
    with VcfReader(path) as reader:
        assert reader.header[0] == "##fileformat=VCFv4.2"
        assert [record.contig for record in reader] == ["chr1"]


def test_a_missing_file_is_a_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        VcfReader(tmp_path / "none.vcf.gz")


def test_scoring_twice_replaces_the_old_values(tmp_path: Path) -> None:
    source = tmp_path / "in.vcf"
    source.write_bytes(text_of(AWKWARD, samples=True))
    once, twice = tmp_path / "once.vcf", tmp_path / "twice.vcf"
    annotate(source, once, [STATUS, SCORE], numbered, meta={"genobirdVersion": "1"})
    annotate(once, twice, [STATUS, SCORE], numbered, meta={"genobirdVersion": "1"})
    assert twice.read_bytes() == once.read_bytes()
    assert once.read_bytes().count(b"GB_STATUS=") == len(AWKWARD)


@pytest.mark.parametrize("kind", ["path", "stdin"])
def test_bcf_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, packed = tmp_path / "in.vcf", tmp_path / "in.bcf"
    note = "##source=of \u2028 and \x0b\n".encode()  # no ends of lines
    text = text_of(["chr1\t5\trs1\tA\tC,G\t29.5\tPASS\tAC=1,2"])
    source.write_bytes(text.replace(b"#CHROM", note + b"#CHROM"))
    with (
        pysam.VariantFile(str(source)) as file,
        pysam.VariantFile(str(packed), "wb", header=file.header) as target,
    ):
        for record in file:
            target.write(record)
    if kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed.read_bytes())))
    with VcfReader(packed if kind == "path" else "-") as reader:
        [found] = list(reader)
        assert reader.header[0] == "##fileformat=VCFv4.2"
        assert note.decode().rstrip("\n") in reader.header
    assert found.line == "chr1\t5\trs1\tA\tC,G\t29.5\tPASS\tAC=1,2"


@pytest.mark.parametrize("cut", [28, 60])
def test_truncated_bcf_is_one_clear_error(
    cut: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, packed = tmp_path / "in.vcf", tmp_path / "in.bcf"
    source.write_bytes(text_of(["chr1\t5\trs1\tA\tC,G\t29.5\tPASS\tAC=1,2"] * 300))
    annotate(source, packed, [], lambda records: ((record, {}) for record in records))
    packed.write_bytes(packed.read_bytes()[:-cut])
    with pytest.raises(VcfError, match="is cut short"):
        list(VcfReader(packed))
    assert capfd.readouterr().err == ""


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "giab_nist.chr20_100kb_at_10Mb.vcf.gz",
        "vt_normalize_input.chr20.vcf.gz",
        "common_snps.chr20_chrX.vcf.gz",
        "1000g_phase3_sites.chr20_1-2Mb.vcf.gz",
    ],
)
def test_published_files_are_annotated_byte_for_byte(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "variants" / name
    output = tmp_path / "out.vcf.gz"
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:

        def checked(records: Iterator[Record]) -> Iterator[tuple[Record, Values]]:
            for record in records:
                statuses = [
                    check(variant, genome) if record.number % 20 == 0 else None
                    for variant in record.variants()
                ]
                yield record, {"GB_STATUS": statuses}

        count = annotate(source, output, [STATUS], checked, genome=genome)
    with gzip.open(source, "rt", newline="") as file:
        before = file.read().split("\n")
    with gzip.open(output, "rt", newline="") as file:
        after = [line for line in file.read().split("\n") if "ID=GB_STATUS," not in line]
    contigs = [line for line in after if line.startswith("##contig") and line not in before]
    assert contigs in ([], ["##contig=<ID=chr20,length=63025520>"])
    after = [line for line in after if line not in contigs]
    assert len(after) == len(before) > count
    assert [without_added(line) for line in after] == before
    assert Path(f"{output}.tbi").exists()
    with pysam.VariantFile(str(output)) as found:
        assert sum(1 for _ in found.fetch("chr20")) > 0
