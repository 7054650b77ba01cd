from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from genobird.errors import InputError
from pipelines.cagi import FOLDS, auroc, compare, folds, put_together, scaled, spearman

VALUES = st.lists(
    st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 3)), min_size=3, max_size=30
)


@given(VALUES)
def test_rank_correlation_is_scipy_s_of_repeated_variants(rows):
    x, y, counts = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = spearman(x, y)(counts)
    rows = np.repeat(np.arange(len(x)), counts.astype(int))
    if len(set(x[rows])) < 2 or len(set(y[rows])) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(x[rows], y[rows]).statistic)


def test_auroc_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.random(50) < 0.3
    assert auroc(x, y.astype(float))(np.ones(50)) == pytest.approx(roc_auc_score(y, x))


def test_folds_hold_whole_groups_and_all_of_them():
    groups = np.array([f"chr{n % 23}" for n in range(500)])
    fold = folds(groups, seed=1)
    assert set(fold) == set(range(FOLDS))
    for name in set(groups):
        assert len(set(fold[groups == name])) == 1
    assert (fold == folds(groups, seed=1)).all()
    assert (fold != folds(groups, seed=2)).any()


def test_folds_hold_as_many_groups_whatever_their_sizes():
    groups = np.array([f"c:{n}" for n in range(10)] + ["c:3"] * 999)
    fold = folds(groups, seed=0)
    assert [len(set(groups[fold == number])) for number in range(FOLDS)] == [2] * FOLDS
    assert sorted(np.bincount(fold)) == [2, 2, 2, 2, 1001]


def test_each_fold_gets_what_is_best_on_the_others():
    fold = np.arange(100) % FOLDS
    truth = np.random.default_rng(0).normal(size=100)
    liar = truth.copy()
    liar[fold == 3] *= -1  # right everywhere but in fold 3
    noise = np.random.default_rng(1).normal(size=100)
    joined, chosen = put_together({"liar": liar, "noise": noise}, truth, spearman, fold)
    assert chosen == ["liar"] * FOLDS
    assert spearman(joined[fold == 3], truth[fold == 3])(np.ones(20)) == pytest.approx(-1)


def test_the_choice_is_not_measured_where_it_was_made():
    # Many candidates that mean nothing: the best always looks good, the nested choice does not.
    groups = np.array([f"c:{n}" for n in range(200)])
    best, nested = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=200)
        candidates = {f"noise {n}": rng.normal(size=200) for n in range(40)}
        report = compare({"m": candidates}, truth, spearman, groups, seed=seed, resamples=1)["m"]
        best.append(max(found["point"] for found in report["candidates"].values()))
        nested.append(report["nested"]["point"])
    assert min(best) > 0.1
    assert np.mean(nested) < 0.05


def test_scales_do_not_decide_and_missing_values_count_as_nothing():
    fold = np.arange(60) % FOLDS
    truth = np.tile([-1.0, 1.0], 30) * np.arange(1, 61)
    huge = 1e6 * truth
    huge[5] = np.nan
    candidates = scaled({"huge": huge, "zero": np.zeros(60)})
    joined, _ = put_together(candidates, truth, spearman, fold)
    assert joined[5] == 0
    assert np.sqrt(np.mean(joined**2)) == pytest.approx(1)


@pytest.mark.parametrize("figure", [spearman, auroc])
def test_a_missing_value_is_zero_for_every_figure(figure):
    # One NaN was an error of the AUROC and the largest value of the rank correlation.
    rng = np.random.default_rng(3)
    measured = (rng.random(60) < 0.5).astype(float)
    groups = np.array([f"c:{n // 2}" for n in range(60)])
    missing = {"a": rng.normal(size=60) + measured, "b": rng.normal(size=60)}
    missing["a"][7] = missing["b"][50] = np.nan
    filled = {name: np.nan_to_num(values) for name, values in missing.items()}
    found, wanted = (
        compare({"m": candidates, "n": candidates}, measured, figure, groups, seed=0, resamples=9)
        for candidates in (missing, filled)
    )
    assert found == wanted
    full = figure(filled["a"], measured)(np.ones(60))
    assert found["m"]["candidates"]["a"]["point"] == pytest.approx(full, abs=1e-5)


def test_differences_are_paired():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=300)
    groups = np.array([f"c:{n // 3}" for n in range(300)])
    good, bad = truth + rng.normal(size=300), rng.normal(size=300)
    report = compare(
        {"first": {"a": good}, "same": {"b": good}, "bad": {"c": bad}}, truth, spearman, groups,
        seed=0, resamples=50,
    )  # fmt: skip
    assert report["same"]["difference"] == {"low": 0, "point": 0, "high": 0}
    assert report["bad"]["difference"]["low"] > 0
    assert "difference" not in report["first"]
    assert report["first"]["chosen"] == {"a": FOLDS}


def test_nothing_to_choose_by_is_an_error():
    with pytest.raises(InputError, match="8 variants in 4 folds leave no score defined"):
        put_together({"a": np.ones(10)}, np.ones(10), spearman, np.arange(10) % FOLDS)
