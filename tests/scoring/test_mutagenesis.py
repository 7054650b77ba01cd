from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.errors import ContigError, InputError, OutOfBoundsError, UsageError
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.scoring.mutagenesis import duration, others, prepare
from genobird.scoring.scorer import load
from tests.conftest import write_fasta

EXACT = {"rtol": 0, "atol": 2e-5}
AT = 30_000
REGION = "chr1:30,001-30,002"
MIDPOINT = 30_001


def changed(text: str, at: int, alt: str) -> str:
    return text[:at] + alt + text[at + 1 :]


def test_every_base_is_changed_to_the_three_others(scorer, genome, tiny_contigs):
    table = scorer.mutagenesis(REGION, genome, features=["A|DNase|None"], form="wide")
    assert list(table.columns) == [
        *("chrom", "pos", "ref", "alt"),
        *(f"A|DNase|None|{part}" for part in ("ref", "alt", "delta")),
    ]
    own = tiny_contigs["chr1"][AT : AT + 2]
    assert table["pos"].tolist() == [AT + 1] * 3 + [AT + 2] * 3
    assert table["ref"].tolist() == [base for base in own for _ in range(3)]
    assert table["alt"].tolist() == [alt for base in own for alt in "ACGT" if alt != base]


def test_values_are_those_of_one_window_around_the_midpoint(scorer, genome, tiny_contigs):
    table = scorer.mutagenesis(REGION, genome, features=["A|DNase|None"])
    window = tiny_contigs["chr1"][MIDPOINT - 8_100 : MIDPOINT + 8_100]
    at = AT - (MIDPOINT - 8_100)
    texts = [window] + [
        changed(window, at + offset, alt)
        for offset in range(2)
        for alt in others(window[at + offset])
    ]
    expected = scorer.chromatin_logits(texts, [8_100] * len(texts))[:, 0]
    np.testing.assert_allclose(table["ref_logit"], np.full(6, expected[0]), **EXACT)
    np.testing.assert_allclose(table["alt_logit"], expected[1:], **EXACT)
    np.testing.assert_array_equal(table["delta"], table["alt_logit"] - table["ref_logit"])
    assert (table["delta"].abs() > 1e-4).all()


def test_both_forms_hold_the_same_numbers(scorer, genome):
    features = ["promoter", "TF"]
    long = scorer.mutagenesis(REGION, genome, features=features)
    wide = scorer.mutagenesis(REGION, genome, features=features, form="wide")
    assert long["output"].unique().tolist() == ["promoter", *scorer.features[1:4]]
    turned = long.pivot_table(index=["pos", "alt"], columns="output", values="delta")
    for name in turned.columns:
        np.testing.assert_array_equal(turned[name], wide[f"{name}|delta"])


@pytest.mark.parametrize("strand", ["+", "-"])
def test_the_promoter_is_asked_about_along_the_strand(scorer, genome, tiny_contigs, strand):
    table = scorer.mutagenesis(f"{REGION}:{strand}", genome, features=["promoter"])
    contig = tiny_contigs["chr1"]
    alt = table["alt"].iloc[0]
    texts = [contig, changed(contig, AT, alt)]
    if strand == "+":
        windows = [text[MIDPOINT - 5_000 : MIDPOINT + 3_000] for text in texts]
    else:
        windows = [reverse_complement(t[MIDPOINT - 2_999 : MIDPOINT + 5_001]) for t in texts]
    expected = scorer.promoter_logits(windows, [5_000, 5_000])
    np.testing.assert_allclose(table.loc[0, ["ref_logit", "alt_logit"]].tolist(), expected, **EXACT)


def test_without_a_strand_all_changes_are_asked_on_the_strand_that_is_larger_for_ref(
    scorer, genome
):
    both = {
        strand: scorer.mutagenesis(f"{REGION}:{strand}", genome, features=["promoter"])
        for strand in "+-"
    }
    best = max(both.values(), key=lambda table: table["ref_logit"].iloc[0])
    table = scorer.mutagenesis(REGION, genome, features=["promoter"])
    np.testing.assert_allclose(table["delta"], best["delta"], **EXACT)


def test_by_default_the_outputs_are_the_promoter_and_the_most_active_features(
    scorer, genome, monkeypatch
):
    monkeypatch.setattr("genobird.scoring.mutagenesis.TOP", 2)
    scan = prepare(scorer, REGION, genome)
    everything = prepare(scorer, REGION, genome, features=scorer.features)
    best = sorted(zip(everything.ref, everything.names, strict=True), reverse=True)[:2]
    assert scan.names == ["promoter", *(name for _, name in best)]
    np.testing.assert_allclose(scan.ref[1:], [logit for logit, _ in best], **EXACT)


def test_a_model_without_a_head_is_asked_only_about_the_other(tiny_checkpoint, genome):
    scorer = load(tiny_checkpoint, device="cpu")
    scorer.checkpoint.promoter = None
    assert "promoter" not in prepare(scorer, REGION, genome).names
    with pytest.raises(UsageError, match="no promoter head"):
        prepare(scorer, REGION, genome, features=["promoter"])


def test_deltas_are_zero_for_the_base_that_is_there_and_for_no_other(scorer, genome):
    scan = prepare(scorer, Interval("chr1", AT, AT + 3), genome, features=["A|DNase|None"])
    deltas = scan.deltas()
    assert deltas.shape == (3, 4, 1)
    ref = ["ACGT".index(base) for base in scan.bases]
    assert (deltas[np.arange(3), ref] == 0).all()
    assert (np.delete(deltas.reshape(-1), np.arange(3) * 4 + ref) != 0).all()


def test_chunks_change_no_number(tiny_checkpoint, genome):
    scorer = load(tiny_checkpoint, device="cpu")
    tables = []
    for chunk in (3, 16):
        scorer.chunk = chunk
        tables.append(scorer.mutagenesis(REGION, genome, features=["DNase"]))
    np.testing.assert_allclose(tables[0]["alt_logit"], tables[1]["alt_logit"], rtol=0, atol=1e-5)


def test_the_ends_of_a_contig_are_clipped(scorer, genome, tiny_contigs):
    last = len(tiny_contigs["chr2"])
    table = scorer.mutagenesis(Interval("chr2", last - 1, last), genome, features=["DNase"])
    end = tiny_contigs["chr2"][-8_101:]
    texts = [end[:-1] + alt for alt in others(end[-1])]
    expected = scorer.chromatin_logits(texts, [8_100] * 3)[:, 0]
    np.testing.assert_allclose(table["alt_logit"], expected, **EXACT)


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        ("chr9:1-5", ContigError, "contig 'chr9' is not in"),
        ("chr1:59,999-60,001", OutOfBoundsError, r"ends after chr1 \(60,000 bp\)"),
        ("chrN:295-305", InputError, "holds N at chrN:295; choose a region"),
        ("chr1:1-20,000", UsageError, "is 20,000 bp; 1 to 16,200 bp are allowed"),
        (Interval("chr1", 5, 5), UsageError, "is 0 bp; 1 to 16,200 bp are allowed"),
        ("chr1", UsageError, "region 'chr1' has no positions"),
    ],
)
def test_a_region_that_cannot_be_mutated_is_refused(scorer, genome, region, error, message):
    with pytest.raises(error, match=message):
        scorer.mutagenesis(region, genome)


def test_a_region_in_a_desert_of_n_is_refused(scorer, tmp_path):
    fasta = write_fasta(tmp_path / "n.fa", {"chr1": "N" * 9_000 + "ACGT" * 10 + "N" * 9_000})
    with pytest.raises(InputError, match="more than half of the window around chr1:9,001-9,010 is"):
        scorer.mutagenesis("chr1:9,001-9,010", fasta)


def test_a_long_region_is_refused_with_the_time_it_would_take(scorer, genome, monkeypatch):
    monkeypatch.setattr("genobird.scoring.mutagenesis.Scan.seconds", lambda scan: 0.5 * scan.size)
    message = (
        r"chr1:30,001-30,600 is 600 bp, thus 1,800 windows, about 15 min on cpu; up to 500 bp are "
        r"allowed: choose a smaller region, or allow it with --max-bp 600"
    )
    with pytest.raises(UsageError, match=message):
        scorer.mutagenesis("chr1:30,001-30,600", genome, most_bp=500, features=["DNase"])


def test_the_estimate_is_the_time_of_one_window_times_their_number(scorer, genome, monkeypatch):
    scan = prepare(scorer, REGION, genome, features=["DNase"])
    assert scan.size == 6
    ticks = iter([10.0, 10.25])
    clock = SimpleNamespace(monotonic=ticks.__next__)
    monkeypatch.setattr("genobird.scoring.mutagenesis.time", clock)
    assert scan.seconds() == 6 * 0.25


@pytest.mark.parametrize(
    ("features", "message"),
    [([], "no output is chosen"), (["RNA"], "no feature or class 'RNA'")],
)
def test_outputs_that_are_not_there_are_refused(scorer, genome, features, message):
    with pytest.raises(UsageError, match=message):
        scorer.mutagenesis(REGION, genome, features=features)


def test_an_unknown_form_is_refused(scorer, genome):
    with pytest.raises(UsageError, match="form 'wise' is unknown; allowed are long and wide"):
        scorer.mutagenesis(REGION, genome, form="wise")


@given(st.floats(0.01, 1e6))
@settings(max_examples=60)
def test_times_are_written_for_people(seconds):
    text = duration(seconds)
    assert text.startswith("about ")
    value, unit = text.split()[1:]
    factor = {"s": 1, "min": 60, "h": 3600}[unit]
    assert abs(float(value) * factor - seconds) <= max(factor / 2, 1, 0.05 * seconds)
