"""The whole model on a GPU, against float64 on the CPU; needs pydantic beside torch and Triton."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("pydantic")

from genobird.batch import pack
from genobird.model import BigBird, MaskedLMHead
from genobird.pair_log_odds import PairLogOdds
from genobird.tasks.pretrain import chunked_nats, plain_nats
from genobird.tokenizer import N_SPECIAL
from tests.assertions import assert_close
from tests.benchmarks.bench_model import draw, pieces, shape_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SMALL = {"layers": 2, "dropout": 0.0}
SHAPES = [{}, {"global_tokens": "extra"}, {"pattern": "google"}, {"norm": "post"}]
LENGTHS = [1000, 64, 7, 2500]


@pytest.fixture(autouse=True)
def _exact_products():
    before = torch.backends.cudnn.allow_tf32  # convolutions use TF32 unless told not to
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def build(**changes):
    """The `mini` preset with fewer layers, on the CPU in float64."""
    torch.manual_seed(0)
    shape = shape_of("mini", 4096, **{**SMALL, **changes})
    encoder = BigBird(shape, pieces(shape.vocab_size)).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    return shape, encoder


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_hidden_states_and_gradients_equal_float64_on_the_cpu(changes):
    shape, encoder = build(**changes)
    rng = torch.Generator().manual_seed(1)
    ids = [torch.randint(5, shape.vocab_size, (n,), generator=rng).numpy() for n in LENGTHS]
    batch = pack([x.astype("uint16") for x in ids], shape.block_size)
    expected = encoder(batch)[batch.valid]
    weight = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    (expected * weight).sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    encoder.zero_grad(set_to_none=True)
    encoder.to("cuda", torch.float32)
    there = batch.to("cuda")
    actual = encoder(there, backend="triton")[there.valid]
    assert_close("hidden", actual, expected, torch.float32, gradient=True)
    (actual * weight.to(actual)).sum().backward()
    for name, parameter in encoder.named_parameters():
        error = (parameter.grad.double().cpu() - gradients[name]).norm() / gradients[name].norm()
        assert error < 1e-3, (name, float(error))


def test_activation_checkpointing_costs_no_bit_and_saves_memory():
    shape, encoder = build(layers=6, dropout=0.1)
    encoder = encoder.float().cuda().train()
    case = draw(shape, 4096, 4, torch.device("cuda"))
    head = MaskedLMHead(shape).cuda()
    found = []
    for wanted in (False, True):
        encoder.activation_checkpointing = wanted
        encoder.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            hidden = encoder(case.batch)[case.targets]
            loss = chunked_nats(head, hidden, encoder.embedding.weight, case.labels)[0].mean()
        loss.backward()
        gradients = [block.mlp[0].weight.grad.clone() for block in encoder.blocks]
        found.append((gradients, torch.cuda.max_memory_allocated()))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert found[1][1] < 0.6 * found[0][1]


def test_chunks_of_logits_give_the_gradients_of_all_logits_at_once():
    shape, _ = build()
    head = MaskedLMHead(shape).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    draws = [
        torch.randn(n, shape.width, generator=generator, device="cuda", requires_grad=True)
        for n in (5000, shape.vocab_size)
    ]
    labels = torch.randint(shape.vocab_size, (5000,), generator=generator, device="cuda")
    found = []
    for nats, chunk in ((plain_nats, ()), (chunked_nats, (1000 * shape.vocab_size,))):
        with torch.autocast("cuda", torch.bfloat16):
            losses, _pieces = nats(head, *draws, labels, *chunk)
        found.append(torch.autograd.grad(losses.mean(), draws))
    for name, a, b in zip(("dhidden", "dembedding"), found[1], found[0], strict=True):
        assert_close(name, a, b, torch.bfloat16, gradient=True)


def test_a_batch_is_learnt_by_heart_in_bfloat16():
    shape, _ = build(layers=4)
    torch.manual_seed(0)
    encoder = BigBird(shape, pieces(shape.vocab_size)).cuda().train()
    head = MaskedLMHead(shape).cuda()
    case = draw(shape, 1024, 2, torch.device("cuda"))
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
    losses = []
    for _ in range(150):
        with torch.autocast("cuda", torch.bfloat16):
            hidden = encoder(case.batch)[case.targets]
            loss = chunked_nats(head, hidden, encoder.embedding.weight, case.labels)[0].mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.2 * losses[0]


def test_counted_neighbours_say_on_a_gpu_what_they_say_on_a_cpu():
    rng = np.random.Generator(np.random.Philox(0))
    text = rng.integers(N_SPECIAL, 4096, size=200_000).astype(np.uint16)
    made = PairLogOdds.counted([text], 4096, [1, 2])
    around = torch.from_numpy(rng.integers(0, 4096, size=(500, 2, 2)))
    expected = made(around).detach()
    actual = made.cuda()(around.cuda()).detach().cpu()
    assert_close("neighbours", actual, expected, torch.float32)
