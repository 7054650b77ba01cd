import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from genobird.tasks.curves import GRID, mean_curves, precision_recall, roc
from genobird.tasks.metrics import Ranking


@pytest.fixture(scope="module")
def labels_and_scores():
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.2).astype(np.uint8)
    return labels, np.round(rng.normal(size=500) + labels, 1)  # with ties


def test_the_roc_curve_goes_through_the_points_of_scikit_learn(labels_and_scores):
    labels, scores = labels_and_scores
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    wanted = [true[false <= x + 1e-12].max() for x in GRID]
    np.testing.assert_allclose(roc(Ranking.of(labels, scores)), wanted)


def test_the_precision_recall_curve_goes_through_the_points_of_scikit_learn(labels_and_scores):
    labels, scores = labels_and_scores
    precision, recall, _ = precision_recall_curve(labels, scores)
    precision, recall = precision[::-1][1:], recall[::-1][1:]  # by falling threshold
    keep = np.concatenate([[True], recall[1:] > recall[:-1]])
    precision, recall = precision[keep], recall[keep]
    wanted = [precision[np.argmax(recall >= x - 1e-12)] for x in GRID]
    np.testing.assert_allclose(precision_recall(Ranking.of(labels, scores)), wanted)


def test_a_perfect_ranking_is_at_the_top_and_a_constant_one_on_the_diagonal():
    labels = np.array([1, 1, 0, 0, 0])
    assert roc(Ranking.of(labels, labels)).min() == 1
    assert precision_recall(Ranking.of(labels, labels)).min() == 1
    flat = Ranking.of(labels, np.zeros(5))
    assert roc(flat)[:-1].max() == 0
    assert roc(flat)[-1] == 1
    np.testing.assert_allclose(precision_recall(flat), 0.4)


def test_a_class_is_the_mean_of_its_features_with_positives(labels_and_scores):
    labels, scores = labels_and_scores
    one, none = Ranking.of(labels, scores), Ranking.of(labels * 0, scores)
    perfect = Ranking.of(labels, labels)
    found = mean_curves([one, none, perfect])
    np.testing.assert_allclose(found["roc"], (roc(one) + 1) / 2, atol=1e-4)
    np.testing.assert_allclose(
        found["precision_recall"], (precision_recall(one) + 1) / 2, atol=1e-4
    )
    assert mean_curves([none]) is None
