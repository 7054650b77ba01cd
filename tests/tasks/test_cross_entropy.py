import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genobird.model import BigBirdConfig, MaskedLMHead
from genobird.pair_log_odds import PairLogOdds
from genobird.tasks import pretrain
from genobird.tasks.pretrain import chunked_nats, plain_nats
from genobird.tokenizer import N_SPECIAL
from tests.assertions import assert_close
from tests.memory import PeakMemory

VOCABULARY, WIDTH = 50, 8


def draw(targets, vocabulary=VOCABULARY, dtype=torch.float64):
    """A head that knows neighbours, hidden states, an embedding, what is around, and labels."""
    torch.manual_seed(targets)
    config = BigBirdConfig(vocab_size=vocabulary, width=WIDTH, heads=1)
    head = MaskedLMHead(config)
    text = torch.randint(N_SPECIAL, vocabulary, (500,)).numpy().astype(np.uint16)
    head.neighbours = PairLogOdds.counted([text], vocabulary, [1, 2])
    head = head.to(dtype)
    nn.init.normal_(head.bias)
    around = torch.randint(vocabulary, (targets, 2, 2))
    hidden = torch.randn(targets, WIDTH, dtype=dtype, requires_grad=True)
    embedding = torch.randn(vocabulary, WIDTH, dtype=dtype, requires_grad=True)
    return head, hidden, embedding, torch.randint(vocabulary, (targets,)), around


def gradients(function, head, hidden, embedding, labels, around, *chunk):
    nats, pieces = function(head, hidden, embedding, labels, around, *chunk)
    weights = torch.linspace(0.5, 2, len(nats), dtype=nats.dtype)
    asked = {"hidden": hidden, "embedding": embedding, **dict(head.named_parameters())}
    found = torch.autograd.grad((nats * weights).sum(), list(asked.values()))
    return {"nats": nats, **dict(zip(asked, found, strict=True))}, pieces


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 500))
def test_chunks_give_the_nats_the_pieces_and_the_gradients_of_all_logits_at_once(targets, chunk):
    case = draw(targets)
    expected, expected_pieces = gradients(plain_nats, *case)
    actual, pieces = gradients(chunked_nats, *case, chunk)
    assert torch.equal(pieces, expected_pieces)
    for name, value in expected.items():
        assert_close(name, actual[name], value, torch.float64, gradient=True)


def test_nats_are_those_of_a_softmax_written_out():
    head, hidden, embedding, labels, around = draw(7)
    p = torch.softmax(head(hidden, embedding, around), -1)
    by_hand = torch.stack([-p[i, label].log() for i, label in enumerate(labels)])
    nats, pieces = chunked_nats(head, hidden, embedding, labels, around, 100)
    torch.testing.assert_close(nats, by_hand)
    assert torch.equal(pieces, p.argmax(-1))


@pytest.mark.parametrize("targets", [1000, 4000])
def test_no_more_logits_than_a_chunk_exist_at_any_time(targets):
    vocabulary, rows = 500, 20
    head, hidden, embedding, labels, _ = draw(targets, vocabulary, torch.float32)
    head.neighbours = None
    every = targets * vocabulary * 4
    found = {}
    for function, chunk in ((plain_nats, ()), (chunked_nats, (rows * vocabulary,))):
        with PeakMemory() as memory:
            function(head, hidden, embedding, labels, None, *chunk)[0].sum().backward()
        found[function] = memory
        hidden.grad = embedding.grad = None
    assert found[plain_nats].largest == every
    # What is left grows with hidden states and labels, [M, D]; of logits there are a few copies.
    states = targets * WIDTH * 4
    assert found[chunked_nats].largest <= max(states, embedding.nbytes, rows * vocabulary * 4)
    assert found[chunked_nats].peak < 10 * rows * vocabulary * 4 + 6 * states < every


def test_autocast_reaches_the_logits_of_each_chunk():
    case = draw(30, dtype=torch.float32)
    expected, _ = gradients(plain_nats, *case)
    with torch.autocast("cpu", torch.bfloat16):
        actual, _ = gradients(chunked_nats, *case, 100)
    assert actual["nats"].dtype == torch.float32
    assert not torch.equal(actual["nats"], expected["nats"])
    for name, value in expected.items():
        assert_close(name, actual[name], value, torch.bfloat16, gradient=True)


def test_few_targets_are_done_at_once(monkeypatch):
    monkeypatch.setattr(pretrain, "checkpoint", lambda *_a, **_k: pytest.fail("made again"))
    chunked_nats(*draw(3), 3 * VOCABULARY)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        chunked_nats(*draw(4), 3 * VOCABULARY)
