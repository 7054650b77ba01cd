from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genobird.columns import VARIANT_KEYS
from genobird.errors import AssemblyError, TableError, UsageError, VcfError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant
from genobird.scoring.settings import EffectSettings
from tests.conftest import other, write_fasta

EXACT = {"rtol": 0, "atol": 2e-5}
AT = 30_000


@pytest.fixture(scope="session")
def snv(tiny_contigs) -> Variant:
    base = tiny_contigs["chr1"][AT]
    return Variant("chr1", AT, base, other(base))


def part(table: pd.DataFrame, which: str) -> np.ndarray:
    names = [name for name in table.columns if name.endswith(f"|{which}")]
    return table[names].to_numpy()


def test_the_table_has_the_keys_and_three_columns_an_output(scorer, genome, snv):
    table = scorer.screen_variants([snv], genome)
    outputs = ["promoter", "llr", *scorer.features]
    columns = [f"{output}|{what}" for output in outputs for what in ("ref", "alt", "delta")]
    columns.insert(columns.index("llr|delta") + 1, "llr|se")
    assert list(table.columns) == [*VARIANT_KEYS, "top", *columns]
    row = table.iloc[0]
    assert row[list(VARIANT_KEYS)].tolist() == [
        "chr1",
        AT + 1,
        snv.ref,
        snv.alt,
        "",
        0,
        1,
        "OK",
        "",
    ]
    sizes = [abs(row[f"{name}|delta"]) for name in scorer.features]
    assert row["top"] == scorer.features[int(np.argmax(sizes))]
    np.testing.assert_array_equal(part(table, "delta"), part(table, "alt") - part(table, "ref"))
    assert (np.abs(part(table, "delta")) > 1e-4).all()


def test_chromatin_is_that_of_both_windows_centred_on_the_variant(
    scorer, genome, snv, tiny_contigs
):
    table = scorer.screen_variants([snv], genome)
    contig = tiny_contigs["chr1"]
    ref = contig[AT - 8_100 : AT + 8_100]
    alt = ref[:8_100] + snv.alt + ref[8_101:]
    expected = scorer.chromatin_logits([ref, alt], [8_100, 8_100])
    for row, what in enumerate(("ref", "alt")):
        columns = [f"{name}|{what}" for name in scorer.features]
        np.testing.assert_allclose(table[columns].to_numpy()[0], expected[row], **EXACT)


def test_the_promoter_strand_is_that_of_the_larger_logit_for_both_alleles(
    scorer, genome, snv, tiny_contigs
):
    table = scorer.screen_variants([snv], genome, settings=EffectSettings(one_window=False))
    contig = tiny_contigs["chr1"]
    changed = contig[:AT] + snv.alt + contig[AT + 1 :]
    logits = np.array(
        [
            scorer.promoter_logits(
                [text[AT - 5_000 : AT + 3_000] for text in (contig, changed)], [5_000, 5_000]
            ),
            scorer.promoter_logits(
                [reverse_complement(text[AT - 2_999 : AT + 5_001]) for text in (contig, changed)],
                [5_000, 5_000],
            ),
        ]
    )
    expected = logits[logits.max(axis=1).argmax()]
    found = table[["promoter|ref", "promoter|alt"]].to_numpy()[0]
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize(("cut", "put"), [(1, "snv"), (1, "AGGT"), (4, "one"), (3, "CTGAC")])
def test_on_a_genome_that_carries_alt_swapped_alleles_flip_each_delta(
    scorer, genome, tiny_contigs, tmp_path, cut, put
):
    contig = tiny_contigs["chr1"]
    ref = contig[AT : AT + cut]
    alt = {"snv": other(ref[0]), "one": ref[0], "AGGT": ref[0] + "GGTCA"}.get(put, ref[0] + put)
    carrier = contig[:AT] + alt + contig[AT + cut :]
    fasta = write_fasta(tmp_path / "carrier.fa", {"chr1": carrier})
    forward = scorer.screen_variants([Variant("chr1", AT, ref, alt)], genome)
    backward = scorer.screen_variants([Variant("chr1", AT, alt, ref)], fasta)
    np.testing.assert_allclose(part(forward, "delta"), -part(backward, "delta"), **EXACT)
    np.testing.assert_allclose(part(forward, "ref"), part(backward, "alt"), **EXACT)


def test_swap_scores_what_the_genome_carries_and_keeps_the_sign_of_alt_minus_ref(
    scorer, genome, snv
):
    turned = Variant("chr1", AT, snv.alt, snv.ref)
    neither = Variant("chr1", AT, snv.alt, other(snv.ref, 2))
    table = scorer.screen_variants([snv, turned, neither], genome, ref_mismatch="swap")
    assert table["status"].tolist() == ["OK", "REF_MISMATCH", "REF_MISMATCH"]
    np.testing.assert_array_equal(part(table, "delta")[0], -part(table, "delta")[1])
    np.testing.assert_array_equal(part(table, "ref")[0], part(table, "alt")[1])
    assert np.isnan(part(table, "delta")[2]).all()


def test_the_policy_for_ref_mismatch_is_the_users(scorer, genome, snv):
    wrong = Variant("chr1", AT, other(snv.ref, 2), snv.alt)
    flagged = scorer.screen_variants([wrong, snv], genome)
    assert flagged["status"].tolist() == ["REF_MISMATCH", "OK"]
    assert np.isnan(part(flagged, "delta")[0]).all()
    skipped = scorer.screen_variants([wrong, snv], genome, ref_mismatch="skip")
    assert skipped["record"].tolist() == [1]
    with pytest.raises(
        AssemblyError, match=rf"REF {wrong.ref} at chr1:30001 is {snv.ref} in .*another assembly"
    ):
        scorer.screen_variants([wrong, snv], genome, ref_mismatch="error")
    with pytest.raises(UsageError, match=r"is given as settings; give genobird\.EffectSettings"):
        scorer.screen_variants(snv, genome, settings={"shifts": 3})
    with pytest.raises(UsageError, match="'ignore' is unknown; allowed: flag, skip, swap, error"):
        scorer.screen_variants([snv], genome, ref_mismatch="ignore")


def test_each_alt_has_a_status_and_none_is_lost(scorer, genome, snv, tiny_contigs):
    last = tiny_contigs["chr1"][-1]
    frame = pd.DataFrame(
        [
            ("chr1", AT + 1, snv.ref, f"{snv.alt},{snv.ref},*,<DEL>,{other(snv.ref, 2)}"),
            ("chr1", AT + 1, snv.ref, "."),
            ("chr1", AT + 1, snv.ref, None),
            ("chr9", 5, "A", "C"),
            ("chr1", 60_001, "A", "C"),
            ("chrN", 10, "N", "C"),
            ("chr1", AT + 1, snv.ref, snv.ref + "A" * 8_001),
            ("chr1", 60_000, last, other(last)),
        ],
        columns=["chrom", "pos", "ref", "alt"],
    )
    table = scorer.screen_variants(frame, genome)
    assert table["status"].tolist() == [
        *("OK", "NON_VARIANT", "SYMBOLIC", "SYMBOLIC", "OK"),
        *("MISSING_ALT", "MISSING_ALT", "NO_CONTIG", "OUT_OF_BOUNDS"),
        *("AMBIGUOUS_BASE", "TOO_LONG", "OK"),
    ]
    assert table["record"].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert table["allele"].tolist() == [1, 2, 3, 4, 5, 0, 0, 1, 1, 1, 1, 1]
    scored = ~np.isnan(part(table, "delta"))
    assert (scored.all(axis=1) == (table["status"] == "OK")).all()
    assert (scored.any(axis=1) == scored.all(axis=1)).all()


def test_an_alt_scores_the_same_alone_and_among_others(scorer, genome, snv):
    alts = [other(snv.ref, shift) for shift in (1, 2, 3)]
    variants = [Variant("chr1", AT, snv.ref, alt) for alt in alts]
    frame = pd.DataFrame(
        {"chrom": ["chr1"], "pos": [AT + 1], "ref": [snv.ref], "alt": [",".join(alts)]}
    )
    together = scorer.screen_variants(frame, genome)
    for row, variant in enumerate(variants):
        alone = scorer.screen_variants([variant], genome)
        np.testing.assert_allclose(part(together, "alt")[row], part(alone, "alt")[0], **EXACT)
    assert len(np.unique(part(together, "alt")[:, 0])) == 3


def test_windows_that_alleles_share_are_predicted_once(scorer, genome, snv, monkeypatch):
    counts = []
    real = scorer.starts_and_profiles
    monkeypatch.setattr(
        scorer, "starts_and_profiles", lambda s, *a: counts.append(len(s)) or real(s, *a)
    )
    others = [Variant("chr1", AT, snv.ref, other(snv.ref, shift)) for shift in (1, 2, 3)]
    scorer.screen_variants([*others, snv, *others], genome)
    assert counts == [4]


def test_two_spellings_of_an_indel_score_the_same(scorer, tmp_path, tiny_contigs):
    contig = tiny_contigs["chr1"][:20_000] + "GCACACACAT" + tiny_contigs["chr1"][20_000:]
    fasta = write_fasta(tmp_path / "repeat.fa", {"chr1": contig})
    spellings = [
        Variant("chr1", 20_000, "GCA", "G"),
        Variant("chr1", 20_006, "ACA", "A"),
        Variant("chr1", 19_999, contig[19_999] + "GCACACACA", contig[19_999] + "GCACACA"),
    ]
    table = scorer.screen_variants(spellings, fasta)
    assert table["pos"].tolist() == [20_001, 20_007, 20_000]
    assert table["ref"].tolist() == [variant.ref for variant in spellings]
    for row in (1, 2):
        np.testing.assert_array_equal(part(table, "delta")[row], part(table, "delta")[0])


def test_indels_and_variants_at_contig_ends_are_scored(scorer, genome, tiny_contigs):
    contig = tiny_contigs["chr2"]
    end = len(contig)
    variants = [
        Variant("chr2", 0, contig[0], other(contig[0])),
        Variant("chr2", 0, contig[:5], contig[0]),
        Variant("chr2", end - 1, contig[-1], other(contig[-1])),
        Variant("chr2", end - 1, contig[-1], contig[-1] + "ACGT"),
        Variant("chr2", end - 6, contig[-6:], contig[-6]),
    ]
    table = scorer.screen_variants(variants, genome)
    assert table["status"].tolist() == ["OK"] * 5
    assert np.isfinite(part(table, "delta")).all()


def test_a_long_allele_has_no_llr_but_other_scores(scorer, genome, snv):
    table = scorer.screen_variants([Variant("chr1", AT, snv.ref, snv.ref + "AC" * 1_001)], genome)
    assert table["status"].tolist() == ["OK"]
    assert np.isnan(table["llr|delta"][0])
    assert np.isfinite(table["promoter|delta"][0])


def test_text_frame_vcf_and_variants_give_the_same_table(scorer, genome, snv, tmp_path):
    vcf = tmp_path / "a.vcf"
    row = f"1\t{AT + 1}\t.\t{snv.ref}\t{snv.alt}"
    header = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
    vcf.write_text(f"##fileformat=VCFv4.2\n{header}\n{row}\t.\t.\t.\n")
    frame = pd.DataFrame({"chrom": ["1"], "pos": [AT + 1], "ref": [snv.ref], "alt": [snv.alt]})
    sources = [
        vcf,
        frame,
        [f"1:{AT + 1}:{snv.ref}>{snv.alt}"],
        [Variant("1", AT, snv.ref, snv.alt)],
    ]
    tables = [scorer.screen_variants(source, genome) for source in sources]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], table)


def test_variants_none_of_which_lies_on_the_genome_are_of_another_assembly(scorer, genome):
    with pytest.raises(AssemblyError, match=r"none of 2 alleles lies .*begins with chr1, chr2"):
        scorer.screen_variants(["chr7:5:A>C", "chr8:5:A>C"], genome)


def test_no_variants_give_an_empty_table_with_columns(scorer, genome):
    table = scorer.screen_variants([], genome, features=["DNase"])
    assert table.empty
    assert list(table.columns)[-3:] == [f"A|DNase|None|{what}" for what in ("ref", "alt", "delta")]


def test_what_is_no_table_of_variants_is_refused(scorer, genome, tmp_path):
    with pytest.raises(TableError, match="no column pos, ref; needed are chrom, pos"):
        scorer.screen_variants(pd.DataFrame({"chrom": [], "alt": []}), genome)
    frame = pd.DataFrame({"chrom": ["1"], "pos": ["x"], "ref": ["A"], "alt": ["C"]})
    with pytest.raises(TableError, match="row 0 of the variants: pos 'x' is no number"):
        scorer.screen_variants(frame, genome)
    with pytest.raises(UsageError, match="variant 'rs1' cannot be read"):
        scorer.screen_variants(["rs1"], genome)
    (tmp_path / "a.vcf").write_text("chr1\t1\n")
    with pytest.raises(VcfError, match="no VCF header"):
        scorer.screen_variants(tmp_path / "a.vcf", genome)


def test_the_genome_of_the_caller_stays_open(scorer, tiny_genome_path, snv):
    with Genome(tiny_genome_path) as genome:
        scorer.screen_variants([snv], genome)
        assert genome._handle is not None
