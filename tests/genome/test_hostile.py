"""VCF as it may come: any mix of kinds of records, in any packing, always one status an ALT."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.errors import VcfError
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator
from genobird.genome.variant import Status
from genobird.genome.vcf import Record, VcfReader
from genobird.genome.vcf_writer import InfoField, Values
from tests.conftest import random_dna, write_fasta
from tests.genome.copies import annotate
from tests.genome.packing import KINDS, pack

LONGEST = 20
STATUS = InfoField("GB_STATUS", "status", "String")
SCORE = InfoField("GB_LLR", "score")
CONTIGS = {
    "chr1": random_dna(400, seed=1),
    "chr2": random_dna(90, seed=2),
    "chrN": "N" * 30 + random_dna(60, seed=3) + "N" * 5,
}
NAMES = {"chr1": "chr1", "1": "chr1", "CHR2": "chr2", "NC_000002.11": "chr2", "chrN": "chrN"}
SYMBOLS = ["*", "<DEL>", "<NON_REF>", "<INS:ME>", "A[chr2:5[", "]1:9]N", ".A", "G.", ".", "<*>"]
OLD_INFO = [".", "AC=1", "DB;;X=1e-05;", "GB_LLR=7;AC=1", "A=%3B#;GB_STATUS=OK", "GB_OLD=1", "é=ü"]
HEADER = [
    "##fileformat=VCFv4.3",
    '##INFO=<ID=GB_OLD,Number=1,Type=Float,Description="x",Source="genobird",Version="0">',
    "##genobirdShard=1/2",
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
]


@st.composite
def lines(draw: st.DrawFn, samples: int) -> str:
    name = draw(st.sampled_from([*NAMES, "chr7", "HLA-A*01:01", "NC_000002.12"]))
    sequence = CONTIGS.get(NAMES.get(name, ""), "ACGT" * 30)
    near = st.sampled_from(
        [-1, 0, 1, len(sequence) - 2, len(sequence) - 1, len(sequence), 2**31 - 9]
    )
    at = draw(near | st.integers(0, len(sequence) - 1))
    own = sequence[max(at, 0) : max(at, 0) + draw(st.integers(1, LONGEST + 2))] or "A"
    ref = draw(
        st.sampled_from([own, own.lower(), own[:1], own])
        | st.text("ACGTacgtNRYKMryk.", min_size=1, max_size=5)
    )
    some = st.text("ACGTacgtNRn", min_size=1, max_size=LONGEST + 4) | st.sampled_from(SYMBOLS)
    alts = draw(st.lists(some | st.just(ref) | st.just(own[:1] + own), min_size=1, max_size=5))
    info = draw(st.sampled_from(OLD_INFO))
    columns = [name, str(at + 1), draw(st.sampled_from([".", "rs1;rs2"])), ref, ",".join(alts)]
    columns += [
        draw(st.sampled_from([".", "29.500", "1e3"])),
        draw(st.sampled_from([".", "q1;s5"])),
    ]
    return "\t".join([*columns, info, *(["GT:X", *["0|1:a b", "."][:samples]] if samples else [])])


@st.composite
def files(draw: st.DrawFn, fewest: int = 0) -> tuple[list[str], int]:
    samples = draw(st.sampled_from([0, 1, 2]))
    return draw(st.lists(lines(samples), min_size=fewest, max_size=8)), samples


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Genome]:
    with Genome(write_fasta(tmp_path_factory.mktemp("genome") / "x.fa", CONTIGS)) as genome:
        yield genome


def expected(line: str) -> list[Status]:
    """Statuses by the words of the manual, one after the other."""
    name, position, _, ref, alts = line.split("\t")[:5]
    sequence = CONTIGS.get(NAMES.get(name, ""))
    start = int(position) - 1
    found = []
    for alt in [""] if alts == "." else alts.split(","):
        big, changed = ref.upper(), alt.upper()
        while min(len(big), len(changed)) > 1 and big[-1] == changed[-1]:
            big, changed = big[:-1], changed[:-1]
        while min(len(big), len(changed)) > 1 and big[0] == changed[0]:
            big, changed = big[1:], changed[1:]
        there = "" if sequence is None else sequence[max(start, 0) : max(start, 0) + len(ref)]
        if alt in ("", "."):
            status = Status.MISSING_ALT
        elif sequence is None:
            status = Status.NO_CONTIG
        elif start < 0 or start + len(ref) > len(sequence):
            status = Status.OUT_OF_BOUNDS
        elif not ref.isalpha():
            status = Status.AMBIGUOUS_BASE
        elif not alt.isalpha():
            status = Status.SYMBOLIC
        elif ref.upper() == alt.upper():
            status = Status.NON_VARIANT
        elif max(len(big), len(changed)) > LONGEST:
            status = Status.TOO_LONG
        elif set(ref.upper() + alt.upper() + there) - set("ACGT"):
            status = Status.AMBIGUOUS_BASE
        else:
            status = Status.OK if there == ref.upper() else Status.REF_MISMATCH
        found.append(status)
    return found


def text_of(records: list[str], samples: int) -> bytes:
    names = ["FORMAT", "a", "b"][: samples + 1] if samples else []
    return "".join(
        f"{line}\n" for line in [*HEADER[:-1], "\t".join([HEADER[-1], *names]), *records]
    ).encode()


@settings(max_examples=100)
@given(files(), st.sampled_from(KINDS), st.sampled_from([".vcf", ".vcf.gz", ".bcf"]))
def test_every_record_comes_out_in_order_with_one_status_an_alt(
    tmp_path_factory: pytest.TempPathFactory,
    genome: Genome,
    drawn: tuple[list[str], int],
    kind: str,
    ending: str,
) -> None:
    records, samples = drawn
    folder = tmp_path_factory.mktemp("hostile")
    source = pack(text_of(records, samples), folder / "in", kind)
    output = folder / f"out{ending}"
    locator = Locator(genome, LONGEST)

    def scored(found: Iterator[Record]) -> Iterator[tuple[Record, Values]]:
        for record in found:
            statuses = [locator.find(variant).status for variant in record.variants()]
            scores = [0.5 if status is Status.OK else None for status in statuses]
            yield record, {"GB_STATUS": statuses, "GB_LLR": scores[: len(record.alts)]}

    assert annotate(source, output, [STATUS, SCORE], scored, genome=genome) == len(records)
    with VcfReader(output) as reader:
        written = list(reader)
        assert not [line for line in reader.header if "GB_OLD" in line or "genobirdShard" in line]
    assert len(written) == len(records)
    for old, new in zip(records, written, strict=True):
        columns, changed = old.split("\t"), new.line.split("\t")
        statuses = [status.value for status in expected(old)]
        facts = [item.partition("=") for item in changed[7].split(";")]
        assert [value for key, _, value in facts if key == "GB_STATUS"] == [",".join(statuses)]
        assert "GB_OLD" not in changed[7]
        if ending == ".bcf":  # BCF holds numbers, not their spelling
            continue
        assert changed[:7] + changed[8:] == columns[:7] + columns[8:]
        kept = [item for item in columns[7].split(";") if not item.startswith("GB_")]
        assert changed[7].startswith("GB_" if kept in ([], ["."]) else ";".join(kept))
    if ending != ".vcf":
        with pysam.VariantFile(str(output)) as file:
            assert sum(1 for _ in file) == len(records)


@settings(max_examples=60)
@given(files(fewest=1), st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_anywhere_is_whole_lines_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[list[str], int], kind: str, share: float
) -> None:
    records, samples = drawn
    source = pack(text_of(records, samples), tmp_path_factory.mktemp("cut") / "in", kind)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(share * len(whole))])
    try:
        with VcfReader(source) as reader:
            found = [record.line for record in reader]
    except VcfError:
        return
    assert kind == "plain", "a cut in compressed data is always noticed"
    # Plain text cannot tell a line that lost its end from a shorter one; all before it is whole.
    assert found[:-1] == records[: max(0, len(found) - 1)]
    assert not found or records[len(found) - 1].startswith(found[-1].rstrip("\t"))
    if found:
        assert found[-1].count("\t") >= reader.header[-1].count("\t")


def test_a_line_with_fewer_columns_than_the_header_is_cut_short(tmp_path: Path) -> None:
    record = "chr1\t5\t.\tA\tC\t.\t.\t.\tGT\t0/1\t1/1"
    path = tmp_path / "in.vcf"
    path.write_bytes(text_of([record, record], 2)[:-5])
    with VcfReader(path) as reader:
        assert next(reader).line == record
        with pytest.raises(VcfError, match="line 6: 10 columns found, the header names 11"):
            next(reader)


def test_what_an_earlier_run_added_is_replaced_also_by_a_model_with_other_outputs(
    tmp_path: Path,
) -> None:
    source, first, second = (tmp_path / f"{n}.vcf" for n in ("in", "first", "second"))
    source.write_bytes(text_of(["chr1\t5\t.\tA\tC\t.\t.\tAC=1;GB_MINE=2"], 0))
    other = InfoField("GB_PROMOTER", "score")

    def adding(key: str, value: float):
        return lambda records: ((record, {key: [value]}) for record in records)

    annotate(source, first, [other], adding("GB_PROMOTER", 1), meta={"genobirdCommand": "old"})
    assert first.read_text().endswith("AC=1;GB_MINE=2;GB_PROMOTER=1\n")
    annotate(first, second, [SCORE], adding("GB_LLR", 2))
    text = second.read_text()
    assert text.endswith("AC=1;GB_MINE=2;GB_LLR=2\n"), "a key that is not genobird's stays"
    assert "GB_PROMOTER" not in text
    assert "genobirdCommand" not in text
    with gzip.open(tmp_path / "x.gz", "wt") as file:
        file.write(text)
    assert [r.info for r in VcfReader(tmp_path / "x.gz")] == ["AC=1;GB_MINE=2;GB_LLR=2"]


def test_a_line_of_tabs_alone_is_no_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "x.vcf"
    record = "chr1\t5\t.\tA\tC\t.\t.\t.\n"
    path.write_text("\n".join(HEADER) + f"\n{record}\n\r\n{record}")
    with VcfReader(path) as reader:
        assert len(list(reader)) == 2
    path.write_text("\n".join(HEADER) + f"\n{record}" + "\t" * 7 + f"\n{record}")
    with pytest.raises(VcfError, match="line 6: POS"), VcfReader(path) as reader:
        list(reader)
