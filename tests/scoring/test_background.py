from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genobird.errors import BackgroundError, UsageError
from genobird.scoring.background import SIZE, Background, Sketch, ranks_of, warn_of_settings
from genobird.scoring.settings import EffectSettings

FACTS = {"model": "abc", "version": "1"}
# Few different numbers, so that there are ties.
EFFECTS = st.integers(-6, 6).map(lambda number: number / 4)


def deltas_of(count: int, outputs: int = 5, seed: int = 0) -> np.ndarray:
    """Effects with long tails and a part that outputs share."""
    rng = np.random.Generator(np.random.Philox(seed))
    shared = rng.standard_t(3, size=(count, 1))
    return (shared + rng.standard_t(3, size=(count, outputs))).astype(np.float32)


def background(deltas: np.ndarray) -> Background:
    outputs = [f"o{place}" for place in range(deltas.shape[1])]
    return Background.of(deltas, outputs, range(1, len(outputs)), **FACTS)


def evalues(made: Background, deltas: np.ndarray) -> np.ndarray:
    return made.evalues(made.tails(deltas))


@given(
    arrays(np.float32, st.tuples(st.integers(1, 60), st.just(2)), elements=EFFECTS),
    arrays(np.float32, st.tuples(st.integers(1, 8), st.just(2)), elements=EFFECTS),
)
def test_a_small_background_counts_exactly_how_many_are_at_least_as_large(deltas, asked):
    made = background(deltas)
    larger = (np.abs(deltas)[None] >= np.abs(asked)[:, None]).sum(axis=1)
    np.testing.assert_array_equal(made.tails(asked), (1 + larger) / (1 + len(deltas)))


@given(st.integers(1, 10**9))
def test_ranks_rise_from_one_to_the_count_by_a_small_factor(count):
    ranks = ranks_of(count)
    assert (ranks[0], ranks[-1]) == (1, count)
    assert len(ranks) <= SIZE
    assert (np.diff(ranks) > 0).all()
    steps = ranks[1:] / ranks[:-1]
    assert (np.diff(ranks)[:62] == 1).all()
    most = max((count / 64) ** (1 / 136) if count > SIZE else 1.0, 1.0)
    assert (steps[64:] <= most * (1 + 1.5 / ranks[64:-1])).all()


@settings(max_examples=30)
@given(st.integers(SIZE + 1, 4_000), st.integers(0, 99), st.floats(0, 30))
def test_a_large_background_is_off_by_less_than_the_gap_between_its_ranks(count, seed, size):
    sizes = np.abs(deltas_of(count, 1, seed)[:, 0])
    sketch = Sketch.of([sizes], count)
    asked = np.append(sizes[:200], np.float32(size))
    found = sketch.at_least(0, asked)
    true = (sizes[None] >= asked[:, None]).sum(axis=1)
    low = np.searchsorted(sketch.ranks, true, side="right") - 1
    gap = np.diff(np.append(sketch.ranks, count + 1))[np.maximum(low, 0)]
    assert (np.abs(found - true) < gap).all()
    top = true < 64
    np.testing.assert_array_equal(found[top], true[top])


@given(
    arrays(np.float32, st.tuples(st.integers(1, 400), st.just(1)), elements=EFFECTS),
    st.lists(st.floats(0, 3, width=32), min_size=2, max_size=20),
)
def test_a_tail_falls_with_the_size_of_the_effect_and_is_never_zero(deltas, sizes):
    made = Background.of(deltas, ["o"], [0], **FACTS)
    asked = np.sort(np.array(sizes, np.float32))[:, None]
    tails = made.tails(asked)[:, 0]
    assert (np.diff(tails) <= 0).all()
    assert (tails >= 1 / (1 + len(deltas))).all()
    assert (tails <= 1).all()
    np.testing.assert_array_equal(made.tails(-asked)[:, 0], tails)
    several = evalues(made, asked)
    assert (np.diff(several) <= 0).all()
    assert (several >= 1 / (1 + len(deltas))).all()


@pytest.mark.parametrize("count", [20, 150, 5_000])
def test_evalues_are_uniform_on_their_own_background(count):
    made = background(deltas_of(count))
    found = np.sort(evalues(made, deltas_of(count)))
    expected = np.arange(1, count + 1) / count
    # A variant that is looked for is among those it is compared with: a few ranks higher.
    assert np.abs(found - expected).max() < 5 / count + 0.01
    assert (found >= expected - 0.01).all()
    assert evalues(made, np.full((1, 5), 1e6, np.float32))[0] == 1 / (count + 1)


def test_a_share_of_new_variants_like_the_background_has_evalues_below_that_share():
    # Were the background's own variants ranked among all of them, themselves included, the
    # smallest shares would be a fifth too large.
    found = np.concatenate(
        [
            evalues(background(deltas_of(100, seed=2 * n)), deltas_of(500, seed=2 * n + 1))
            for n in range(200)
        ]
    )
    for share in (0.01, 0.02, 0.05, 0.1, 0.5):
        assert 0.75 * share < (found <= share).mean() < 1.05 * share


def test_outputs_that_are_not_summed_do_not_count():
    deltas = deltas_of(300)
    made = background(deltas)
    changed = deltas.copy()
    changed[:, 0] = 1e6
    np.testing.assert_array_equal(evalues(made, changed), evalues(made, deltas))


def test_a_missing_effect_has_no_rank_and_leaves_no_evalue_if_it_counts():
    made = background(deltas_of(50))
    asked = deltas_of(2, seed=3)
    asked[0, 0] = asked[1, 2] = np.nan
    tails = made.tails(asked)
    np.testing.assert_array_equal(np.isnan(tails), np.isnan(asked))
    assert np.isnan(made.evalues(tails)).tolist() == [False, True]
    assert made.tails(asked[:0]).shape == (0, 5)


def test_a_file_gives_back_the_same_numbers_and_the_same_bytes(tmp_path):
    made = background(deltas_of(1_000))
    made.save(tmp_path / "a.npz")
    made.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = Background.load(tmp_path / "a.npz")
    assert (read.outputs, read.summed, read.facts) == (made.outputs, made.summed, FACTS)
    asked = deltas_of(100, seed=5)
    np.testing.assert_array_equal(read.tails(asked), made.tails(asked))
    np.testing.assert_array_equal(evalues(read, asked), evalues(made, asked))


def test_244_outputs_take_a_quarter_of_a_megabyte(tmp_path):
    background(deltas_of(3_000, outputs=244)).save(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").stat().st_size < 250_000


def test_what_is_no_background_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"there is no background .*none.npz; make one"):
        Background.load(tmp_path / "none.npz")
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(BackgroundError, match=r"background: it is no whole \.npz.*make it again"):
        Background.load(tmp_path / "a.npz")
    background(deltas_of(30)).save(tmp_path / "b.npz")
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackgroundError, match="is no usable background"):
        Background.load(tmp_path / "b.npz")
    with np.load(io.BytesIO(whole)) as parts:
        np.savez(tmp_path / "c.npz", **{**parts, "sizes": parts["sizes"][:, 1:]})
    with pytest.raises(BackgroundError, match="its parts do not fit each other"):
        Background.load(tmp_path / "c.npz")
    with pytest.raises(BackgroundError, match="no variant of the background could be scored"):
        background(deltas_of(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EffectSettings(), ""),
        (EffectSettings(segmentations=1), "segmentations 2: llr|quantile is a little off"),
        (EffectSettings(one_window=False), ""),
        (EffectSettings(shifts=3), "shifts 1: quantiles and E-values are a little off"),
        (EffectSettings(shifts=3, segmentations=1), "quantiles and E-values are a little off"),
    ],
)
def test_a_warning_names_what_other_settings_move(settings, message, caplog):
    facts = {**FACTS, "shifts": 1, "segmentations": 2, "grid": 0, "one_window": 1}
    made = Background.of(deltas_of(9, 3), ["llr", "a", "b"], [1, 2], **facts)
    warn_of_settings(made, settings)
    assert len(caplog.records) == bool(message)
    assert message in caplog.text
    caplog.clear()
    both = Background.of(deltas_of(9, 3), ["promoter", "llr", "a"], [2], **facts)
    warn_of_settings(both, EffectSettings(one_window=False))
    assert "made with one window: promoter|quantile is a little off" in caplog.text
    warn_of_settings(both, EffectSettings(one_window=False, segmentations=1))
    assert "llr|quantile and promoter|quantile are a little off" in caplog.text
    caplog.clear()
    summed = Background.of(deltas_of(9, 3), ["llr", "a", "b"], [0, 1, 2], **facts)
    warn_of_settings(summed, EffectSettings(segmentations=1))
    assert "quantiles and E-values are" in caplog.text
