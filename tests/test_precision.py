from itertools import chain
from types import SimpleNamespace

import pytest
import torch

from genobird import inference
from genobird.inference import fastest, measured_seconds


@pytest.mark.parametrize(
    ("bf16", "expected"), [(0.2, "bf16"), (0.8, "bf16"), (0.9, "float32"), (5.0, "float32")]
)
def test_on_a_cpu_bfloat16_has_to_be_clearly_faster(monkeypatch, bf16, expected):
    monkeypatch.setattr(inference, "measured_seconds", lambda: {"float32": 1.0, "bf16": bf16})
    assert fastest("cpu") == expected


@pytest.mark.parametrize("supported", [True, False])
def test_on_a_gpu_it_is_chosen_where_the_gpu_has_it(monkeypatch, supported):
    def answer(including_emulation):
        return supported and not including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    monkeypatch.setattr(inference, "measured_seconds", lambda: pytest.fail("measured"))
    assert fastest("cuda") == ("bf16" if supported else "float32")


@pytest.fixture
def _unmeasured():
    measured_seconds.cache_clear()
    yield
    measured_seconds.cache_clear()


@pytest.mark.usefixtures("_unmeasured")
def test_both_ways_are_measured_once_and_leave_no_trace(monkeypatch):
    """By the best of three runs behind one that does not count."""
    ticks = chain.from_iterable((0.0, seconds) for seconds in (1, 3, 2, 4, 0.5, 9, 8, 7))
    monkeypatch.setattr(inference, "time", SimpleNamespace(perf_counter=ticks.__next__))
    state = torch.get_rng_state()
    found = measured_seconds()
    assert found == {"float32": 2.0, "bf16": 7.0}
    assert measured_seconds() is found
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_autocast_enabled("cpu")
