from __future__ import annotations

import numpy as np

from genobird.scoring.background import Background
from genobird.scoring.ranking import relative_sizes

NAMES = ["a|X|None", "b|Y|None", "c|Z|None"]


def test_a_change_counts_relative_to_what_is_usual_for_its_feature():
    usual = np.linspace(0.01, 1, 100)
    deltas = np.stack([usual, usual / 10], axis=1).astype(np.float32)
    background = Background.of(deltas, NAMES[:2], [0, 1], model="m")
    found = relative_sizes(np.array([[-0.5, 0.2, 0.3]]), NAMES, background)
    np.testing.assert_allclose(found, [[0.5, 2.0, 0.3]], rtol=0.02)


def test_without_a_background_the_unit_is_a_logit():
    deltas = np.array([[-0.5, np.nan, 2.0]], np.float32)
    np.testing.assert_array_equal(relative_sizes(deltas, NAMES, None), np.abs(deltas))
