from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest

from genobird.genome.locus import Locator
from genobird.genome.sequence import reverse_complement
from genobird.genome.vcf import VcfReader
from genobird.scoring.alleles import Allele, alleles_of
from genobird.scoring.effects import screen
from genobird.scoring.haplotypes import HAPLOTYPES, Haplotypes
from genobird.scoring.parts import Part, merge
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import EffectSettings
from tests.conftest import other
from tests.scoring.calls import annotate_variants
from tests.scoring.quick_logits import stub_logits

EXACT = {"rtol": 0, "atol": 2e-5}
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tme\n"
AT = 30_000


@pytest.fixture
def quick(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """A scorer whose logits are quick sums over a sequence, bent, so that effects do not add up."""
    stub_logits(monkeypatch)
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def contig(tiny_contigs) -> str:
    return tiny_contigs["chr1"]


@pytest.fixture
def rows(contig) -> list[tuple[int, str, str, str]]:
    """Position, REF, ALT and genotype."""
    return [
        (AT - 6_000, contig[AT - 6_000], other(contig[AT - 6_000]), "1|0"),
        (AT - 40, contig[AT - 40 : AT - 34], contig[AT - 40], "0|1"),
        (AT, contig[AT], other(contig[AT]), "1|1"),
        (AT + 10, contig[AT + 10], f"{contig[AT + 10]}GATTACA", "1|0"),
        (AT + 50, contig[AT + 50], other(contig[AT + 50]), "0/1"),
        (AT + 20_000, contig[AT + 20_000], other(contig[AT + 20_000]), "0|1"),
    ]


@pytest.fixture
def vcf(rows, tmp_path) -> Path:
    path = tmp_path / "in.vcf"
    lines = [f"chr1\t{p + 1}\t.\t{ref}\t{alt}\t.\t.\t.\tGT\t{gt}\n" for p, ref, alt, gt in rows]
    path.write_text(HEADER + "".join(lines))
    return path


def alleles_in(path: Path) -> list[Allele]:
    with VcfReader(path) as reader:
        return [allele for record in reader for allele in alleles_of(record)]


def columns(
    scorer: Scorer, path: Path, genome, part: slice = slice(None), **options
) -> pd.DataFrame:
    with Haplotypes(scorer, path, "me", Locator(genome, 8_000), **options) as haplotypes:
        return haplotypes.columns(alleles_in(path)[part])


def carrying(contig: str, rows, haplotype: int, upto: int | None = None) -> str:
    """The contig with the phased alleles of a haplotype; with `upto`, its part before there."""
    text = contig if upto is None else contig[:upto]
    for position, ref, alt, genotype in reversed(rows):
        if "|" in genotype and genotype[2 * haplotype] == "1" and position < len(text):
            text = text[:position] + alt + text[position + len(ref) :]
    return text


@pytest.mark.parametrize(("row", "haplotype"), [(2, 0), (2, 1), (3, 0)])
def test_the_joint_effect_is_that_of_a_contig_that_carries_all_phased_alts(
    quick, genome, contig, rows, vcf, row, haplotype
):
    table = columns(quick, vcf, genome)
    at = rows[row][0]
    whole = carrying(contig, rows, haplotype)
    place = len(carrying(contig, rows, haplotype, at))
    texts = [contig[at - 8_100 : at + 8_100], whole[place - 8_100 : place + 8_100]]
    logits = quick.chromatin_logits(texts, [8_100, 8_100])
    joint = logits[1] - logits[0]
    best = np.abs(joint).argmax()
    name = HAPLOTYPES[haplotype]
    assert table[f"{name}|chromatin|top"][row] == quick.features[best]
    np.testing.assert_allclose(table[f"{name}|chromatin|joint"][row], joint[best], **EXACT)

    singles = []
    for position, ref, alt, genotype in rows:
        if "|" in genotype and genotype[2 * haplotype] == "1" and abs(position - at) < 8_100:
            alone = contig[:position] + alt + contig[position + len(ref) :]
            moved = at + (len(alt) - len(ref) if position < at else 0)
            window = alone[moved - 8_100 : moved + 8_100]
            singles.append(quick.chromatin_logits([window], [8_100])[0, best] - logits[0, best])
    assert table[f"{name}|count"][row] == len(singles) > 1
    np.testing.assert_allclose(table[f"{name}|chromatin|sum"][row], sum(singles), **EXACT)
    assert abs(joint[best] - sum(singles)) > 1e-4


@pytest.mark.parametrize(
    ("is_shared", "along", "against"),
    [(False, (5_000, 3_000), (5_000, 3_000)), (True, (8_100, 8_100), (8_099, 8_101))],
)
def test_the_promoter_is_asked_on_the_strand_where_ref_or_the_haplotype_is_larger(
    quick, genome, contig, rows, vcf, is_shared, along, against
):
    table = columns(quick, vcf, genome, settings=EffectSettings(one_window=is_shared))
    whole = carrying(contig, rows, 0)
    place = len(carrying(contig, rows, 0, AT))
    both = ((contig, AT), (whole, place))
    plus = [text[at - along[0] : at + along[1]] for text, at in both]
    minus = [
        reverse_complement(text[at - against[1] + 1 : at + against[0] + 1]) for text, at in both
    ]
    windows = ((plus, along), (minus, against))
    logits = np.array([quick.promoter_logits(two, [reach[0]] * 2) for two, reach in windows])
    best = logits[logits.max(axis=1).argmax()]
    np.testing.assert_allclose(table["haplotype1|promoter|joint"][2], best[1] - best[0], **EXACT)
    assert np.isfinite(table["haplotype1|promoter|sum"][2])


def test_an_alt_alone_on_its_haplotype_has_its_own_effect_as_joint_effect_and_as_sum(
    scorer, genome, vcf
):
    table = columns(scorer, vcf, genome, slice(5, 6))
    plain = screen(scorer, alleles_in(vcf)[5:6], genome)
    assert table["haplotype2|count"][0] == 1
    top = table["haplotype2|chromatin|top"][0]
    for part in ("joint", "sum"):
        found = table[f"haplotype2|chromatin|{part}"][0]
        np.testing.assert_allclose(found, plain[f"{top}|delta"][0], **EXACT)
        found = table[f"haplotype2|promoter|{part}"][0]
        np.testing.assert_allclose(found, plain["promoter|delta"][0], **EXACT)


def test_an_alt_has_effects_on_the_haplotypes_that_carry_it(quick, genome, vcf):
    table = columns(quick, vcf, genome)
    phases = ["PHASED", "PHASED", "PHASED", "PHASED", "UNPHASED", "PHASED"]
    assert table["phase"].tolist() == phases
    # Of the ALT 6,000 bp away the window has the ALT at 0 and the insertion, and both have it.
    assert table["haplotype1|count"].tolist() == [3, 0, 3, 3, 0, 0]
    assert table["haplotype2|count"].tolist() == [0, 2, 2, 0, 0, 1]
    for name in HAPLOTYPES:
        carried = (table[f"{name}|count"] > 0).tolist()
        for part in ("promoter|joint", "promoter|sum", "chromatin|top", "chromatin|joint"):
            assert table[f"{name}|{part}"].notna().tolist() == carried


def test_an_alt_that_only_the_haplotype_has_in_reach_adds_nothing_alone(
    quick, genome, contig, tmp_path
):
    gone = 60  # deleted bases bring an ALT behind the end of the window into the haplotype's
    far = AT + 8_100 + gone // 2
    path = tmp_path / "reach.vcf"
    path.write_text(
        HEADER
        + f"chr1\t{AT + 1}\t.\t{contig[AT : AT + gone + 1]}\t{contig[AT]}\t.\t.\t.\tGT\t1|0\n"
        + f"chr1\t{far + 1}\t.\t{contig[far]}\t{other(contig[far])}\t.\t.\t.\tGT\t1|0\n"
    )
    table = columns(quick, path, genome)
    assert table["haplotype1|count"].tolist() == [2, 2]
    alone = screen(quick, alleles_in(path)[:1], genome)
    name = table["haplotype1|chromatin|top"][0]
    np.testing.assert_allclose(
        table["haplotype1|chromatin|sum"][0], alone[f"{name}|delta"][0], **EXACT
    )


def test_rows_are_the_same_whatever_part_of_the_file_is_asked_about(quick, genome, vcf):
    whole = columns(quick, vcf, genome)
    for part in (slice(0, 2), slice(2, 4), slice(4, None)):
        found = columns(quick, vcf, genome, part)
        expected = whole[part].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, atol=2e-5)


def test_info_is_of_the_haplotype_with_the_larger_joint_effect(quick, genome, vcf):
    with Haplotypes(quick, vcf, "me", Locator(genome, 8_000)) as haplotypes:
        table = haplotypes.columns(alleles_in(vcf))
        info = haplotypes.info(table)
        assert list(info) == [field.id for field in haplotypes.fields]
        assert haplotypes.counts == {"PHASED": 5, "UNPHASED": 1}
    both = table.loc[2, [f"{name}|chromatin|joint" for name in HAPLOTYPES]].astype(float).abs()
    name = HAPLOTYPES[int(both.to_numpy().argmax())]
    assert info["GB_HAP_JOINT"][2] == table[f"{name}|chromatin|joint"][2]
    assert info["GB_HAP_SUM"][2] == table[f"{name}|chromatin|sum"][2]
    assert info["GB_HAP_TOP"][2] == table[f"{name}|chromatin|top"][2]
    assert info["GB_HAP_N"][2] == table[f"{name}|count"][2]
    assert info["GB_HAP_PROMOTER_JOINT"][0] == table["haplotype1|promoter|joint"][0]
    assert info["GB_PHASE"][4] == "UNPHASED"
    assert {info[key][4] for key in info if key != "GB_PHASE"} == {None}


def test_features_narrow_what_competes_for_the_top(quick, genome, vcf):
    table = columns(quick, vcf, genome, features=["DNase"])
    assert set(table["haplotype1|chromatin|top"].dropna()) == {"A|DNase|None"}


@pytest.mark.parametrize(("head", "keys"), [("promoter", "chromatin"), ("chromatin", "promoter")])
def test_columns_are_for_the_heads_that_the_model_has(quick, genome, vcf, head, keys):
    setattr(quick.checkpoint, head, None)
    quick.features = [] if head == "chromatin" else quick.features
    with Haplotypes(quick, vcf, "me", Locator(genome, 8_000)) as haplotypes:
        table = haplotypes.columns(alleles_in(vcf))
        info = haplotypes.info(table)
    assert any(f"|{keys}|" in name for name in table.columns)
    assert not any(f"|{head}|" in name for name in table.columns)
    assert list(info) == [field.id for field in haplotypes.fields]
    assert info["GB_HAP_N"][:2] == ([3, 2] if head == "promoter" else [1, 2])


def test_effects_are_averaged_over_the_offsets_of_the_settings(quick, genome, vcf):
    settings = EffectSettings(shifts=3)
    wide = columns(quick, vcf, genome, settings=settings)
    assert not np.allclose(
        wide["haplotype1|chromatin|joint"][2],
        columns(quick, vcf, genome)["haplotype1|chromatin|joint"][2],
    )
    single = screen(quick, alleles_in(vcf)[5:6], genome, settings=settings)
    top = wide["haplotype2|chromatin|top"][5]
    for output, name in (("chromatin", top), ("promoter", "promoter")):
        for part in ("joint", "sum"):
            found = wide[f"haplotype2|{output}|{part}"][5]
            np.testing.assert_allclose(found, single[f"{name}|delta"][0], **EXACT)


def test_no_records_give_the_same_columns(quick, genome, vcf):
    whole = columns(quick, vcf, genome)
    empty = columns(quick, vcf, genome, slice(0, 0))
    assert list(empty.columns) == list(whole.columns)
    assert empty.empty


def test_shards_and_a_resumed_run_give_the_bytes_of_one_run(
    quick, tiny_genome_path, vcf, tmp_path, monkeypatch
):
    monkeypatch.setattr(quick, "chunk", 2)

    def annotated(name: str, **options) -> list[Path]:
        files = [tmp_path / f"{name}.vcf.gz", tmp_path / f"{name}.parquet"]
        more = {"table": files[1], "phased": "me", **options}
        annotate_variants(quick, vcf, tiny_genome_path, files[0], **more)
        return files

    whole = annotated("whole")
    parts = [annotated(f"part{n}", part=Part.parse(f"{n}/2")) for n in (1, 2)]
    merged = [tmp_path / "merged.vcf.gz", tmp_path / "merged.parquet"]
    for output, shards in zip(merged, zip(*parts, strict=True), strict=True):
        merge(shards, output)
        assert output.exists()
    assert lines_of(merged[0]) == lines_of(whole[0])
    pd.testing.assert_frame_equal(pd.read_parquet(merged[1]), pd.read_parquet(whole[1]))

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotated("again", progress=stop)
    again = annotated("again", resume=True)
    for made, expected in zip(again, whole, strict=True):
        assert made.read_bytes() == expected.read_bytes()


def lines_of(path: Path) -> list[str]:
    with pysam.BGZFile(str(path)) as file:
        lines = file.read().decode().splitlines()
    return [line for line in lines if not line.startswith("##genobirdCommand")]
