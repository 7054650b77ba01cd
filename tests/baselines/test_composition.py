import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from genobird.baselines.composition import (
    bin_composition,
    composition,
    fit_composition,
    promoter_composition,
)
from genobird.errors import InputError
from genobird.genome.sequence import reverse_complement


def ascii_codes(text):
    return np.frombuffer(text.encode(), np.uint8)


def described(text):
    """GC fraction and CpG observed / expected, by counting letters."""
    c, g, n = text.count("C"), text.count("G"), text.count("N")
    bases = len(text) - n
    gc = (c + g) / bases if bases else 0.0
    return gc, text.count("CG") * bases / (c * g) if c * g else 0.0


@given(st.text("ACGTN", min_size=1, max_size=60), st.data())
def test_composition_is_what_counting_letters_gives(text, data):
    place = data.draw(st.integers(0, len(text)))
    found = composition(ascii_codes(text), np.array([place]), (4, 10, 200))
    for i, width in enumerate((4, 10, 200)):
        window = text[max(0, place - width // 2) : place + width // 2]
        assert found[0, 2 * i : 2 * i + 2] == pytest.approx(described(window), abs=1e-6)


@given(st.text("ACGTN", min_size=1, max_size=60))
def test_composition_is_the_same_on_both_strands(text):
    middle = np.array([len(text) // 2])
    windows = (2 * len(text) + 2,)
    forward = composition(ascii_codes(text), middle, windows)
    np.testing.assert_allclose(
        forward, composition(ascii_codes(reverse_complement(text)), middle, windows)
    )


def test_bins_are_described_by_the_bases_around_their_centre(dataset):
    bins = np.array([0, 3, 7, 250, 299])
    found = bin_composition(dataset, "chr1", bins)
    text = dataset.sequence("chr1", 0, dataset.length("chr1"))
    for row, i in zip(found, bins, strict=True):
        for k, width in enumerate((200, 500, 1000, 2000)):
            window = text[max(0, 200 * i + 100 - width // 2) : 200 * i + 100 + width // 2]
            assert row[2 * k : 2 * k + 2] == pytest.approx(described(window), abs=1e-6)
    assert bin_composition(dataset, "chr1", bins[:0]).shape == (0, 8)


def test_a_promoter_is_described_up_to_the_ends_of_its_window():
    text = "CG" * 2500 + "AT" * 1500
    row = promoter_composition([text], 5000)[0]
    assert row[0] == pytest.approx(0.5)
    assert row[-2] == pytest.approx(4000 / 7000)


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
    model = fit_composition(inputs, labels, positive_weight=positive_weight, tolerance=1e-12)
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
    model = fit_composition(inputs, np.zeros((3, 1), np.uint8))
    assert np.isfinite(model.weights).all()
    assert (model.predict(inputs) < 0).all()


def test_a_perfectly_separable_label_has_finite_weights():
    inputs = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    model = fit_composition(inputs, (inputs > 0).astype(np.uint8))
    logits = model.predict(inputs)[:, 0]
    assert ((logits > 0) == (inputs[:, 0] > 0)).all()


def test_tables_that_do_not_agree_are_refused():
    with pytest.raises(InputError, match=r"inputs are \[3, 2\] and labels \[2, 1\]"):
        fit_composition(np.zeros((3, 2), np.float32), np.zeros((2, 1), np.uint8))
