from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pysam
import pysam.bcftools
import pytest

from genobird.errors import AssemblyError
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator
from genobird.genome.variant import left_align
from genobird.genome.vcf import VcfReader
from genobird.scoring import effects as module
from genobird.scoring.alleles import FLANK
from genobird.scoring.scorer import load
from tests.scoring.calls import annotate_variants, list_variants, read_alleles
from tests.scoring.stub import effects_of_position

HARD = Path(__file__).with_name("hard.vcf")
EXPECTED = pd.read_csv(Path(__file__).with_name("hard.tsv"), sep="\t", keep_default_na=False)
OURS = ("GB_STATUS", "GB_FLAGS", "GB_LLR", "GB_OLD")

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def chr20(shared_data: Path) -> Iterator[Genome]:
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        yield genome


@pytest.fixture
def quick(tiny_checkpoint, monkeypatch):
    """A scorer for whose model every variant has the value of its position."""
    monkeypatch.setattr(module, "effects", effects_of_position)
    return load(tiny_checkpoint, device="cpu")


def lines_of(path: Path) -> list[str]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return text.decode().splitlines()


def records_of(lines: list[str]) -> list[list[str]]:
    return [line.split("\t") for line in lines if not line.startswith("#")]


def without_ours(info: str) -> list[str]:
    return [item for item in info.split(";") if item.partition("=")[0] not in OURS]


def test_each_hard_record_has_its_status_and_normal_form(chr20):
    locator = Locator(chr20, FLANK)
    found = []
    with VcfReader(HARD) as reader:
        names = [record.columns[2] for record in reader]
    for allele in read_alleles(HARD):
        locus = locator.find(allele.variant)
        row = [allele.record, allele.allele, names[allele.record], locus.status.value, ""]
        if locus.status.value == "OK":
            moved = left_align(locus.variant, chr20)
            as_written = moved == allele.variant
            text = f"{moved.position + 1}:{moved.ref}>{moved.alt}"
            row[-1] = "as written" if as_written and len(text) > 99 else text
        found.append(row)
    assert found == EXPECTED.to_numpy().tolist()


@pytest.mark.parametrize("name", ["out.vcf", "out.vcf.gz"])
def test_hard_records_come_out_as_they_went_in(quick, chr20, tmp_path, name):
    counts = annotate_variants(quick, HARD, chr20, tmp_path / name)
    assert counts == EXPECTED["status"].value_counts().to_dict()
    before, after = lines_of(HARD), lines_of(tmp_path / name)
    old, new = records_of(before), records_of(after)
    assert [row[:7] + row[8:] for row in new] == [row[:7] + row[8:] for row in old]
    for number, (was, now) in enumerate(zip(old, new, strict=True)):
        kept = without_ours(was[7])
        added = now[7].removeprefix(";".join(kept)).lstrip(";") if was[7] != "." else now[7]
        facts = dict(item.split("=") for item in added.split(";"))
        rows = EXPECTED[EXPECTED["record"] == number]
        assert facts.pop("GB_STATUS").split(",") == rows["status"].tolist()
        values = facts.pop("GB_LLR", ",".join("." * len(rows)))
        assert [value != "." for value in values.split(",")] == [bool(x) for x in rows["scored"]]
        assert set(facts.pop("GB_FLAGS", ".").split(",")) <= {".", "EDGE"}  # records beside N
        assert not facts
    header = [line for line in before if line.startswith("##")]
    kept_lines = [line for line in header if "GB_" not in line and "genobird" not in line]
    assert [line for line in after if line in header] == kept_lines
    assert "GB_OLD" not in "".join(after)
    assert "##genobirdLiftover" not in "".join(after)


@pytest.mark.parametrize("name", ["out.vcf.gz", "out.bcf"])
def test_hard_records_are_read_by_htslib(quick, chr20, tmp_path, name, capfd):
    annotate_variants(quick, HARD, chr20, tmp_path / name)
    assert not list(tmp_path.glob("*.tbi")), "unsorted: no index"
    with pysam.VariantFile(str(tmp_path / name)) as file:
        statuses = [status for record in file for status in record.info["GB_STATUS"]]
    assert statuses == EXPECTED["status"].tolist()


def test_bcftools_gives_each_alt_its_own_status_and_score(quick, chr20, tmp_path):
    # The input declares neither FORMAT nor FILTER, which bcftools needs; BCF declares them.
    annotate_variants(quick, HARD, chr20, tmp_path / "out.bcf")
    split = tmp_path / "split.vcf"
    arguments = ["--multiallelics", "-any", "--output-type", "v", "--output", str(split)]
    pysam.bcftools.norm(*arguments, str(tmp_path / "out.bcf"), catch_stdout=False)
    found = pysam.bcftools.query("-f", "%INFO/GB_STATUS\\t%INFO/GB_LLR\\n", str(split))
    rows = [line.split("\t") for line in found.splitlines()]
    assert sorted((status, score != ".") for status, score in rows) == sorted(
        (status, bool(scored))
        for status, scored in zip(EXPECTED["status"], EXPECTED["scored"], strict=True)
    )


def test_a_bcf_of_the_hard_records_gives_the_same_output(quick, chr20, tmp_path):
    annotate_variants(quick, HARD, chr20, tmp_path / "a.bcf")
    annotate_variants(quick, tmp_path / "a.bcf", chr20, tmp_path / "b.vcf")
    annotate_variants(quick, tmp_path / "a.bcf", chr20, tmp_path / "b.bcf")
    again = records_of(lines_of(tmp_path / "b.vcf"))
    with VcfReader(tmp_path / "b.bcf") as reader:
        assert [record.line.split("\t") for record in reader] == again
    assert [int(row[1]) for row in again] == [int(row[1]) for row in records_of(lines_of(HARD))]


def test_the_hard_records_as_a_table_have_the_same_statuses(quick, chr20, tmp_path):
    source, output = tmp_path / "in.tsv", tmp_path / "out.parquet"
    rows = [row[:5] for row in records_of(lines_of(HARD))]
    source.write_text(
        "".join("\t".join(row) + "\n" for row in [["CHROM", "POS", "ID", "REF", "ALT"], *rows])
    )
    list_variants(quick, source, chr20, output)
    found = pd.read_parquet(output)
    for column in ("record", "allele", "status"):
        assert found[column].tolist() == EXPECTED[column].tolist()


def test_policies_for_the_hard_records_that_do_not_have_the_ref_of_the_genome(
    quick, chr20, tmp_path
):
    frames = {}
    for policy in ("flag", "skip", "swap"):
        output = tmp_path / f"{policy}.parquet"
        list_variants(quick, HARD, chr20, output, ref_mismatch=policy)
        frames[policy] = pd.read_parquet(output)
    flag, skip, swap = frames.values()
    wrong = (flag["status"] == "REF_MISMATCH").to_numpy()
    names = EXPECTED["name"].to_numpy()
    assert flag.loc[wrong, "llr|delta"].isna().all()
    assert skip["record"].tolist() == flag.loc[~wrong, "record"].tolist()
    assert swap["status"].tolist() == flag["status"].tolist()
    scored = wrong & swap["llr|delta"].notna().to_numpy()
    assert list(names[scored]) == ["swapped", "swapped_one_of_two"]
    assert (swap.loc[scored, "llr|delta"] == -1_000_000).all(), "the sign is that of ALT - REF"
    assert swap.loc[scored, "alt"].tolist() == ["G", "G"]
    with pytest.raises(AssemblyError, match=r"REF C at chr20:1000000 is G in"):
        list_variants(quick, HARD, chr20, tmp_path / "error.tsv", ref_mismatch="error")
    assert not (tmp_path / "error.tsv").exists()
