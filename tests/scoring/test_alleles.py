from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import AssemblyError, TableError, UsageError, VcfError
from genobird.genome.streams import Peeked
from genobird.genome.variant import Variant
from genobird.scoring import effects as module
from genobird.scoring.alleles import Allele, is_table, named_input
from tests.conftest import random_dna, write_fasta
from tests.genome.packing import KINDS, pack
from tests.scoring.calls import annotate_variants, list_variants, read_alleles
from tests.scoring.stub import effects_of_position

ROWS = [("chr1", 5, "A", "C"), ("2", 7, "AC", "A,G"), ("chrX", 9, "t", "<DEL>"), ("1", 1, "A", ".")]
ALLELES = [
    Allele(0, 1, Variant("chr1", 4, "A", "C")),
    Allele(1, 1, Variant("2", 6, "AC", "A")),
    Allele(1, 2, Variant("2", 6, "AC", "G")),
    Allele(2, 1, Variant("chrX", 8, "t", "<DEL>")),
    Allele(3, 0, Variant("1", 0, "A", ".")),
]
VCF = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def table(header: str, separator: str, quote: str = "") -> str:
    rows = [
        separator.join(
            f"{quote}{cell}{quote}" if quote and "," in str(cell) else str(cell) for cell in row
        )
        for row in ROWS
    ]
    return "\n".join([header, *rows]) + "\n"


TABLES = {
    "tsv": table("chrom\tpos\tref\talt", "\t"),
    "csv": table("chrom,pos,ref,alt", ",", '"'),
    "spaces": table("chrom pos ref alt", " "),
    "shouting": table("#CHROM\tPOS\tREF\tALT", "\t"),
    "excel": "\ufeff" + table("Chrom,Pos,Ref,Alt", ",", '"').replace("\n", "\r\n"),
    "comments": "## made somewhere\n\n" + table("chrom\tpos\tref\talt", "\t") + "\n\n",
    "no_last_feed": table("chrom\tpos\tref\talt", "\t").rstrip("\n"),
    "more_columns": "".join(
        f"x\t{line}\ty\n" for line in table("chrom\tpos\tref\talt", "\t").splitlines()
    ),
    "vcf_columns_without_its_first_line": "#CHROM\tPOS\tID\tREF\tALT\tQUAL\n"
    + "".join(f"{c}\t{p}\t.\t{r}\t{a}\t.\n" for c, p, r, a in ROWS),
    "vcf_of_an_editor": "\ufeff"
    + VCF
    + "".join(f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for c, p, r, a in ROWS),
    "vcf": VCF + "".join(f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for c, p, r, a in ROWS),
}


@pytest.mark.parametrize("kind", [*KINDS, "stdin"])
@pytest.mark.parametrize("name", TABLES)
def test_a_file_of_variants_is_known_by_its_first_line(name, kind, tmp_path, monkeypatch):
    text = TABLES[name].encode()
    if kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    source = "-" if kind == "stdin" else str(pack(text, tmp_path / "in", kind))
    peeked = Peeked(source, VcfError)
    assert is_table(peeked) == (name not in ("vcf", "vcf_of_an_editor"))
    assert list(read_alleles(peeked)) == ALLELES


def test_frames_strings_and_variants_are_the_same_alleles():
    frame = pd.DataFrame(ROWS, columns=["chrom", "pos", "ref", "alt"])
    assert list(read_alleles(frame)) == ALLELES
    assert list(read_alleles(frame.rename(columns={"chrom": "#CHROM", "pos": "POS"}))) == ALLELES
    texts = ["chr1:5:A>C", "2-7-AC-A", Variant("2", 6, "AC", "G"), "chrX-9-T-<DEL>", "1-1-A-."]
    found = [allele.variant for allele in read_alleles(texts)]
    assert [str(variant).upper() for variant in found] == [
        str(allele.variant).upper() for allele in ALLELES
    ]


def test_a_missing_cell_is_a_missing_allele_and_numbers_may_be_floats():
    frame = pd.DataFrame(
        {
            "chrom": [20, np.nan, 1],
            "pos": [1e6, 7.0, 3.0],
            "ref": ["A", "C", None],
            "alt": [None, "G", "T"],
        }
    )
    assert list(read_alleles(frame)) == [
        Allele(0, 0, Variant("20", 999_999, "A", ".")),
        Allele(1, 1, Variant("", 6, "C", "G")),
        Allele(2, 1, Variant("1", 2, ".", "T")),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["chr1", "MT", "HLA-A*01:01", "7"]),
            st.integers(0, 2**31),
            st.text("ACGTNacgt", min_size=1, max_size=9),
            st.lists(
                st.sampled_from(["*", "<DEL>", "N", "]1:5]A"])
                | st.text("ACGT", min_size=1, max_size=9),
                min_size=1,
                max_size=4,
            ).map(",".join),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["tsv", "csv", "frame"]),
)
def test_any_table_gives_the_alleles_of_the_same_vcf(tmp_path_factory, rows, kind):
    folder = tmp_path_factory.mktemp("table")
    frame = pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt"])
    vcf = folder / "in.vcf"
    vcf.write_text(VCF + "".join(f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for c, p, r, a in rows))
    source: Path | pd.DataFrame = frame
    if kind != "frame":
        source = folder / f"in.{kind}"
        frame.to_csv(source, sep="\t" if kind == "tsv" else ",", index=False)
    assert list(read_alleles(source)) == list(read_alleles(vcf))


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("chrom\tpos\tref\talt\nchr1\tx\tA\tC\n", TableError, "in, line 2: pos 'x' is no number"),
        ("chrom\tpos\tref\talt\nchr1\t5.5\tA\tC\n", TableError, "line 2: pos '5.5' is no number"),
        ("chrom\tpos\tref\talt\nchr1\t-5\tA\tC\n", TableError, "line 2: pos '-5' is no number"),
        ("##x\nchrom,pos,ref,alt\n1,5,A,C\n1,5,A\n", TableError, r"line 4: 3 columns found"),
        ("chrom\tpos\tref\talt\n1\t5\tA\tC\n\t\t\t\n", TableError, "line 3: pos '' is no number"),
        ("chrom\tpos\talt\n1\t5\tA\n", VcfError, "no VCF header.*a table instead begins with"),
        ("chr1\t5\tA\tC\n", VcfError, "no VCF header"),
        ("", VcfError, "no VCF header"),
    ],
)
def test_what_is_no_table_is_one_clear_error(text, error, reason, tmp_path):
    (tmp_path / "in").write_text(text)
    with pytest.raises(error, match=reason) as caught:
        list(read_alleles(tmp_path / "in"))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_cut_short_is_an_error(tmp_path):
    (tmp_path / "in").write_bytes(gzip.compress(TABLES["tsv"].encode())[:-9])
    with pytest.raises(VcfError, match="cut short"):
        list(read_alleles(tmp_path / "in"))


def test_a_row_of_a_frame_that_is_no_variant_is_named():
    frame = pd.DataFrame({"chrom": ["1"] * 2, "pos": [5, 5.5], "ref": ["A"] * 2, "alt": ["C"] * 2})
    with pytest.raises(TableError, match=r"row 1 of the variants: pos 5.5 is no number"):
        list(read_alleles(frame))


def test_a_command_line_names_a_file_or_variants(tmp_path):
    path = tmp_path / "chr1-5-A-C"  # a file comes first
    path.write_text(TABLES["tsv"])
    assert isinstance(named_input([str(path)]), Peeked)
    assert named_input(["chr1:5:A>C", "2-7-AC-A"]) == [
        Variant("chr1", 4, "A", "C"),
        Variant("2", 6, "AC", "A"),
    ]
    with pytest.raises(UsageError, match="is one of 2 inputs; give one file, or variants"):
        named_input(["1-5-A-C", str(tmp_path)])
    with pytest.raises(
        UsageError, match="rs1 does not exist, and is no variant such as chr20:1000"
    ):
        named_input(["rs1"])
    with pytest.raises(UsageError, match="positions are 1-based, the first base is 1"):
        named_input(["chr1:0:A>C"])


@pytest.fixture
def quick(scorer, monkeypatch):
    """A scorer for whose model the delta of a variant is its position on the genome."""
    monkeypatch.setattr(module, "effects", effects_of_position)
    return scorer


def other(base: str) -> str:
    return "AC"[base == "A"]


def test_a_long_table_is_written_as_it_is_scored(quick, genome, tiny_contigs, tmp_path):
    bases = tiny_contigs["chr1"]
    count = 3 * quick.chunk + 5
    source, seen = tmp_path / "in.tsv", []
    rows = [f"1\t{at + 1}\t{bases[at]}\t{other(bases[at])},*\n" for at in range(count)]
    source.write_text("chrom\tpos\tref\talt\n" + "".join(rows))
    output = tmp_path / "out.parquet"
    counts = list_variants(
        quick, source, genome, output, command="genobird x", progress=seen.append
    )
    assert counts == {"OK": count, "SYMBOLIC": count}
    assert sum(seen) == 2 * count
    assert len(seen) > 3
    found = pd.read_parquet(output)
    pd.testing.assert_frame_equal(found, quick.screen_variants(source, genome), check_dtype=False)
    assert found["record"].tolist() == [at for at in range(count) for _ in range(2)]
    facts = pq.read_schema(output).metadata
    assert facts[b"genobird.command"] == b"genobird x"
    assert facts[b"genobird.model"] == quick.model_hash.encode()


def test_a_table_without_rows_gives_one_without_rows(quick, genome, tmp_path):
    (tmp_path / "in.csv").write_text("chrom,pos,ref,alt\n")
    assert list_variants(quick, tmp_path / "in.csv", genome, tmp_path / "out.tsv").total() == 0
    assert (
        (tmp_path / "out.tsv").read_text().startswith("chrom\tpos\tref\talt\tid\trecord\tallele\t")
    )


# Lifting: 300 bases of the old chr1 lie turned around on the new chr5.
OLD, NEW = random_dna(1_000, seed=21), random_dna(2_000, seed=22)


@pytest.fixture
def lifting(tmp_path):
    from genobird.genome.sequence import reverse_complement

    new = NEW[:400] + reverse_complement(OLD[200:500]) + NEW[400:]
    fasta = write_fasta(tmp_path / "new.fa", {"chr5": new})
    chain = tmp_path / "old.chain.gz"
    text = f"chain 1 chr1 1000 + 200 500 chr5 {len(new)} - {len(new) - 700} {len(new) - 400} 1\n"
    pack(f"{text}300\n".encode(), chain, "gzip")
    return fasta, chain


def test_lifted_variants_are_scored_where_the_genome_has_their_ref(quick, lifting, tmp_path):
    fasta, chain = lifting
    rows = [
        ("1", 251, OLD[250], other(OLD[250])),
        ("chr1", 252, other(OLD[251]), OLD[251]),
        ("chr1", 101, OLD[100], other(OLD[100])),
        ("chr1", 253, OLD[252:255], OLD[252]),
        ("chr1", 254, OLD[253], "*"),
        ("chr1", 254, OLD[253], "."),
    ]
    source = tmp_path / "in.vcf"
    lines = [f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\tAC=1\n" for c, p, r, a in rows]
    source.write_text(VCF + "".join(lines))
    output, listed = tmp_path / "out.vcf", tmp_path / "out.parquet"
    counts = annotate_variants(quick, source, fasta, output, table=listed, liftover=chain)
    statuses = ["OK", "REF_MISMATCH", "NOT_LIFTED", "OK", "SYMBOLIC", "MISSING_ALT"]
    frame = pd.read_parquet(listed)
    assert frame["status"].tolist() == statuses
    assert counts.total() == len(rows)
    assert frame["pos"].tolist() == [row[1] for row in rows], "keys are those of the input"
    # old base i lies at 899 - i of the new contig
    starts = [650, 649, None, 646, 647, None]
    assert (
        frame["lifted_pos"].astype(object).where(frame["lifted_pos"].notna(), None).tolist()
        == starts
    )
    assert frame["lifted_strand"].dropna().unique().tolist() == ["-"]
    assert frame["llr|delta"].notna().tolist() == [status == "OK" for status in statuses]
    assert frame["llr|delta"][0] == 650
    written = output.read_text().splitlines()
    assert [line.split("\t")[:7] for line in written[-6:]] == [
        line.split("\t")[:7] for line in lines
    ]
    infos = [line.split("\t")[7] for line in written[-6:]]
    assert infos[0].startswith(
        "AC=1;GB_STATUS=OK;GB_LIFTED_CHROM=chr5;GB_LIFTED_POS=650;GB_LIFTED_STRAND=-;GB_LLR=650"
    )
    assert infos[2] == "AC=1;GB_STATUS=NOT_LIFTED"
    assert "##genobirdLiftover=old.chain.gz" in written
    assert not [line for line in written if line.startswith("##contig")], "of the new assembly"
    swapped = quick.screen_variants(source, fasta, liftover=chain, ref_mismatch="swap")
    assert swapped["llr|delta"][1] == -649


def test_lifted_regions_keep_their_place_and_are_scored_on_the_genome(scorer, lifting):
    from genobird.genome.interval import Interval
    from genobird.scoring.regions import score_regions

    fasta, chain = lifting
    regions = [Interval("1", 300, 340, "+", "a"), Interval("chr1", 100, 140), Interval("9", 5, 9)]
    found = score_regions(scorer, regions, fasta, liftover=chain, strict=True)
    assert found["status"].tolist() == ["OK", "NOT_LIFTED", "NOT_LIFTED"]
    assert found["start"].tolist() == [300, 100, 5]
    row = found.iloc[0]
    lifted = Interval(
        row["lifted_chrom"], row["lifted_start"], row["lifted_end"], row["lifted_strand"]
    )
    assert lifted == Interval("chr5", 560, 600, "-")
    direct = score_regions(scorer, [lifted], fasta)
    columns = ["promoter", *scorer.features]
    np.testing.assert_array_equal(direct[columns].to_numpy(), found[columns].to_numpy()[:1])


def test_a_file_of_another_assembly_stops_before_anything_is_scored(
    scorer, genome, tiny_contigs, tmp_path, monkeypatch
):
    monkeypatch.setattr(scorer.inference.passes, "run", lambda *_: pytest.fail("scored"))
    source = tmp_path / "in.vcf"
    source.write_text(VCF.replace("#CHROM", "##contig=<ID=1,length=70000>\n#CHROM", 1))
    output = tmp_path / "out.vcf"
    with pytest.raises(AssemblyError, match=r"contig 1 has 70,000 bp, there 60,000 bp"):
        annotate_variants(scorer, source, genome, output)
    with pytest.raises(AssemblyError, match=r"contig 1 has 70,000 bp, there 60,000 bp"):
        scorer.screen_variants(source, genome)
    assert not output.exists()
    assert annotate_variants(scorer, source, genome, output, ignore_build=True).total() == 0
    bases = tiny_contigs["chr1"]
    frame = pd.DataFrame(
        {
            "chrom": "chr1",
            "pos": range(101, 151),
            "ref": [other(base) for base in bases[100:150]],
            "alt": ["G" if base != "G" else "T" for base in bases[100:150]],
        }
    )
    with pytest.raises(AssemblyError, match="the table seems to be of another assembly"):
        scorer.screen_variants(frame, genome)


def test_the_report_on_a_run_as_json_counts_the_statuses(
    capsys, quick, tiny_genome_path, tiny_checkpoint, tmp_path
):
    from genobird.cli import main

    (tmp_path / "in.csv").write_text("chrom,pos,ref,alt\nchr9,5,A,C\nchr1,5,A,.\n")
    options = ["--fasta", str(tiny_genome_path), "--model", str(tiny_checkpoint)]
    output = str(tmp_path / "out.tsv")
    code = main(["variants", str(tmp_path / "in.csv"), *options, "-o", output, "--json"])
    assert code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["statuses"] == {"MISSING_ALT": 1, "NO_CONTIG": 1}
    assert summary["alleles"] == 2
    assert main(["variants", "chr1:5:A>.", "1-9-A-.", *options, "-o", "-", "-q"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("\t")[:8] for row in rows[1:]] == [
        ["chr1", "5", "A", ".", "", "0", "0", "MISSING_ALT"],
        ["1", "9", "A", ".", "", "1", "0", "MISSING_ALT"],
    ]
    for wrong in ("out.vcf", "out.vcf.gz", "out.bcf"):
        arguments = [str(tmp_path / "in.csv"), *options, "-o", str(tmp_path / wrong)]
        assert main(["variants", *arguments]) == 2
        assert "variants that are no VCF give one table and no VCF" in capsys.readouterr().err


def test_rows_one_string_and_one_variant_are_alleles_too(tmp_path):
    assert list(read_alleles(ROWS)) == ALLELES
    expected = [Allele(0, 1, Variant("chr1", 4, "A", "C"))]
    assert list(read_alleles("chr1:5:A>C")) == expected
    assert list(read_alleles(expected[0].variant)) == expected
    long = f"chr1:5:A>{'ACGT' * 2_000}"  # longer than a name of a file may be
    assert next(read_alleles(long)).variant.alt == "ACGT" * 2_000
    with pytest.raises(UsageError, match=r"none\.vcf does not exist"):
        list(read_alleles(str(tmp_path / "none.vcf")))
    for wrong in (5, ("chr1", 5, "A")):
        with pytest.raises(UsageError, match=r"is among the variants; give strings as chr20:1000"):
            list(read_alleles([wrong]))
    with pytest.raises(TableError, match=r"variant \('chr1', .*\): pos 'x' is no number"):
        list(read_alleles([("chr1", "x", "A", "C")]))


@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_a_row_with_more_cells_than_the_header_is_refused(tmp_path, separator):
    # An unquoted T,G of a CSV file lost its G.
    rows = [("chrom", "pos", "ref", "alt"), ("chr1", "5", "A", "C"), ("chr1", "7", "A", "T", "G")]
    source = tmp_path / "in.csv"
    source.write_text("".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(TableError, match=r"line 3: 5 columns found, the header has 4; give"):
        list(read_alleles(source))


def test_empty_cells_behind_a_row_lose_nothing(tmp_path):
    (tmp_path / "in.csv").write_text("chrom,pos,ref,alt\nchr1,5,A,C,,\n")
    assert list(read_alleles(tmp_path / "in.csv")) == [Allele(0, 1, Variant("chr1", 4, "A", "C"))]
