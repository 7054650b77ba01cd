from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.checkpoint import Checkpoint
from genobird.columns import VARIANT_KEYS
from genobird.errors import UsageError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant
from genobird.heads import Head
from genobird.scoring import effects, windows
from genobird.scoring.background import Background
from genobird.scoring.effects import relative_sizes
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import SHIFT_BP, EffectSettings
from genobird.scoring.variant_table import screen_variants
from tests.conftest import other, random_dna, write_fasta
from tests.models import starts_checkpoint
from tests.scoring.test_variant_table import part

EXACT = {"rtol": 0, "atol": 1e-5}
LENGTH = 2_400
FLANK = 400


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"CHROMATIN_FLANK": FLANK, "LLR_FLANK": 200}.items():
            patch.setattr(effects, name, size)
        for name, size in {"PROMOTER_BEFORE": 300, "PROMOTER_AFTER": 250}.items():
            patch.setattr(windows, name, size)
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    path = tmp_path_factory.mktemp("short") / "short.fa"
    return Genome(write_fasta(path, {"chr1": random_dna(LENGTH, seed=5)}))


def snvs(genome: Genome, positions: list[int]) -> list[Variant]:
    bases, _ = genome.fetch_clipped("chr1", 0, LENGTH)
    return [Variant("chr1", at, bases[at], other(bases[at])) for at in positions]


@given(position=st.integers(0, 10**9), grid=st.integers(0, 1_024), shifts=st.integers(1, 15))
def test_windows_are_centred_on_the_variant_or_on_the_nearest_grid_point(position, grid, shifts):
    offsets = EffectSettings(shifts=shifts, grid=grid).offsets(position)
    assert len(offsets) == shifts
    assert np.diff(offsets).tolist() == [SHIFT_BP] * (shifts - 1)
    middle = (offsets[0] + offsets[-1]) / 2
    assert abs(middle) <= grid / 2
    assert middle == 0 if grid == 0 else (position - middle) % grid == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shifts": 0}, "shifts 0 found; 1 to 15"),
        ({"segmentations": 65}, "segmentations 65 found; 1 to 64"),
        ({"seed": -1}, "seed -1 found; 0 to"),
        ({"grid": 2_000}, "window grid 2000 found; 0 to 1024"),
        ({"scores": ("diff", "odds")}, "score 'odds' is unknown; allowed: probability, diff, logf"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        EffectSettings(**wrong)


def test_shifted_windows_are_averaged_as_logits(scorer, short):
    at = 1_000
    [variant] = snvs(short, [at])
    table = scorer.screen_variants([variant], short, settings=EffectSettings(shifts=2))
    contig, _ = short.fetch_clipped("chr1", 0, LENGTH)
    carrier = contig[:at] + variant.alt + contig[at + 1 :]
    offsets = (-SHIFT_BP // 2, SHIFT_BP // 2)
    for column, text in (("ref", contig), ("alt", carrier)):
        windows = [text[at - FLANK - offset : at + FLANK - offset] for offset in offsets]
        places = [FLANK + offset for offset in offsets]
        expected = scorer.chromatin_logits(windows, places).mean(axis=0)
        found = table[[f"{name}|{column}" for name in scorer.features]].to_numpy()[0]
        np.testing.assert_allclose(found, expected, **EXACT)


def test_on_a_grid_neighbours_share_the_window_of_ref(scorer, short, monkeypatch):
    centre = 1_024
    places = [centre - 20, centre - 3, centre + 31]
    asked = []
    real = scorer.starts_and_profiles
    monkeypatch.setattr(
        scorer, "starts_and_profiles", lambda s, *a: asked.append(len(s)) or real(s, *a)
    )
    table = scorer.screen_variants(snvs(short, places), short, settings=EffectSettings(grid=64))
    assert asked == [4]
    window, _ = short.fetch_clipped("chr1", centre - FLANK, centre + FLANK)
    for row, at in enumerate(places):
        expected = scorer.chromatin_logits([window], [at - centre + FLANK])[0]
        found = table.loc[row, [f"{name}|ref" for name in scorer.features]].astype(float)
        np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("changes", [{"shifts": 2}, {"grid": 64}])
def test_a_head_that_knows_no_place_wants_its_windows_centred(tiny_checkpoint, short, changes):
    checkpoint = Checkpoint.load(tiny_checkpoint)
    shape = checkpoint.chromatin.config.model_copy(update={"pool": "cls"})
    checkpoint.chromatin = Head(shape, checkpoint.encoder.config.width)
    with pytest.raises(UsageError, match=r"reads \[CLS\], whatever the place.*1 and 0 are allowed"):
        Scorer(checkpoint, device="cpu").screen_variants(
            snvs(short, [1_000]), short, settings=EffectSettings(**changes)
        )


def test_scores_by_name_are_deepseas_of_the_calibrated_probabilities(scorer, short):
    wanted = ("magnitude", "probability", "diff", "logfold")
    variants = [*snvs(short, [300, 500]), Variant("chr9", 5, "A", "C")]
    table = scorer.screen_variants(variants, short, settings=EffectSettings(scores=wanted))
    for name, weight in (("promoter", 1), ("A|DNase|None", 8)):
        ref, alt = (
            1 / (1 + weight * np.exp(-table[f"{name}|{column}"].to_numpy(np.float64)))
            for column in ("ref", "alt")
        )
        fold = np.log2(alt / (1 - alt)) - np.log2(ref / (1 - ref))
        expected = {
            "ref_p": ref,
            "alt_p": alt,
            "diff": alt - ref,
            "logfold": fold,
            "magnitude": abs((alt - ref) * fold),
        }
        for column, values in expected.items():
            np.testing.assert_allclose(table[f"{name}|{column}"], values, rtol=1e-4, atol=1e-7)
        assert np.isnan(table[f"{name}|diff"][2])
    at = list(table.columns).index("promoter|delta")
    order = ["magnitude", "ref_p", "alt_p", "diff", "logfold"]
    assert list(table.columns[at + 1 : at + 6]) == [f"promoter|{name}" for name in order]
    assert not [name for name in table.columns if name.startswith("llr|d") and name != "llr|delta"]


def test_the_embedding_distance_is_that_of_the_mean_states_around_the_variant(scorer, short):
    [variant] = snvs(short, [450])
    table = scorer.screen_variants([variant], short, settings=EffectSettings(embedding=True))
    ref, _ = short.fetch_clipped("chr1", 450 - FLANK, 450 + FLANK)
    alt = ref[:FLANK] + variant.alt + ref[FLANK + 1 :]
    _, states = scorer.profiles([ref, alt], [np.array([FLANK])] * 2, states=True)
    u, v = states.astype(np.float64)
    expected = 1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert expected > 1e-6
    np.testing.assert_allclose(table["embedding|distance"][0], expected, rtol=1e-3)
    assert table.columns[-1] == "embedding|distance"


def test_a_model_without_heads_still_has_an_embedding_distance(tiny_checkpoint, short):
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.chromatin = checkpoint.promoter = checkpoint.mlm = None
    bare = Scorer(checkpoint, device="cpu")
    table = bare.screen_variants(snvs(short, [450]), short, settings=EffectSettings(embedding=True))
    assert list(table.columns) == [*VARIANT_KEYS, "embedding|distance"]
    assert table["embedding|distance"][0] > 0


@settings(max_examples=12)
@given(st.data())
def test_swapping_ref_and_alt_on_the_genome_that_has_alt_flips_every_delta_to_the_bit(
    scorer, short, tmp_path_factory, data
):
    bases, _ = short.fetch_clipped("chr1", 0, LENGTH)
    position = data.draw(st.integers(0, 12) | st.integers(0, LENGTH - 1) | st.just(LENGTH - 1))
    end = min(LENGTH, position + data.draw(st.integers(1, 9)))
    ref = bases[position:end]
    alt = data.draw(st.text("ACGT", min_size=1, max_size=9).filter(lambda text: text != ref))
    carrier = bases[:position] + alt + bases[end:]
    path = tmp_path_factory.mktemp("carrier") / "carrier.fa"
    how = {"shifts": 2, "segmentations": 3, "scores": ("diff",), "embedding": True}
    chosen = EffectSettings(one_window=data.draw(st.booleans()), **how)
    forward = screen_variants(scorer, [Variant("chr1", position, ref, alt)], short, settings=chosen)
    with Genome(write_fasta(path, {"chr1": carrier})) as genome:
        turned = Variant("chr1", position, alt, ref)
        backward = screen_variants(scorer, [turned], genome, settings=chosen)
    for there, back, sign in (("delta", "delta", -1), ("diff", "diff", -1), ("ref", "alt", 1)):
        np.testing.assert_array_equal(part(forward, there), sign * part(backward, back))
    for column in ("llr|se", "embedding|distance"):
        np.testing.assert_array_equal(forward[column], backward[column])


def test_one_window_is_read_by_both_heads(scorer, short):
    bases, _ = short.fetch_clipped("chr1", 0, LENGTH)
    variants = snvs(short, [3, 450, 1_200, LENGTH - 2])
    table, apart = (
        scorer.screen_variants(variants, short, settings=EffectSettings(one_window=shared))
        for shared in (True, False)
    )
    for row, variant in enumerate(variants):
        first = max(0, variant.position - FLANK)
        place = variant.position - first
        text = bases[first : variant.position + FLANK]
        texts = [text, text[:place] + variant.alt + text[place + 1 :]]
        turned = [reverse_complement(text) for text in texts]
        logits = [
            scorer.promoter_logits(texts, [place] * 2),
            scorer.promoter_logits(turned, [len(text) - 1 - place] * 2),
        ]
        best = max(logits, key=np.max)
        found = table.loc[row, ["promoter|ref", "promoter|alt"]].to_numpy(np.float64)
        np.testing.assert_allclose(found, best, **EXACT)
    same = [name for name in table if "|" in name and not name.startswith("promoter|")]
    np.testing.assert_allclose(table[same], apart[same], **EXACT)
    assert np.abs(table["promoter|ref"] - apart["promoter|ref"]).max() > 1e-4


@pytest.mark.parametrize("shared", [True, False])
def test_the_likeliest_start_near_a_variant_counts(tiny_tokenizer, short, shared):
    scorer = Scorer(starts_checkpoint(tiny_tokenizer))
    bases, _ = short.fetch_clipped("chr1", 0, LENGTH)
    variants = snvs(short, [700, 1_200])
    settings = EffectSettings(one_window=shared)
    table = scorer.screen_variants(variants, short, settings=settings)
    for row, variant in enumerate(variants):
        place = variant.position
        alt = bases[:place] + variant.alt + bases[place + 1 :]
        along = [scorer.promoter_logits([x], [place], near=True)[0] for x in (bases, alt)]
        turned = [reverse_complement(x) for x in (bases, alt)]
        back = [scorer.promoter_logits([x], [LENGTH - 1 - place], near=True)[0] for x in turned]
        best = max((along, back), key=max)
        found = table.loc[row, ["promoter|ref", "promoter|alt"]].to_numpy(np.float64)
        # The window of a variant ends 400 bp from it here, so far away the model reads less.
        np.testing.assert_allclose(found, best, atol=0.005)
        exact = scorer.promoter_logits([bases], [place])[0]
        assert exact < min(best) - 0.1


def test_a_model_without_chromatin_head_reads_its_own_window(tiny_checkpoint, short):
    checkpoint = Checkpoint.load(tiny_checkpoint)
    checkpoint.chromatin = None
    alone = Scorer(checkpoint, device="cpu")
    one, two = (
        alone.screen_variants(snvs(short, [450]), short, settings=EffectSettings(one_window=shared))
        for shared in (True, False)
    )
    pd.testing.assert_frame_equal(one, two)


def test_one_window_of_nothing_has_the_same_columns(scorer, short):
    [variant] = snvs(short, [450])
    unknown = [replace(variant, ref=variant.alt, alt=variant.ref)]
    found, usual = (
        scorer.screen_variants(unknown, short, settings=EffectSettings(one_window=shared))
        for shared in (True, False)
    )
    pd.testing.assert_frame_equal(found, usual)


@pytest.fixture(scope="module")
def alone(scorer, short) -> tuple[list[Variant], pd.DataFrame]:
    """Variants, some of which share windows, and the scores of each by itself."""
    bases, _ = short.fetch_clipped("chr1", 0, LENGTH)
    variants = [
        *snvs(short, [0, 40, 410, 411, 1_650, LENGTH - 1]),
        Variant("chr1", 410, bases[410], other(bases[410], 2)),
        Variant("chr1", 500, bases[500:507], bases[500]),
        Variant("chr1", 500, bases[500], bases[500] + "GATTACA"),
    ]
    tables = [scorer.screen_variants([variant], short) for variant in variants]
    return variants, pd.concat(tables, ignore_index=True)


@settings(max_examples=5)
@given(
    seed=st.integers(0, 2**32),
    batch_size=st.sampled_from([1, 2, 3, 7, "auto"]),
    chunk=st.sampled_from([1, 2, 5, 16]),
    threads=st.sampled_from([1, 2]),
)
def test_order_neighbours_chunks_batch_size_and_threads_move_no_score(
    tiny_checkpoint, short, alone, seed, batch_size, chunk, threads
):
    variants, expected = alone
    order = random.Random(seed).choices(range(len(variants)), k=6)
    before = torch.get_num_threads()
    try:
        one = load(tiny_checkpoint, device="cpu", batch_size=batch_size, threads=threads)
        one.chunk = chunk
        found = one.screen_variants([variants[place] for place in order], short)
    finally:
        torch.set_num_threads(before)
    columns = [name for name in expected if name.endswith(("|ref", "|alt", "|delta", "|se"))]
    np.testing.assert_allclose(found[columns], expected.loc[order, columns], **EXACT)


def test_the_same_call_gives_the_same_bits(scorer, short, alone):
    variants, _ = alone
    tables = [scorer.screen_variants(variants, short) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


NAMES = ["a|X|None", "b|Y|None", "c|Z|None"]


def test_a_change_counts_relative_to_what_is_usual_for_its_feature():
    usual = np.linspace(0.01, 1, 100)
    deltas = np.stack([usual, usual / 10], axis=1).astype(np.float32)
    background = Background.of(deltas, NAMES[:2], [0, 1], model="m")
    alt = np.array([[-0.5, 0.2, 0.3]])
    found = relative_sizes(np.zeros((1, 3)), alt, NAMES, background)
    np.testing.assert_allclose(found, [[0.5, 2.0, 0.3]], rtol=0.02)


def test_without_a_background_the_unit_is_a_logit():
    alt = np.array([[-0.5, np.nan, 2.0]], np.float32)
    found = relative_sizes(np.zeros((1, 3), np.float32), alt, NAMES, None)
    np.testing.assert_array_equal(found, np.abs(alt))


def test_what_is_improbable_with_either_allele_does_not_compete_with_what_is_not():
    ref = np.array([[-9.0, -1.0, -9.0], [-9.0, -8.0, -7.0]])
    alt = np.array([[-6.0, -1.5, -2.0], [-8.0, -6.0, -6.5]])
    found = relative_sizes(ref, alt, NAMES, None)
    np.testing.assert_allclose(found, [[0, 0.5, 7], [1, 2, 0.5]])
