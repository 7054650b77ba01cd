"""Training does not depend on the backend: the same losses, step by step."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from genobird import model
from genobird.attention import block_sparse_attention
from genobird.batch import pack
from genobird.model import MaskedLMHead
from tests.models import random_ids, tiny_encoder

STEPS = 4


def loss_curve(backend, tokenizer, device, monkeypatch):
    """Losses of a few steps on two sequences and the last weights."""
    forced = partial(block_sparse_attention, backend=backend)
    monkeypatch.setattr(
        model, "block_sparse_attention", lambda q, k, v, layout, backend: forced(q, k, v, layout)
    )
    torch.manual_seed(0)
    # One head of 32: the smallest that the kernels take. No tower: in front of its batch norms a
    # bias has no gradient but rounding, which Adam makes as large as any.
    shape = {"heads": 1, "layers": 1, "random_blocks": 1, "stem": "none"}
    encoder = tiny_encoder(tokenizer, **shape).train().to(device)
    head = MaskedLMHead(encoder.config).to(device)
    batch = pack([random_ids(tokenizer, n, seed=n) for n in (110, 5)], 16).to(device)
    targets = torch.arange(3, 110, 7, device=device)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(STEPS):
        logits = head(encoder(batch)[targets], encoder.embedding.weight)
        loss = F.cross_entropy(logits, batch.ids[targets])
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses, torch.cat([p.detach().flatten().cpu() for p in encoder.parameters()])


def test_loss_curves_of_all_backends_agree(tiny_tokenizer, device, monkeypatch):
    pytest.importorskip("triton")
    expected, weights = loss_curve("reference", tiny_tokenizer, device, monkeypatch)
    assert expected[-1] < 0.85 * expected[0]
    for backend in ("triton", "blocked"):
        losses, trained = loss_curve(backend, tiny_tokenizer, device, monkeypatch)
        assert losses == pytest.approx(expected, rel=1e-4), backend
        torch.testing.assert_close(trained, weights, rtol=1e-3, atol=1e-3)
