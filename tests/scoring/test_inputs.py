from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pysam
import pytest
from Bio.Seq import MutableSeq, Seq
from Bio.SeqRecord import SeqRecord

from genobird.errors import AssemblyError, SequenceError, TableError, UsageError
from genobird.genome.interval import Interval
from genobird.genome.streams import BEYOND
from genobird.genome.variant import Variant
from genobird.scoring.alleles import opened_variants
from genobird.scoring.inputs import named_sequences, read_regions
from tests.scoring.calls import read_alleles

NAMES = ["chrom", "pos", "ref", "alt"]
ROW = ("chr1", 1000, "T", ("A", "C"))
FRAME = pd.DataFrame([ROW], columns=NAMES)
NAMED = dict(zip(NAMES, ROW, strict=True))

FORMS = {
    "tuples": [ROW],
    "lists": [["chr1", 1000, "T", ["A", "C"]]],
    "an array of ALTs": [("chr1", np.int64(1000), "T", np.array(["A", "C"]))],
    "one row": ROW,
    "a dict": NAMED,
    "dicts": [NAMED],
    "to_dict of records": FRAME.to_dict("records"),
    "to_dict of lists": FRAME.to_dict("list"),
    "records": FRAME.to_records(),
    "named tuples": FRAME.itertuples(),
    "rows of a frame": (row for _, row in FRAME.iterrows()),
    "a frame": FRAME,
    "any dtype": FRAME.astype({"chrom": "category", "pos": "Int64", "ref": "string"}),
    "floats": FRAME.astype({"pos": "float64"}),
    "names as pysam's": [{"chrom": "chr1", "pos": "1000", "ref": "T", "alts": ("A", "C")}],
    "an array": np.array([["chr1", "1000", "T", "A,C"]]),
    "bytes": np.array([[b"chr1", b"1000", b"T", b"A,C"]]),
    "Biopython": [("chr1", 1000, Seq("T"), (Seq("A"), Seq("C")))],
    "a generator": (row for row in [ROW]),
    "a series": pd.Series(["chr1:1000:T:A", "chr1:1000:T:C"], index=["a", "b"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_variants_in_any_usual_form_are_read(form):
    found = [allele.variant for allele in read_alleles(FORMS[form])]
    assert found == [Variant("chr1", 999, "T", "A"), Variant("chr1", 999, "T", "C")]


def test_records_of_pysam_are_variants(tmp_path):
    path = tmp_path / "in.vcf"
    columns = "#CHROM POS ID REF ALT QUAL FILTER INFO".replace(" ", "\t")
    rows = ["chr1\t1000\t.\tT\tA,C\t.\t.\t.", "chr1\t7\t.\tT\t.\t.\t.\t."]
    path.write_text("\n".join(["##fileformat=VCFv4.2", "##contig=<ID=chr1>", columns, *rows, ""]))
    with pysam.VariantFile(str(path)) as file:
        assert list(read_alleles(file)) == list(read_alleles(path))


@pytest.mark.parametrize("missing", [None, (), "", ".", np.nan, pd.NA])
def test_a_row_without_alt_is_one_without_alt(missing):
    [allele] = read_alleles([("chr1", 5, "A", missing)])
    assert (allele.allele, allele.variant) == (0, Variant("chr1", 4, "A", "."))


@pytest.mark.parametrize("large", [10**30, 1e30, "9" * 5_000, np.uint64(2**64 - 1)])
def test_a_large_position_is_beyond_every_contig(large):
    rows = [("chr1", large, "A", "C"), ("chr1", 5, "A", "C")]
    for given in (rows, pd.DataFrame(rows, columns=NAMES, dtype=object)):
        assert [a.variant.position for a in read_alleles(given)] == [BEYOND - 1, 4]
    assert read_regions([("chr1", 1, large)]) == [Interval("chr1", 1, BEYOND)]
    [allele] = read_alleles(Variant("chr1", 10**40, "A", "C"))
    assert allele.variant.position == BEYOND - 1
    [allele] = read_alleles(Variant("chr1", -(10**40), "A", "C"))
    assert allele.variant.position == 1 - BEYOND


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        (None, UsageError, "None is given as variants; needed are chrom, pos"),
        (5, UsageError, "5 is given as variants"),
        (b"chr1:5:A>C", UsageError, "b'chr1:5:A>C' is given as variants"),
        (np.array(5), UsageError, "is given as variants"),
        ([None], UsageError, "None is among the variants; give strings as chr20:1000:A>G, or rows"),
        ([("chr1", 5, "A")], UsageError, "is among the variants"),
        ([{"chrom": "chr1"}], TableError, "the variants have no column pos, ref, alt; needed are"),
        ({"chrom": ["a", "b"], "pos": [1]}, TableError, "the variants are no table"),
        ([("chr1", -5, "A", "C")], TableError, r"variant \(.*\): pos -5 is no number"),
        ([("chr1", True, "A", "C")], TableError, "pos True is no number"),
        ([(["chr1"], 5, "A", "C")], TableError, "is found where one value is needed"),
        ([("chr1", 5, "A", "-")], TableError, "allele '-' has no bases; give the base before"),
        ([("chr1", 5, "--", "A")], TableError, "allele '--' has no bases; give the base before"),
        ([Variant("chr1", "5", "A", "C")], UsageError, "its position must be a whole number"),
        ([Variant("chr1", 5, "A", None)], UsageError, "contig, REF and ALT text"),
    ],
)
def test_what_is_no_variant_is_one_clear_error(given, error, reason):
    with pytest.raises(error, match=reason) as caught:
        list(read_alleles(given))
    assert "\n" not in str(caught.value)


REGION = ("chr1", 100, 200, "n", "*")
REGION_NAMES = ["chrom", "start", "end", "name", "strand"]
REGION_FRAME = pd.DataFrame([REGION], columns=REGION_NAMES)


@pytest.mark.parametrize(
    "given",
    [
        [REGION],
        REGION,
        [list(REGION)],
        dict(zip(REGION_NAMES, REGION, strict=True)),
        REGION_FRAME,
        REGION_FRAME.to_dict("records"),
        REGION_FRAME.to_dict("list"),
        REGION_FRAME.to_records(),
        REGION_FRAME.itertuples(),
        REGION_FRAME.astype({"start": float, "end": "Int64", "name": "category"}),
        np.array([REGION]),
    ],
)
def test_regions_in_any_usual_form_are_read(given):
    assert read_regions(given) == [Interval("chr1", 100, 200, ".", "n")]


def test_name_and_strand_of_a_region_may_be_missing():
    expected = [Interval("chr1", 100, 200)]
    assert read_regions([("chr1", 100, 200)]) == expected
    assert read_regions([("chr1", 100, 200, None, np.nan)]) == expected
    assert read_regions(pd.Series(["chr1:101-200"], index=["x"])) == expected


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        (None, UsageError, "None is given as regions; needed are chrom, start"),
        ([None], UsageError, "None is among the regions; give intervals"),
        ([("chr1",)], UsageError, "is among the regions"),
        ([("chr1", -1, 5)], TableError, "start '-1' is no whole number"),
        ([("chr1", 1, 5, "n", "x")], TableError, "strand 'x' is unknown"),
        ([{"chrom": "chr1", "start": 1}], TableError, "the regions have no column end"),
    ],
)
def test_what_is_no_region_is_one_clear_error(given, error, reason):
    with pytest.raises(error, match=reason):
        read_regions(given)


def test_an_id_that_names_another_assembly_is_compared_with_the_genome():
    ids = ["chr20_1000_A_G_b38", "chr20_1001_A_G_b38"]
    with opened_variants(ids) as source:
        assert [allele.variant.position for allele in source] == [999, 1000]
        assert source.assemblies == {"GRCh38"}
        source.records = iter([])
        # All that is asked of a genome where no variant was read.
        genome = SimpleNamespace(contigs={"20": 63_025_520}, path="hg19.fa")
        with pytest.raises(AssemblyError, match=r"another assembly than hg19.fa: it is GRCh38"):
            source.locator(genome)


DNA = "ACGT" * 5
Record = namedtuple("Record", ["name", "sequence"])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (DNA, "0"),
        (DNA.encode(), "0"),
        (Seq(DNA), "0"),
        (MutableSeq(DNA), "0"),
        (SeqRecord(Seq(DNA), id="r"), "r"),
        ({"a": DNA}, "a"),
        ({5: Seq(DNA)}, "5"),
        ([DNA], "0"),
        ((Seq(DNA),), "0"),
        ([SeqRecord(Seq(DNA), id="r")], "r"),
        ([Record("pysam", DNA)], "pysam"),
        (np.array([DNA]), "0"),
        (np.array([DNA.encode()]), "0"),
        (bytearray(DNA.encode()), "0"),
        ([memoryview(DNA.encode())], "0"),
        (pd.Series([DNA]), "0"),
        (pd.Series({"x": DNA}, dtype="string"), "x"),
        ((text for text in [DNA]), "0"),
    ],
)
def test_sequences_in_any_usual_form_are_read(given, name):
    assert list(named_sequences(given)) == [(name, DNA)]


@pytest.mark.parametrize(
    "given", [None, 5, [None], {"a": None}, [[DNA]], pd.DataFrame({"s": [DNA]})]
)
def test_what_is_no_sequence_is_one_clear_error(given):
    with pytest.raises(UsageError, match=r"is given as sequence.*; give strings, Seq or SeqRecord"):
        list(named_sequences(given))


def test_a_sequence_without_letters_is_refused():
    with pytest.raises(SequenceError, match="has a length, but no letters"):
        list(named_sequences([Seq(None, length=10)]))


def test_a_dict_is_scored_under_its_names(scorer):
    found = scorer.score_sequences({"a": DNA * 20, "b": Seq(DNA * 10)})
    assert found["chrom"].tolist() == ["a", "b"]
    assert found["end"].tolist() == [400, 200]
    expected = scorer.score_sequences([DNA * 20, DNA * 10])
    pd.testing.assert_frame_equal(found.drop(columns="chrom"), expected.drop(columns="chrom"))
    np.testing.assert_array_equal(scorer.embed({"a": DNA}), scorer.embed(Seq(DNA)))
    with pytest.raises(SequenceError, match="sequence b is empty"):
        scorer.embed({"a": DNA, "b": ""})


def test_wrong_arguments_are_one_clear_error(scorer, genome):
    with pytest.raises(UsageError, match="5 is given as features; give names or classes"):
        scorer.score_sequences(DNA, features=5)
    with pytest.raises(UsageError, match="no feature or class '5'"):
        scorer.score_sequences(DNA, features=[5])
    for fasta in (None, 5, {"chr1": DNA}, "a\0b"):
        with pytest.raises(UsageError, match=r"give its path|check the path"):
            scorer.score_regions("chr1:1-5", fasta)
    with pytest.raises(UsageError, match="5 is given where a file is needed"):
        scorer.score_regions("chr1:1-5", genome, liftover=5)
