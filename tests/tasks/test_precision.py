import pytest
import torch

from genobird.tasks import precision
from genobird.tasks.precision import fastest, measure


@pytest.mark.parametrize(
    ("bf16", "expected"), [(0.2, "bf16"), (0.8, "bf16"), (0.9, "float32"), (5.0, "float32")]
)
def test_on_a_cpu_bfloat16_has_to_be_clearly_faster(monkeypatch, bf16, expected):
    monkeypatch.setattr(precision, "measure", lambda: {"float32": 1.0, "bf16": bf16})
    assert fastest("cpu") == expected


@pytest.mark.parametrize("supported", [True, False])
def test_on_a_gpu_it_is_chosen_where_the_gpu_has_it(monkeypatch, supported):
    def answer(including_emulation):
        return supported and not including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    monkeypatch.setattr(precision, "measure", lambda: pytest.fail("measured"))
    assert fastest("cuda") == ("bf16" if supported else "float32")


def test_both_ways_are_measured_once_and_leave_no_trace():
    measure.cache_clear()
    state = torch.get_rng_state()
    found = measure()
    assert set(found) == {"float32", "bf16"}
    assert all(0 < seconds < 10 for seconds in found.values())
    assert measure() is found
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_autocast_enabled("cpu")
