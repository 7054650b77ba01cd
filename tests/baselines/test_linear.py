import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from genobird.baselines.linear_models import fit_logistic, fit_wide_logistic
from genobird.errors import InputError


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(600, 4)).astype(np.float32) * [1, 5, 0.1, 2] + [0, 3, 1, -2]
    chance = 1 / (1 + np.exp(-(inputs[:, :2] @ [[1.0, -2], [0.3, 0.1]] - 2)))
    labels = (rng.random((600, 2)) < chance).astype(np.uint8)
    return inputs.astype(np.float32), labels


@pytest.mark.parametrize("positive_weight", [1.0, 8.0])
def test_the_regression_is_that_of_scikit_learn(table, positive_weight):
    inputs, labels = table
    model = fit_logistic(inputs, labels, positive_weight=positive_weight, tolerance=1e-12)
    standard = (inputs - model.mean) / model.scale
    for f in range(labels.shape[1]):
        oracle = LogisticRegression(
            C=1.0, tol=1e-8, max_iter=500, class_weight={1: positive_weight}
        )
        oracle.fit(standard, labels[:, f])
        np.testing.assert_allclose(model.weights[f, :-1], oracle.coef_[0], atol=1e-4)
        np.testing.assert_allclose(model.weights[f, -1], oracle.intercept_[0], atol=1e-4)
    oracle_logits = oracle.decision_function(standard)
    np.testing.assert_allclose(model.predict(inputs)[:, -1], oracle_logits, atol=1e-3)


def test_a_feature_without_positives_and_an_input_that_never_changes_are_survived():
    inputs = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], dtype=np.float32)
    model = fit_logistic(inputs, np.zeros((3, 1), np.uint8))
    assert np.isfinite(model.weights).all()
    assert (model.predict(inputs) < 0).all()


def test_a_perfectly_separable_label_has_finite_weights():
    inputs = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    model = fit_logistic(inputs, (inputs > 0).astype(np.uint8))
    logits = model.predict(inputs)[:, 0]
    assert ((logits > 0) == (inputs[:, 0] > 0)).all()


def test_tables_that_do_not_agree_are_refused():
    with pytest.raises(InputError, match=r"inputs are \[3, 2\] and labels \[2, 1\]"):
        fit_logistic(np.zeros((3, 2), np.float32), np.zeros((2, 1), np.uint8))


def test_the_wide_regression_is_the_same_regression(table):
    inputs, labels = table
    wide = fit_wide_logistic(inputs, labels[:, 0])
    narrow = fit_logistic(inputs, labels[:, :1], tolerance=1e-12)
    np.testing.assert_allclose(wide.predict(inputs), narrow.predict(inputs), atol=1e-2)


def test_a_wide_regression_of_one_class_is_refused():
    with pytest.raises(InputError, match="all 3 labels are equal"):
        fit_wide_logistic(np.zeros((3, 2), np.float32), np.ones(3, np.uint8))
