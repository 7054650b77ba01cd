"""The encoder with other patterns, with extra global tokens, and with activation checkpointing."""

import numpy as np
import pytest
import torch

from genobird.batch import pack
from genobird.checkpoint import Checkpoint
from genobird.scoring.scorer import Scorer
from tests.conftest import random_dna
from tests.models import random_ids, tiny_checkpoint, tiny_encoder

SHAPES = [{}, {"global_tokens": "extra"}, {"norm": "post", "position": "absolute"}]
LENGTHS = [37, 200, 2, 64]


def test_extra_global_tokens_are_first_blocks_whose_embeddings_are_learned(tiny_tokenizer):
    shape = {"stem": "none", "position": "absolute", "max_tokens": 256}
    extra = tiny_encoder(tiny_tokenizer, global_tokens="extra", **shape)
    plain = tiny_encoder(tiny_tokenizer, **shape)
    state = extra.state_dict()
    learned = state.pop("global_tokens.weight")
    assert len(learned) == 2 * 16
    plain.load_state_dict(state)
    ids = random_ids(tiny_tokenizer, 150, seed=0) % 20 + 40
    with torch.no_grad():
        plain.embedding.weight[: len(learned)] = learned
        plain.position.weight[: len(learned)] = 0
        plain.position.weight[len(learned) :] = extra.position.weight[: -len(learned)]
        expected = plain(pack([np.r_[np.arange(len(learned), dtype=np.uint16), ids]], 16))
        actual = extra(pack([ids], 16))
    torch.testing.assert_close(actual[:150], expected[32 : 32 + 150], rtol=1e-5, atol=1e-5)


def test_extra_global_tokens_come_out_of_nowhere_and_go_back(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer, global_tokens="extra")
    batch = pack([random_ids(tiny_tokenizer, n, seed=n) for n in LENGTHS], 16)
    hidden = encoder(batch)
    assert hidden.shape == (len(batch.ids), encoder.config.width)
    hidden[batch.valid].sum().backward()
    assert (encoder.global_tokens.weight.grad.abs().amax(1) > 0).all()
    assert tiny_encoder(tiny_tokenizer).global_tokens is None


@pytest.mark.parametrize("shape", [{"pattern": "google"}, {"global_tokens": "extra"}], ids=str)
def test_a_model_of_any_pattern_is_stored_and_scores(tiny_tokenizer, tmp_path, shape):
    made = tiny_checkpoint(tiny_tokenizer, **shape)
    made.save(tmp_path / "model")
    loaded = Checkpoint.load(tmp_path / "model")
    assert loaded.encoder.config == made.encoder.config
    sequences = [random_dna(n, seed=n) for n in (900, 400, 2500)]
    together = Scorer(loaded).score_sequences(sequences)
    assert (together["status"] == "OK").all()
    alone = [Scorer(made).score_sequences([sequence]).iloc[0] for sequence in sequences]
    for name in Scorer(loaded).features:
        np.testing.assert_allclose(together[name], [row[name] for row in alone], rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_activation_checkpointing_changes_no_bit_of_a_gradient(tiny_tokenizer, shape):
    batch = pack([random_ids(tiny_tokenizer, n, seed=n) for n in LENGTHS], 16)
    found = []
    for wanted in (False, True):
        encoder = tiny_encoder(tiny_tokenizer, dropout=0.3, **shape).train()
        encoder.activation_checkpointing = wanted
        torch.manual_seed(7)
        encoder(batch)[batch.valid].square().mean().backward()
        found.append({name: p.grad for name, p in encoder.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def kept_bytes(encoder, batch):
    """What the backward pass will need of the forward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        hidden = encoder(batch)
    assert hidden.requires_grad
    return sum(kept.values())


def test_activation_checkpointing_keeps_one_input_a_layer(tiny_tokenizer):
    batch = pack([random_ids(tiny_tokenizer, 640, seed=0)], 16)
    kept = {}
    for layers in (2, 6):
        encoder = tiny_encoder(tiny_tokenizer, layers=layers).train()
        plain = kept_bytes(encoder, batch)
        encoder.activation_checkpointing = True
        kept[layers] = plain, kept_bytes(encoder, batch)
    one_input = 640 * 32 * 4
    plain, checkpointed = ((b - a) / 4 for a, b in zip(kept[2], kept[6], strict=True))
    assert checkpointed <= 1.1 * one_input
    assert plain > 8 * one_input
