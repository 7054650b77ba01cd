from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pysam
import pytest

from genobird.columns import VARIANT_KEYS
from genobird.errors import AssemblyError, UsageError, VcfError
from genobird.scoring import scan
from genobird.scoring.effects import relative_sizes
from tests.conftest import other
from tests.scoring.calls import annotate_variants

HEADER = [
    "##fileformat=VCFv4.2",
    "##contig=<ID=chr1,length=60000>",
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="Count">',
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
]


def write_vcf(path: Path, records: list[tuple[str, int, str, str]], info: str = ".") -> Path:
    lines = [
        f"{contig}\t{pos}\trs{number}\t{ref}\t{alt}\t9.50\tPASS\t{info}"
        for number, (contig, pos, ref, alt) in enumerate(records)
    ]
    path.write_text("".join(f"{line}\n" for line in [*HEADER, *lines]))
    return path


def read_records(path: Path) -> list[list[str]]:
    with pysam.BGZFile(str(path)) if path.suffix == ".gz" else path.open("rb") as file:
        text = file.read().decode()
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


def info_of(columns: list[str]) -> dict[str, str]:
    return dict(item.split("=") for item in columns[7].split(";") if "=" in item)


@pytest.fixture(scope="session")
def bases(tiny_contigs) -> str:
    return tiny_contigs["chr1"]


def test_each_record_passes_with_one_value_an_alt(scorer, genome, bases, tmp_path):
    ref = bases[20_000]
    alts = f"{other(ref)},*,{other(ref, 2)}"
    records = [
        ("chr1", 20_001, ref, alts),
        ("chr1", 20_001, ref, "."),
        ("chr1", 20_002, other(bases[20_001]), bases[20_001]),
        ("chr7", 5, "A", "C"),
    ]
    source = write_vcf(tmp_path / "in.vcf", records, info="AC=7")
    output, table = tmp_path / "out.vcf.gz", tmp_path / "out.parquet"
    counts = annotate_variants(
        scorer, source, genome, output, table=table, command="genobird variants in.vcf"
    )
    assert counts == {"OK": 2, "SYMBOLIC": 1, "MISSING_ALT": 1, "REF_MISMATCH": 1, "NO_CONTIG": 1}

    written = read_records(output)
    assert [row[:7] for row in written] == [row[:7] for row in read_records(source)]
    assert all(row[7].startswith("AC=7;GB_STATUS=") for row in written)
    first = info_of(written[0])
    assert first["GB_STATUS"] == "OK,SYMBOLIC,OK"
    frame = pd.read_parquet(table)
    assert frame["status"].tolist() == [
        *("OK", "SYMBOLIC", "OK", "MISSING_ALT", "REF_MISMATCH", "NO_CONTIG")
    ]
    for key, column in (("GB_PROMOTER", "promoter|delta"), ("GB_LLR", "llr|delta")):
        low, missing, high = first[key].split(",")
        assert missing == "."
        assert [low, high] == [f"{frame[column][row]:.6g}" for row in (0, 2)]
    deltas = frame.loc[2, [f"{name}|delta" for name in scorer.features]].astype(float)
    top = deltas.abs().idxmax()
    assert first["GB_TOP"].split(",")[2] == top.removesuffix("|delta")
    assert first["GB_CHROMATIN"].split(",")[2] == f"{deltas[top]:.6g}"
    assert [row[7] for row in written[1:]] == [
        f"AC=7;GB_STATUS={status}" for status in ("MISSING_ALT", "REF_MISMATCH", "NO_CONTIG")
    ]


def test_the_header_declares_what_is_added_and_where_it_comes_from(scorer, genome, bases, tmp_path):
    source = write_vcf(tmp_path / "in.vcf", [("chr1", 20_001, bases[20_000], "*")])
    annotate_variants(scorer, source, genome, tmp_path / "out.vcf.gz", command="genobird x")
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as file:
        header = file.header
        kinds = {
            key: (header.info[key].number, header.info[key].type)
            for key in header.info
            if key.startswith("GB_")
        }
        assert kinds == {
            "GB_STATUS": ("A", "String"),
            "GB_FLAGS": ("A", "String"),
            "GB_PROMOTER": ("A", "Float"),
            "GB_LLR": ("A", "Float"),
            "GB_LLR_SE": ("A", "Float"),
            "GB_CHROMATIN": ("A", "Float"),
            "GB_TOP": ("A", "String"),
            "GB_DNASE": ("A", "Float"),
        }
        assert f"##genobirdModel={scorer.model_hash}\n" in str(header)
        assert "##genobirdCommand=genobird x\n" in str(header)
        assert [record.pos for record in file.fetch("chr1", 20_000, 20_001)] == [20_001]


def test_a_stream_of_chunks_gives_the_same_file(scorer, genome, bases, tmp_path, monkeypatch):
    records = [("chr1", at + 1, bases[at], other(bases[at])) for at in range(100, 105)]
    source = write_vcf(tmp_path / "in.vcf", records)
    annotate_variants(scorer, source, genome, tmp_path / "a.vcf", table=tmp_path / "a.tsv")
    monkeypatch.setattr(scorer, "chunk", 2)
    seen = []
    annotate_variants(
        scorer, source, genome, tmp_path / "b.vcf", table=tmp_path / "b.tsv", progress=seen.append
    )
    assert seen == [2, 2, 1]
    pd.testing.assert_frame_equal(
        *(pd.read_csv(tmp_path / name, sep="\t") for name in ("a.tsv", "b.tsv")),
        rtol=0,
        atol=2e-5,
    )
    for left, right in zip(
        read_records(tmp_path / "a.vcf"), read_records(tmp_path / "b.vcf"), strict=True
    ):
        assert left[:7] == right[:7]


def test_skip_leaves_the_record_untouched_and_out_of_the_table(scorer, genome, bases, tmp_path):
    records = [
        ("chr1", 20_001, other(bases[20_000]), f"{bases[20_000]},*"),
        ("chr1", 20_002, bases[20_001], other(bases[20_001])),
    ]
    source = write_vcf(tmp_path / "in.vcf", records)
    output, table = tmp_path / "out.vcf", tmp_path / "out.tsv"
    counts = annotate_variants(scorer, source, genome, output, table=table, ref_mismatch="skip")
    written = read_records(output)
    assert written[0] == read_records(source)[0]
    assert "GB_STATUS=OK;" in written[1][7]
    assert pd.read_csv(table, sep="\t")["record"].tolist() == [1]
    assert counts == {"REF_MISMATCH": 1, "SYMBOLIC": 1, "OK": 1}


def test_many_mismatches_are_warned_of(scorer, genome, bases, tmp_path, caplog):
    source = write_vcf(tmp_path / "in.vcf", [("chr1", 21, other(bases[20]), bases[20])])
    with caplog.at_level(logging.WARNING):
        annotate_variants(scorer, source, genome, tmp_path / "out.vcf")
    assert "REF of 1 in 1 alleles is not that of" in caplog.text


@pytest.mark.parametrize(
    ("record", "policy", "error"),
    [
        (("chr7", 5, "A", "C"), "flag", AssemblyError),
        (None, "error", AssemblyError),
        (None, "other", UsageError),
    ],
)
def test_a_run_that_fails_leaves_no_output(scorer, genome, bases, tmp_path, record, policy, error):
    wrong = ("chr1", 21, other(bases[20]), bases[20])
    source = write_vcf(tmp_path / "in.vcf", [record or wrong])
    output, table = tmp_path / "out.vcf.gz", tmp_path / "out.parquet"
    with pytest.raises(error):
        annotate_variants(scorer, source, genome, output, table=table, ref_mismatch=policy)
    assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]


def test_a_damaged_line_stops_without_output(scorer, genome, bases, tmp_path):
    source = write_vcf(tmp_path / "in.vcf", [("chr1", 21, bases[20], "*")])
    with source.open("a") as file:
        file.write("chr1\t22\n")
    with pytest.raises(VcfError, match="line 6"):
        annotate_variants(scorer, source, genome, tmp_path / "out.vcf", table=tmp_path / "t.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]


def test_a_file_without_records_gives_one_without_records(scorer, genome, tmp_path):
    source = write_vcf(tmp_path / "in.vcf", [])
    output, table = tmp_path / "out.vcf", tmp_path / "out.tsv"
    assert annotate_variants(scorer, source, genome, output, table=table).total() == 0
    assert read_records(output) == []
    columns = table.read_text().rstrip("\n").split("\t")
    assert columns[: len(VARIANT_KEYS)] == list(VARIANT_KEYS)
    assert "##INFO=<ID=GB_STATUS" in output.read_text()


def test_records_without_a_score_are_the_same_alone_and_among_scored_ones(
    scorer, genome, bases, tmp_path
):
    ref = bases[20_000]
    idle = [
        *(("chr1", 20_001, ref, "<DEL>,*"), ("chr1", 20_001, other(ref), other(ref, 2))),
        *(("chr1", 20_001, ref, "."), ("chr7", 5, "A", "C"), ("chr1", 70_000, "A", "C")),
    ]
    scored = ("chr1", 20_001, ref, other(ref))
    alone, among = idle * 7, [*(idle * 7)[:-1], scored]  # three chunks each, the last one short
    rows, tables = [], []
    for name, records in (("alone", alone), ("among", among)):
        source = write_vcf(tmp_path / f"{name}.vcf", records, info="AC=7;")
        output, table = tmp_path / f"{name}.out.vcf", tmp_path / f"{name}.tsv"
        counts = annotate_variants(scorer, source, genome, output, table=table)
        assert counts["SYMBOLIC"] == 14
        rows.append(read_records(output))
        tables.append(table.read_text().splitlines())
    assert rows[0][:-1] == rows[1][:-1]
    assert tables[0][:-1] == tables[1][:-1]
    assert rows[0][0][7] == "AC=7;GB_STATUS=SYMBOLIC,SYMBOLIC"
    assert len(rows[0]) == 35
    assert "GB_LLR=" in rows[1][-1][7]


def test_a_record_without_a_score_costs_no_frame(scorer, genome, bases, tmp_path, monkeypatch):
    def refuse(*_: object) -> pd.DataFrame:
        raise AssertionError("nothing is to be scored")

    monkeypatch.setattr(scan, "screen", refuse)
    records = [("chr1", 20_001, bases[20_000], "<DEL>")] * 40
    source = write_vcf(tmp_path / "in.vcf", records)
    assert annotate_variants(scorer, source, genome, tmp_path / "out.vcf") == {"SYMBOLIC": 40}


def test_the_feature_that_leads_and_the_mean_of_accessibility_are_written(
    scorer, genome, bases, tmp_path
):
    at = 20_000
    alt = "A" if bases[at] != "A" else "C"
    source = write_vcf(tmp_path / "in.vcf", [("chr1", at + 1, bases[at], alt)])
    table = tmp_path / "out.parquet"
    annotate_variants(scorer, source, genome, tmp_path / "out.vcf", table=table)
    row = pd.read_parquet(table).iloc[0]
    names = scorer.features
    ref, alts = (
        row[[f"{name}|{part}" for name in names]].to_numpy(float)[None] for part in ("ref", "alt")
    )
    leader = names[int(relative_sizes(ref, alts, names, None).argmax())]
    with pysam.VariantFile(str(tmp_path / "out.vcf")) as file:
        info = next(iter(file)).info
    kinds = scorer.checkpoint.features["class"]
    cells = [name for name, kind in zip(names, kinds, strict=True) if kind == "DNase"]
    mean = row[[f"{name}|delta" for name in cells]].mean()
    assert info["GB_TOP"] == (leader,)
    assert info["GB_CHROMATIN"][0] == pytest.approx(row[f"{leader}|delta"], rel=1e-4)
    assert info["GB_DNASE"][0] == pytest.approx(mean, rel=1e-4)


def test_the_nearest_start_of_a_gene_is_told(scorer, genome, bases, tmp_path):
    genes = tmp_path / "genes.bed"
    genes.write_text("1\t18000\t19000\tA;B, C\t0\t-\n1\t40000\t50000\tD\t0\t+\n")
    ref = bases[20_000]
    records = [("chr1", 20_001, ref, f"{other(ref)},*"), ("chr1", 39_001, "N", "A")]
    source = write_vcf(tmp_path / "in.vcf", records)
    output, table = tmp_path / "out.vcf", tmp_path / "out.parquet"
    annotate_variants(scorer, source, genome, output, table=table, genes=genes)
    first, second = map(info_of, read_records(output))
    assert (first["GB_GENE"], first["GB_GENE_DISTANCE"]) == ("A%3BB%2C%20C,.", "-1001,.")
    assert "GB_GENE" not in second
    with pysam.VariantFile(str(output)) as file:
        assert next(iter(file)).info["GB_GENE_DISTANCE"] == (-1001, None)
    frame = pd.read_parquet(table)
    assert frame["gene"].tolist()[0] == "A;B, C"
    assert frame["gene_distance"].tolist()[0] == -1001
    assert frame[["gene", "gene_distance"]].isna().all(axis=1).tolist() == [False, True, True]
    plain = tmp_path / "plain.vcf"
    annotate_variants(scorer, source, genome, plain)
    kept = {key: value for key, value in first.items() if not key.startswith("GB_GENE")}
    assert info_of(read_records(plain)[0]) == kept
