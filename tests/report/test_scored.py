from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from genobird.checkpoint import Checkpoint
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant, left_align
from genobird.report import scored
from genobird.report.curves import locus_curves, profiles_of, region_lines, variant_of
from genobird.report.scored import allele_logos, sides_of, write_report
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import EffectSettings
from tests.conftest import other, write_fasta
from tests.models import starts_checkpoint

FEATURE = "A|DNase|None"
AT = 30_000
EXACT = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint):
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture
def genome(tiny_genome_path):
    with Genome(tiny_genome_path) as genome:
        yield genome


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(scored, "SPAN", 1)


def row(variant: Variant, **more: object) -> dict[str, object]:
    keys = {"chrom": variant.contig, "pos": variant.position + 1, "ref": variant.ref}
    keys |= {"alt": variant.alt, "record": 4, "allele": 2, "feature": FEATURE}
    return {**keys, **more}


def label_of(picture: str) -> str | None:
    return ElementTree.fromstring(picture).get("aria-label")


def test_each_allele_is_mutated_in_the_window_that_it_was_scored_in(scorer, genome, tiny_contigs):
    contig = tiny_contigs["chr1"]
    snv = Variant("chr1", AT, contig[AT], other(contig[AT]))
    screened = scorer.screen_variants([snv], genome)
    windows = contig[AT - 8_100 : AT + 8_100]
    windows = {"REF": windows, "ALT": windows[:8_100] + snv.alt + windows[8_101:]}
    for side in sides_of(scorer, row(snv), genome, FEATURE):
        text = windows[side.label]
        assert side.scan.bases == text[8_099:8_102]
        assert side.mark == (1, 2)
        expected = screened[f"{FEATURE}|{side.label.lower()}"]
        np.testing.assert_allclose(side.scan.ref, expected, **EXACT)
    strip = side.strip()
    changed = [text[:8_099] + base + text[8_100:] for base in "ACGT"]
    logits = scorer.chromatin_logits(changed, [8_100] * 4)[:, scorer.features.index(FEATURE)]
    np.testing.assert_allclose(strip.deltas[0], logits - side.scan.ref, **EXACT)


def test_a_promoter_is_drawn_as_it_is_scored_by_the_likeliest_start_near_the_variant(
    genome, tiny_contigs, tiny_tokenizer
):
    scorer = Scorer(starts_checkpoint(tiny_tokenizer))
    snv = Variant("chr1", AT, tiny_contigs["chr1"][AT], other(tiny_contigs["chr1"][AT]))
    apart = EffectSettings(one_window=False)
    screened = scorer.screen_variants([snv], genome, settings=apart)
    for side in sides_of(scorer, row(snv), genome, "promoter"):
        expected = screened[f"promoter|{side.label.lower()}"]
        np.testing.assert_allclose(side.scan.ref, expected, **EXACT)


def test_an_indel_shows_both_alleles_with_their_lengths(scorer, genome, tiny_contigs):
    contig = tiny_contigs["chr1"]
    at = next(n for n in range(AT, AT + 99) if len(set(contig[n - 1 : n + 4])) == 4)
    longer = Variant("chr1", at, contig[at : at + 3], contig[at])
    ref, alt = sides_of(scorer, row(longer), genome, FEATURE)
    assert ref.mark[1] - ref.mark[0] == 3
    assert alt.mark[1] - alt.mark[0] == 1
    assert len(ref.scan.bases) == 5
    assert len(alt.scan.bases) == 3


def test_a_long_allele_is_cut(scorer, genome, tiny_contigs):
    snv = Variant("chr1", AT, tiny_contigs["chr1"][AT], tiny_contigs["chr1"][AT] + "ACGTT" * 20)
    _, alt = sides_of(scorer, row(snv), genome, FEATURE)
    assert alt.scan.length == 40
    assert alt.mark[1] == 40


def test_bases_behind_an_n_are_left_out(scorer, tmp_path, tiny_contigs, monkeypatch):
    monkeypatch.setattr(scored, "SPAN", 10)
    text = tiny_contigs["chr1"][:2_000]
    text = text[:995] + "N" + text[996:1_003] + "N" + text[1_004:]
    with Genome(write_fasta(tmp_path / "n.fa", {"chr1": text})) as genome:
        snv = Variant("chr1", 1_000, text[1_000], other(text[1_000]))
        ref, _ = sides_of(scorer, row(snv), genome, FEATURE)
    assert ref.scan.bases == text[996:1_003]
    assert ref.mark == (4, 5)


def test_a_lifted_variant_is_taken_where_it_was_lifted_to():
    variant = Variant("chrA", 10, "AC", "A")
    lifted = {"lifted_chrom": "chr1", "lifted_pos": 500, "lifted_strand": "-"}
    assert variant_of(row(variant)) == variant
    assert variant_of(row(variant, **lifted)) == Variant("chr1", 499, reverse_complement("AC"), "T")
    assert variant_of(row(variant, **lifted | {"lifted_strand": "+"})) == Variant(
        "chr1", 499, "AC", "A"
    )


def turned(variant: Variant, pos: int) -> dict[str, object]:
    """A row of a variant that was lifted to the other strand, as the input has it at POS."""
    ref, alt = reverse_complement(variant.ref), reverse_complement(variant.alt)
    lifted = {"lifted_chrom": "chr1", "lifted_pos": variant.position + 1, "lifted_strand": "-"}
    return row(Variant("old", pos - 1, ref, alt), **lifted)


def test_what_was_lifted_to_the_other_strand_is_drawn_along_the_strand_of_the_input(
    scorer, genome, tiny_contigs
):
    base = tiny_contigs["chr1"][AT]
    snv = Variant("chr1", AT, base, other(base))
    plain, there = (profiles_of(scorer, one, genome, FEATURE) for one in (row(snv), turned(snv, 9)))
    for name, (across, up) in plain.items():
        assert there[name] == ([-x for x in across[::-1]], up[::-1])
    sides = [sides_of(scorer, one, genome, FEATURE) for one in (row(snv), turned(snv, 9))]
    for both in zip(*sides, strict=True):
        plain, there = (side.strip() for side in both)
        assert there.bases == reverse_complement(plain.bases)
        assert there.bases[slice(*there.mark)] == reverse_complement(plain.bases[1])
        np.testing.assert_allclose(there.deltas[0, 0], plain.deltas[2, 3], **EXACT)  # A, T
        np.testing.assert_allclose(there.heights, plain.heights[::-1], **EXACT)


def test_a_lifted_deletion_has_the_alleles_of_the_input_and_lies_behind_pos(
    scorer, genome, tiny_contigs
):
    contig = tiny_contigs["chr1"]
    at = next(n for n in range(AT, AT + 99) if len(set(contig[n - 1 : n + 3])) == 4)
    deletion = Variant("chr1", at, contig[at : at + 3], contig[at + 2])  # the last is kept
    asked = turned(deletion, 9)
    for side, allele in zip(sides_of(scorer, asked, genome, FEATURE), ("ref", "alt"), strict=True):
        strip = side.strip()
        assert strip.bases[slice(*strip.mark)] == asked[allele]
    lines = profiles_of(scorer, asked, genome, FEATURE)
    # POS is the kept base, and the place that the table asks about is the third behind it.
    table = scorer.screen_variants(
        [deletion], genome, settings=EffectSettings(scores=("probability",))
    )
    for name, column in (("REF", "ref_p"), ("ALT", "alt_p")):
        across, up = lines[name]
        expected = table[f"{FEATURE}|{column}"][0]
        np.testing.assert_allclose(up[across.index(3)], expected, **EXACT)


@pytest.mark.parametrize("at", [AT, 700])
def test_profiles_have_the_probabilities_of_the_table_at_the_variant(
    scorer, genome, tiny_contigs, at
):
    base = tiny_contigs["chr1"][at]
    deletion = Variant("chr1", at, tiny_contigs["chr1"][at : at + 3], base)
    for variant in (Variant("chr1", at, base, other(base)), deletion):
        variant = left_align(variant, genome)
        effects = EffectSettings(scores=("probability",))
        table = scorer.screen_variants([variant], genome, settings=effects)
        found = profiles_of(scorer, row(variant), genome, FEATURE)
        first = -1_500 if variant.position >= 1_500 else -(variant.position // 50 * 50)
        for side, column in (("REF", "ref_p"), ("ALT", "alt_p")):
            across, up = found[side]
            gone = len(variant.ref) - len(variant.alt) if side == "ALT" else 0
            assert (min(across), max(across)) == (first, 1_500 + gone)
            expected = table[f"{FEATURE}|{column}"][0]
            np.testing.assert_allclose(up[across.index(0)], expected, **EXACT)
    assert profiles_of(scorer, row(variant), genome, "promoter") == {}


@pytest.mark.parametrize("strand", [".", "+", "-"])
@pytest.mark.parametrize("length", [400, 5_000])
def test_curves_of_a_region_have_its_probabilities_at_the_midpoint(scorer, genome, strand, length):
    region = Interval("chr1", AT, AT + length, strand)
    found = region_lines(scorer, region, genome, [FEATURE])
    names = {"+": "promoter, + strand", "-": "promoter, \N{MINUS SIGN} strand"}
    asked = [names[one] for one in names if strand in (".", one)]
    assert list(found) == [*asked, FEATURE]
    [scored] = scorer.score_regions([region], genome).to_dict("records")
    at_midpoint = {}
    for name, (across, up) in found.items():
        assert across == sorted(across)
        assert (min(across), max(across)) == ((-1_500, 1_500) if length == 400 else (-4_500, 4_500))
        at_midpoint[name] = up[across.index(0)]
    np.testing.assert_allclose(at_midpoint[FEATURE], scored[FEATURE], **EXACT)
    np.testing.assert_allclose(max(at_midpoint[one] for one in asked), scored["promoter"], **EXACT)


def test_curves_ask_about_places_of_the_genome_alone(scorer, genome, tiny_contigs):
    length = len(tiny_contigs["chr1"])
    for region in (Interval("chr1", 100, 300), Interval("chr1", length - 300, length - 100)):
        for across, _ in region_lines(scorer, region, genome, [FEATURE]).values():
            assert 0 <= region.midpoint + min(across) < 100 or min(across) == -1_500
            assert length - 100 <= region.midpoint + max(across) < length or max(across) == 1_500


def test_a_promoter_along_the_reverse_strand_is_that_of_the_turned_genome(
    scorer, genome, tiny_contigs, tmp_path
):
    contig = tiny_contigs["chr1"]
    [(across, up)] = region_lines(scorer, Interval("chr1", AT, AT + 1, "-"), genome, []).values()
    turned = write_fasta(tmp_path / "turned.fa", {"chr1": reverse_complement(contig)})
    at = len(contig) - 1 - AT
    with Genome(turned) as other_way:
        region = Interval("chr1", at, at + 1, "+")
        [(there, same)] = region_lines(scorer, region, other_way, []).values()
    assert across == [-x for x in there[::-1]]
    np.testing.assert_allclose(up, same[::-1], **EXACT)


def test_the_first_regions_of_a_report_are_drawn(scorer, genome, tmp_path):
    regions = [Interval("chr1", at, at + 200, ".", f"r{at}") for at in (AT, AT + 400)]
    table = tmp_path / "r.parquet"
    scored = scorer.score_regions(regions, genome)
    scored.to_parquet(table)
    page = tmp_path / "r.html"
    write_report(page, scorer, genome, "genobird", regions=table, curves=1)
    text = page.read_text()
    best = scored.loc[scored["promoter"].idxmax()]
    assert text.count("probability against bp from the midpoint") == 1
    assert f"<h3>1. {best['name']} chr1:{best['start'] + 1:,}" in text
    assert "<p>The first region of the table, with" in text
    assert "still being computed" not in text
    assert "<script" not in text


def test_the_first_variants_of_a_report_are_drawn_also_without_logos(
    scorer, genome, tiny_contigs, tmp_path
):
    base = tiny_contigs["chr1"][AT]
    snv, table = Variant("chr1", AT, base, other(base)), tmp_path / "v.parquet"
    scorer.screen_variants([snv], genome, features=["DNase"]).to_parquet(table)
    write_report(tmp_path / "v.html", scorer, genome, "genobird", variants=table)
    text = (tmp_path / "v.html").read_text()
    assert text.count("probability against bp from the variant") == 1
    assert "Bases around" not in text
    assert "still being computed" not in text
    rows = pd.DataFrame([row(snv), row(snv, record=5, feature="promoter")])
    [(key, curves), other_pair] = locus_curves(scorer, rows, genome)
    title = "probability against bp from the variant: A DNase; lines: REF, ALT"
    assert (key, label_of(curves)) == ((4, 2), title)
    assert other_pair == ((5, 2), "")


def test_a_head_that_reads_no_places_has_no_curve(tiny_checkpoint, genome):
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.promoter = None
    checkpoint.chromatin.config = checkpoint.chromatin.config.model_copy(update={"pool": "cls"})
    alone = Scorer(checkpoint, device="cpu")
    assert region_lines(alone, Interval("chr1", AT, AT + 1), genome, [FEATURE]) == {}
    snv = Variant("chr1", AT, "A", "C")
    assert profiles_of(alone, row(snv), genome, FEATURE) == {}


def test_places_behind_an_insertion_are_those_of_the_genome(scorer, genome, tiny_contigs):
    base = tiny_contigs["chr1"][AT]
    longer = left_align(Variant("chr1", AT, base, base + "GATTACA" * 30), genome)
    lines = profiles_of(scorer, row(longer), genome, FEATURE)
    ref, alt = (lines[side][0] for side in ("REF", "ALT"))
    assert alt == sorted(alt)
    assert max(alt) == 1_500 - 210
    assert [x for x in alt if x <= 0] == [x for x in ref if x <= 0]
    assert not {50, 100, 150, 200} & set(alt)


def test_a_model_without_promoters_and_profiles_has_a_report_without_logos(
    tiny_checkpoint, tiny_genome_path, tiny_contigs, tmp_path
):
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.promoter = checkpoint.chromatin = None
    alone = Scorer(checkpoint, device="cpu")
    base = tiny_contigs["chr1"][AT]
    variant = Variant("chr1", AT, base, other(base))
    table = tmp_path / "v.parquet"
    alone.screen_variants([variant], tiny_genome_path).to_parquet(table)
    with Genome(tiny_genome_path) as genome:
        page = tmp_path / "r.html"
        write_report(page, alone, genome, "genobird", variants=table, logos=1)
    assert "still being computed" not in page.read_text()


def test_logos_come_one_after_the_other_and_what_remains_is_said(
    scorer, tiny_genome_path, tiny_contigs, caplog
):
    caplog.set_level("INFO", "genobird")
    base = tiny_contigs["chr1"][AT]
    rows = [row(Variant("chr1", AT, base, other(base)), record=n) for n in range(2)]
    drawn = allele_logos(scorer, pd.DataFrame(rows), tiny_genome_path)
    key, logo = next(drawn)
    assert key == (0, 2)
    assert "logo 1 of 2: 36 windows left, about " in caplog.text
    assert "logo 2 of 2" not in caplog.text
    assert ">logit</text>" in logo
    assert label_of(logo) == f"Bases around chr1:{AT + 1} that matter for {FEATURE}"
    assert [key for key, _ in drawn] == [(1, 2)]
    assert "logo 2 of 2: 18 windows left, about " in caplog.text


def test_nothing_is_drawn_of_nothing(scorer, tiny_genome_path, caplog):
    caplog.set_level("INFO", "genobird")
    assert not list(allele_logos(scorer, pd.DataFrame(), tiny_genome_path))
    assert "logo" not in caplog.text
