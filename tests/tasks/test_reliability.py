import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit

from genobird.heads import probabilities
from genobird.tasks.metrics import BINS, calibration

LOGITS = arrays.arrays(np.float32, (7, 3), elements=st.floats(-50, 50, width=32))
LABELS = arrays.arrays(np.uint8, (7, 3), elements=st.integers(0, 1))


@given(LABELS, LOGITS, st.sampled_from([1.0, 8.0]))
def test_all_labels_at_once_are_compared_as_a_list_of_them_would_be(labels, logits, weight):
    found = calibration(labels, logits, weight)
    # Another formula would put a value on the edge of two bins into the other one.
    chances, truth = probabilities(logits, weight).ravel(), labels.ravel()
    expected = expit(logits.astype(np.float64).ravel() - np.log(weight))
    np.testing.assert_allclose(chances, expected, rtol=0, atol=1e-15)
    place = np.minimum((chances * BINS).astype(int), BINS - 1)
    places = np.unique(place)
    sizes = [(place == i).sum() for i in places]
    predicted = [chances[place == i].mean() for i in places]
    observed = [truth[place == i].mean() for i in places]
    assert [row["count"] for row in found["table"]] == sizes
    assert [row["predicted"] for row in found["table"]] == pytest.approx(predicted, rel=1e-5)
    assert [row["observed"] for row in found["table"]] == pytest.approx(observed)
    assert [row["low"] for row in found["table"]] == pytest.approx(places / BINS)
    gaps = np.abs(np.subtract(predicted, observed))
    assert found["error"] == pytest.approx(np.average(gaps, weights=sizes), abs=1e-6)
    assert found["predicted_share"] == pytest.approx(chances.mean(), abs=1e-6)
    assert found["observed_share"] == pytest.approx(truth.mean())


def test_reliability_of_a_small_case():
    probabilities = np.array([[0.15, 0.15, 0.95, 1.0]])
    found = calibration(
        np.array([[0, 1, 1, 1]], np.uint8),
        np.array([np.log(probabilities / (1 - probabilities + 1e-12))], np.float32)[0],
    )
    assert [row["count"] for row in found["table"]] == [2, 2]
    assert [row["predicted"] for row in found["table"]] == pytest.approx([0.15, 0.975])
    assert [row["observed"] for row in found["table"]] == [0.5, 1.0]
    assert found["error"] == pytest.approx((2 * 0.35 + 2 * 0.025) / 4)


def test_large_logits_do_not_overflow():
    found = calibration(np.array([[0, 1]], np.uint8), np.array([[-1e4, 1e4]], np.float32))
    assert [row["predicted"] for row in found["table"]] == [0, 1]
