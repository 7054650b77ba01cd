import numpy as np
import pytest
import torch

import genobird
from genobird.batch import add_specials, pack
from genobird.errors import UsageError
from genobird.scoring.scorer import Scorer
from tests.conftest import random_dna
from tests.models import tiny_checkpoint


@pytest.mark.parametrize("changes", [{}, {"global_tokens": "extra"}])
def test_a_map_is_what_the_layer_does_with_its_values(tiny_tokenizer, changes):
    scorer = Scorer(tiny_checkpoint(tiny_tokenizer, **changes), device="cpu")
    text = random_dna(900, seed=1)
    found = scorer.attention(text, layer=0)
    tokens = len(scorer.checkpoint.tokenizer.encode(text)) + 2
    assert found.weights.shape == (2, tokens, tokens)
    sums = found.weights.sum(2)
    if not changes:
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert (sums < 1 + 1e-5).all()
    assert found.spans.tolist()[0] == [0, 0]
    assert found.spans[-1].tolist() == [900, 900]
    assert (found.spans[1:-1, 0] == found.spans[:-2, 1]).all()
    assert not scorer.checkpoint.encoder.blocks[0].attention._forward_pre_hooks


def test_the_weights_give_the_attention_that_the_encoder_computes(tiny_tokenizer):
    scorer = Scorer(tiny_checkpoint(tiny_tokenizer), device="cpu")
    encoder, text = scorer.checkpoint.encoder, random_dna(900, seed=2)
    kept = {}
    attention = encoder.blocks[1].attention
    hook = attention.register_forward_hook(lambda _, given, out: kept.update(x=given[0], out=out))
    batch = pack([add_specials(scorer.checkpoint.tokenizer.encode(text).ids)], 16)
    with torch.inference_mode():
        encoder(batch)
        hook.remove()
        weights = torch.from_numpy(scorer.attention(text, layer=1).weights)
        tokens = weights.shape[1]
        values = attention.qkv(kept["x"]).view(len(kept["x"]), 3, 2, -1)[:tokens, 2]
        out = attention.out(torch.einsum("hqk,khd->qhd", weights, values).flatten(1))
    np.testing.assert_allclose(out, kept["out"][:tokens], atol=2e-5)


def test_a_layer_that_is_not_there_is_refused(tiny_checkpoint):
    scorer = genobird.load(tiny_checkpoint, device="cpu")
    with pytest.raises(UsageError, match="layer 2 found, and the model has 2; they count from 0"):
        scorer.attention("ACGT" * 20, layer=2)
    with pytest.raises(UsageError, match="layer '1' found"):
        scorer.attention("ACGT" * 20, layer="1")
    with pytest.raises(UsageError, match="5 is given as sequence 0; give strings, Seq or SeqR"):
        scorer.attention(5)
    with pytest.raises(UsageError, match="up to 4,096 are allowed; cut it"):
        scorer.attention("ACGT" * 20_000)
