import numpy as np
import pytest
import torch
from pydantic import ValidationError

from genobird.datasets import read_promoters
from genobird.tasks.data import visiting_order
from genobird.tasks.finetune import PromoterConfig, finetune_promoter
from genobird.tasks.promoter import PromoterBatches, PromoterDataSettings
from genobird.tasks.remembered import RememberedBatches
from tests.models import tiny_checkpoint

STEPS = 4


@pytest.fixture
def checkpoint(tiny_tokenizer):
    return tiny_checkpoint(tiny_tokenizer)


@pytest.fixture
def draws(checkpoint, promoter_path):
    return PromoterBatches(
        read_promoters(promoter_path, "train"), PromoterDataSettings(sequences=4),
        tokenizer=checkpoint.tokenizer, head=checkpoint.promoter.config, block_size=16,
    )  # fmt: skip


def test_a_head_says_of_remembered_states_what_it_says_of_the_draws(checkpoint, draws):
    head = checkpoint.promoter.eval()
    remembered = RememberedBatches(draws, STEPS, checkpoint.encoder, head, batch=5, seed=3)
    with torch.no_grad():
        logits, labels = [], []
        for step in range(STEPS):
            batch = draws(step)
            places = batch.places
            hidden = checkpoint.encoder(places.batch)
            logits.append(head(hidden, places.batch, places.spans, places.owner))
            labels.append(batch.labels)
        expected, known = torch.cat(logits), torch.cat(labels)
        order = visiting_order(len(known), 3, 0)
        for step in range(len(known) // 5):
            batch = remembered(step)
            found = head.answer(batch.pooled)
            rows = torch.from_numpy(order[5 * step : 5 * step + 5])
            torch.testing.assert_close(found, expected[rows], rtol=2e-2, atol=2e-2)  # float16
            torch.testing.assert_close(batch.labels, known[rows])


def test_every_place_is_visited_once_an_epoch(checkpoint, draws):
    remembered = RememberedBatches(
        draws, STEPS, checkpoint.encoder, checkpoint.promoter, batch=4, seed=0
    )
    places = len(remembered.pooled)
    assert places == 4 * STEPS
    remembered.labels = torch.arange(places)[:, None].float()
    for epoch in range(2):
        steps = range(epoch * len(remembered), (epoch + 1) * len(remembered))
        visited = torch.cat([remembered(step).labels for step in steps])[:, 0]
        assert sorted(visited.tolist()) == list(range(places))


def test_a_head_is_trained_on_remembered_draws(checkpoint, promoter_path, tmp_path):
    checkpoint.save(tmp_path / "start")
    config = PromoterConfig.model_validate({
        "checkpoint": tmp_path / "start", "data_path": promoter_path, "freeze_encoder": True,
        "draws": 2, "places": 5, "data": {"sequences": 2},
        "fit": {"steps": 3, "warmup_steps": 1, "device": "cpu", "validate_every": 3},
    })  # fmt: skip
    made = finetune_promoter(config, tmp_path / "run", progress=False)
    before = checkpoint.encoder.state_dict()
    for name, value in made.encoder.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert made.provenance["promoter"]["config"]["draws"] == 2


def test_draws_of_an_encoder_that_is_trained_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="freeze_encoder must be true, or draws 0"):
        PromoterConfig(checkpoint=tmp_path, data_path=tmp_path, draws=1)


def test_draws_for_a_head_that_learns_what_to_keep_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="choose pool bin"):
        PromoterConfig.model_validate({
            "checkpoint": tmp_path, "data_path": tmp_path, "draws": 1, "freeze_encoder": True,
            "head": {"pool": "cells", "before_bp": 100, "after_bp": 100},
        })  # fmt: skip
