import pytest

from genobird.schedule import rate_factor


def test_the_rate_warms_up_and_decays_to_zero():
    for decay in ("linear", "cosine"):
        factors = [rate_factor(step, 14, 4, decay) for step in range(15)]
        assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
        assert factors[4] == 1.0
        assert factors[9] == pytest.approx(0.5)
        assert factors[14] == pytest.approx(0, abs=1e-7)
        assert factors[4:] == sorted(factors[4:], reverse=True)
    assert rate_factor(7, 14, 4, "cosine") > rate_factor(7, 14, 4, "linear")


def test_a_training_of_nothing_but_warm_up_has_rates_too():
    assert [rate_factor(step, 2, 3) for step in range(2)] == [1 / 3, 2 / 3]
    assert rate_factor(3, 3, 3) == 1.0
