from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.heads import Head, HeadConfig
from genobird.inference import CAPACITY, Inference, Passes, products
from genobird.local import LocalConfig
from genobird.places import Question
from tests.conftest import random_dna
from tests.models import tiny_checkpoint

CPU = torch.device("cpu")


def numbers(part: slice) -> torch.Tensor:
    return torch.arange(part.start, part.stop)


@settings(max_examples=50)
@given(
    bases=st.lists(st.integers(1, 30_000), min_size=1, max_size=30),
    most=st.none() | st.integers(1, 5),
)
def test_passes_take_all_in_order_as_many_as_they_hold(bases, most):
    parts: list[slice] = []
    found = Passes(CPU, most).run(bases, lambda part: parts.append(part) or part, numbers)
    assert found.tolist() == list(range(len(bases)))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    for part in parts:
        held = sum(bases[part])
        if most is not None:
            assert part.stop - part.start == min(most, len(bases) - part.start)
        else:
            assert held <= CAPACITY["cpu"] or part.stop - part.start == 1
            if part.stop < len(bases):
                assert held + bases[part.stop] > CAPACITY["cpu"]


def test_the_next_pass_is_made_ready_while_one_is_computed():
    is_ready = [threading.Event() for _ in range(4)]

    def prepare(part: slice) -> slice:
        is_ready[part.start].set()
        return part

    def compute(part: slice) -> torch.Tensor:
        if part.stop < 4:
            is_ready[part.stop].wait()
        assert not any(event.is_set() for event in is_ready[part.stop + 1 :]), "one ahead, no more"
        return numbers(part)

    assert Passes(CPU, 1).run([10] * 4, prepare, compute).tolist() == [0, 1, 2, 3]


def test_what_fails_while_it_is_made_ready_comes_to_light():
    def prepare(part: slice) -> slice:
        if part.start == 2:
            raise ValueError("no DNA")
        return part

    with pytest.raises(ValueError, match="no DNA"):
        Passes(CPU, 1).run([10] * 4, prepare, numbers)


def test_memory_that_lacks_while_a_pass_is_made_ready_makes_passes_smaller():
    sizes: list[int] = []

    def prepare(part: slice) -> slice:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 2:
            raise MemoryError
        return part

    assert Passes(CPU, 8).run([10] * 5, prepare, numbers).tolist() == list(range(5))
    assert sizes == [5, 2, 2, 1]


def test_convolutions_on_a_gpu_keep_cudnn_without_its_shortened_products():
    with products(torch.device("cpu"), "float32"):
        assert torch.backends.cudnn.enabled
        assert not torch.backends.cudnn.allow_tf32


def test_nothing_is_encoded_for_heads_that_read_bases_alone(tiny_tokenizer, monkeypatch):
    made = tiny_checkpoint(tiny_tokenizer)
    shape = LocalConfig(span_bp=40, filters=6, filter_bp=5, pool_bp=2, width=5, cells=4, kept=3)
    width = made.encoder.config.width
    local = Head(HeadConfig(pool="local", local=shape), width)
    other = Head(HeadConfig(), width)
    inference = Inference(made)
    local.eval(), other.eval()
    sequences, places = [random_dna(300, seed=1)], [np.array([100, 200])]
    questions = [Question(head.config, places) for head in (other, local)]
    both = inference.predict_together([[other], [local]], questions, sequences)
    monkeypatch.setattr(inference, "encode", None)
    alone = inference.predict([local], local.config, sequences, places)
    assert np.array_equal(alone, both[:, 1:])
    with pytest.raises(TypeError):
        inference.predict([other], other.config, sequences, places)
