import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from genobird.tasks.metrics import GRID, curves_of, mean_curves, precision_recall, roc


@pytest.fixture(scope="module")
def labels_and_scores():
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.2).astype(np.uint8)
    return labels, np.round(rng.normal(size=500) + labels, 1)  # with ties


def test_the_roc_curve_goes_through_the_points_of_scikit_learn(labels_and_scores):
    labels, scores = labels_and_scores
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    wanted = [true[false <= x + 1e-12].max() for x in GRID]
    np.testing.assert_allclose(roc(labels, scores), wanted)


def test_the_precision_recall_curve_goes_through_the_points_of_scikit_learn(labels_and_scores):
    labels, scores = labels_and_scores
    precision, recall, _ = precision_recall_curve(labels, scores)
    precision, recall = precision[::-1][1:], recall[::-1][1:]  # by falling threshold
    keep = np.concatenate([[True], recall[1:] > recall[:-1]])
    precision, recall = precision[keep], recall[keep]
    wanted = [precision[np.argmax(recall >= x - 1e-12)] for x in GRID]
    np.testing.assert_allclose(precision_recall(labels, scores), wanted)


def test_a_perfect_ranking_is_at_the_top_and_a_constant_one_on_the_diagonal():
    labels = np.array([1, 1, 0, 0, 0])
    assert roc(labels, labels).min() == 1
    assert precision_recall(labels, labels).min() == 1
    flat = np.zeros(5)
    assert roc(labels, flat)[:-1].max() == 0
    assert roc(labels, flat)[-1] == 1
    np.testing.assert_allclose(precision_recall(labels, flat), 0.4)


def test_at_a_recall_of_zero_the_first_positive_has_been_found():
    # The highest score is a negative's: no recall, and a precision of 0.
    found = precision_recall(np.array([0, 1, 0]), np.array([3, 2, 1]))
    np.testing.assert_allclose(found, 0.5)


def test_a_class_is_the_mean_of_its_features_with_positives(labels_and_scores):
    labels, scores = labels_and_scores
    truth = np.column_stack([labels, labels * 0, labels])
    curves = curves_of(truth, np.column_stack([scores, scores, labels]))
    found = mean_curves(curves)
    np.testing.assert_allclose(found["roc"], (roc(labels, scores) + 1) / 2, atol=1e-4)
    np.testing.assert_allclose(
        found["precision_recall"], (precision_recall(labels, scores) + 1) / 2, atol=1e-4
    )
    assert mean_curves({kind: heights[[1]] for kind, heights in curves.items()}) is None
