import re

import pytest
import torch

from genobird import doctor, inference
from genobird.doctor import Finding


def answer(name: str) -> doctor.Check:
    return doctor._ask(name, doctor._QUESTIONS[name])


@pytest.mark.parametrize(
    ("seconds", "advice"), [(0.25, "4 times .* bf16, as auto"), (2.0, "0.5 times .* float32, as a")]
)
def test_it_recommends_the_precision_that_was_faster(monkeypatch, seconds, advice):
    monkeypatch.setattr(inference, "measured_seconds", lambda: {"float32": 1.0, "bf16": seconds})
    check = answer("bf16")
    assert check.finding is Finding.OK
    assert re.search(advice, check.detail)


def test_on_a_gpu_it_recommends_bfloat16_where_the_gpu_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "A card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert answer("CUDA").detail == "A card; train with fit.precision bf16"


def test_a_machine_without_a_gpu_is_no_finding(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert answer("CUDA").finding is Finding.NOTE


def test_what_goes_wrong_is_a_finding():
    def broken():
        raise RuntimeError("no\nsuch thing")

    check = doctor._ask("torch", broken)
    assert (check.finding, check.detail) == (Finding.BROKEN, "RuntimeError: no such thing")
    assert not doctor.healthy([check])
