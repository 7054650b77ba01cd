"""The figures are scikit-learn's, with weights and without; the bootstrap draws whole groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as sklearn_metrics

from genobird.errors import InputError
from genobird.tasks import metrics


@st.composite
def weighted_windows(draw):
    """Labels of both classes, scores with many ties, and a positive weight in each class."""
    size = draw(st.integers(2, 60))
    labels = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    scores = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    weights = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    labels[0], labels[1] = True, False
    weights[0] = weights[1] = 1
    return np.array(labels), np.array(scores) / 3, np.array(weights, dtype=float)


def simulate(windows, features=None, seed=0):
    """Labels of which one in five is positive, and logits that know a little about them."""
    rng = np.random.Generator(np.random.Philox(seed))
    shape = (windows,) if features is None else (windows, features)
    labels = rng.random(shape) < 0.2
    return labels, rng.normal(size=shape) + labels


@given(weighted_windows())
def test_auroc_and_auprc_equal_scikit_learn_with_ties_and_weights(windows):
    labels, scores, weights = windows
    ranking = metrics.Ranking.of(labels, scores)
    for given_weights in (None, weights):
        assert ranking.auroc(given_weights) == pytest.approx(
            sklearn_metrics.roc_auc_score(labels, scores, sample_weight=given_weights), abs=1e-12
        )
        assert ranking.auprc(given_weights) == pytest.approx(
            sklearn_metrics.average_precision_score(labels, scores, sample_weight=given_weights),
            abs=1e-12,
        )


@given(weighted_windows())
def test_a_weight_is_a_number_of_copies(windows):
    labels, scores, weights = windows
    copies = weights.astype(int)
    ranking = metrics.Ranking.of(labels, scores)
    repeated = metrics.Ranking.of(np.repeat(labels, copies), np.repeat(scores, copies))
    assert ranking.auroc(weights) == pytest.approx(repeated.auroc(), abs=1e-12)
    assert ranking.auprc(weights) == pytest.approx(repeated.auprc(), abs=1e-12)


@given(weighted_windows())
def test_reversed_scores_mirror_the_auroc(windows):
    labels, scores, weights = windows
    forward = metrics.Ranking.of(labels, scores).auroc(weights)
    assert metrics.Ranking.of(labels, -scores).auroc(weights) == pytest.approx(1 - forward)


def test_scores_without_ties_equal_scikit_learn():
    labels, scores = simulate(2000)
    assert metrics.Ranking.of(labels, scores).auroc() == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12
    )
    assert metrics.Ranking.of(labels, scores).auprc() == pytest.approx(
        sklearn_metrics.average_precision_score(labels, scores), abs=1e-12
    )


def test_perfect_and_constant_scores():
    labels = [0, 1, 0, 1, 1]
    perfect, constant = (metrics.Ranking.of(labels, scores) for scores in (labels, [7] * 5))
    assert (perfect.auroc(), perfect.auprc()) == (1, 1)
    assert (constant.auroc(), constant.auprc()) == (0.5, pytest.approx(0.6))


@pytest.mark.parametrize(
    ("labels", "auroc", "auprc"), [([0, 0, 0], None, None), ([1, 1, 1], None, 1), ([], None, None)]
)
def test_a_figure_of_one_class_is_nan_where_it_does_not_exist(labels, auroc, auprc):
    scores = np.arange(len(labels))
    for value, expected in (
        (metrics.Ranking.of(labels, scores).auroc(), auroc),
        (metrics.Ranking.of(labels, scores).auprc(), auprc),
    ):
        assert math.isnan(value) if expected is None else value == expected


def test_windows_without_weight_do_not_count():
    ranking = metrics.Ranking.of([1, 0, 1, 0], [4, 3, 2, 1])
    assert ranking.auroc(np.array([1.0, 1, 0, 0])) == 1
    assert math.isnan(ranking.auroc(np.array([1.0, 0, 1, 0])))
    assert math.isnan(ranking.auprc(np.array([0.0, 1, 0, 1])))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.1], r"labels are \[2\] and scores \[1\]; both are \[N\]"),
        ([0, 2], [0.1, 0.2], "labels hold 2; they are 0 or 1"),
        ([0, 1], [0.1, math.nan], "1 of 2 scores are NaN; score every window"),
    ],
)
def test_bad_labels_and_scores_are_refused(labels, scores, message):
    with pytest.raises(InputError, match=message):
        metrics.Ranking.of(labels, scores)


def test_bootstrap_equals_resampling_the_windows_of_whole_groups():
    labels, scores = simulate(400)
    groups = np.array([f"chr20:{54 + i // 50}" for i in range(400)])
    seen: list[float] = []
    ranking = metrics.Ranking.of(labels, scores)

    def statistic(weights):
        rows = np.repeat(np.arange(400), weights.astype(int))
        for name in np.unique(groups):
            assert len(set(weights[groups == name])) == 1
        assert len(rows) == 400
        seen.append(sklearn_metrics.roc_auc_score(labels[rows], scores[rows]))
        return seen[-1]

    bootstrap = metrics.Bootstrap(groups, 50, seed=3)
    interval = bootstrap.interval(statistic)
    assert bootstrap.interval(ranking.auroc) == pytest.approx(interval)
    low, high = np.quantile(seen[:50], [0.025, 0.975])
    assert interval == pytest.approx({"low": low, "point": ranking.auroc(), "high": high})


def test_bootstrap_is_a_function_of_its_seed():
    labels, scores = simulate(300)
    statistic = metrics.Ranking.of(labels, scores).auprc
    groups = np.arange(300) // 20
    first, again, other = (
        metrics.Bootstrap(groups, 20, seed).interval(statistic) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_bootstrap_leaves_out_resamples_where_the_figure_does_not_exist():
    # The only positives lie in one of three groups, which some resamples miss.
    ranking = metrics.Ranking.of([1, 0, 0, 0, 0, 0], [3, 4, 2, 1, 5, 0])
    interval = metrics.Bootstrap([0, 0, 1, 1, 2, 2], 100).interval(ranking.auroc)
    assert interval["low"] <= interval["point"] <= interval["high"]
    never = metrics.Bootstrap([0, 1], 3).interval(lambda weights: math.nan)
    assert never == {"low": None, "point": None, "high": None}


def test_one_group_gives_no_interval():
    labels, scores = simulate(60)
    found = metrics.Bootstrap(["chr1:0"] * 60).interval(metrics.Ranking.of(labels, scores).auroc)
    assert found["point"] > 0.5
    assert (found["low"], found["high"]) == (None, None)


def test_a_bootstrap_needs_groups():
    with pytest.raises(InputError, match="no groups to resample"):
        metrics.Bootstrap([])


def test_the_difference_is_paired():
    labels, scores = simulate(600)
    groups = np.arange(600) // 20
    better = metrics.Ranking.of(labels, scores + 0.3 * labels)
    worse = metrics.Ranking.of(labels, scores)
    bootstrap = metrics.Bootstrap(groups)
    interval = bootstrap.difference(better.auroc, worse.auroc)
    assert interval["point"] == pytest.approx(better.auroc() - worse.auroc())
    assert interval["low"] > 0
    single = bootstrap.interval(better.auroc)
    assert interval["high"] - interval["low"] < single["high"] - single["low"]
    itself = bootstrap.difference(worse.auroc, worse.auroc)
    assert itself == {"low": 0, "point": 0, "high": 0}


def test_a_median_leaves_out_what_does_not_exist():
    assert metrics.median(np.array([3, math.nan, 1])) == 2
    assert math.isnan(metrics.median(np.array([math.nan])))


def test_a_mean_and_a_correlation_take_values_as_often_as_their_weight_says():
    x, y = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0.0, 1.0, 1.5, 5.0])
    weights, rows = np.array([2.0, 0.0, 1.0, 1.0]), [0, 0, 2, 3]
    assert metrics.mean_of(x)(weights) == pytest.approx(x[rows].mean())
    found = metrics.correlation(spearmanr, x, y)
    assert found(weights) == pytest.approx(spearmanr(x[rows], y[rows]).statistic)
    assert math.isnan(found(np.array([3.0, 0.0, 0.0, 0.0])))


def test_figures_are_rounded_where_that_is_asked_for():
    interval = metrics.Bootstrap([0, 1, 2], 5, digits=1).interval(metrics.mean_of([0, 0.5, 0.3]))
    assert interval["point"] == 0.3
