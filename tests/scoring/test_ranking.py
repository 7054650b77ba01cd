from __future__ import annotations

import numpy as np

from genobird.scoring.background import Background
from genobird.scoring.ranking import relative_sizes

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
