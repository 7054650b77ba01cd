import numpy as np
import pytest
import torch
from torch.nn import functional as F

import genobird
from genobird.errors import SequenceError, UsageError
from genobird.genome.sequence import base_codes
from genobird.heads import POSITIVE_WEIGHT
from genobird.scoring.effects import probabilities
from tests.conftest import random_dna


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint):
    return genobird.load(tiny_checkpoint, device="cpu")


def one_hot(*texts):
    codes = torch.from_numpy(np.stack([base_codes(text) for text in texts])).long()
    return F.one_hot(codes, 5)[..., :4].mT.float()


def test_one_hot_bases_get_the_scores_of_their_letters(scorer):
    texts = [random_dna(600, seed=1), random_dna(300, seed=2) + "N" * 20 + random_dna(280, seed=3)]
    module = scorer.module()
    logits = module(one_hot(*texts))
    assert module.names == ["promoter", *scorer.features]
    profiles = scorer.score_sequences(texts)[scorer.features].to_numpy()
    np.testing.assert_allclose(
        probabilities(logits[:, 1:].numpy(), POSITIVE_WEIGHT), profiles, 1e-5
    )
    along = scorer.promoter_logits(texts, [300, 300])
    np.testing.assert_allclose(logits[:, 0].numpy(), along, atol=1e-5)
    chosen = scorer.module("promoter")
    assert torch.equal(chosen(one_hot(*texts)), logits[:, :1])
    assert chosen.names == ["promoter"]


def test_what_is_not_one_hot_or_wants_a_gradient_is_refused(scorer):
    module, bases = scorer.module("DNase"), one_hot(random_dna(300, seed=4))
    with pytest.raises(SequenceError, match=r"shape \[1, 300, 4\] found; \[batch, 4, length\]"):
        module(bases.mT)
    for wrong in (bases * 0.5, bases.roll(1, 1) + bases):
        with pytest.raises(SequenceError, match="not one-hot found"):
            module(wrong)
    with pytest.raises(UsageError, match="the model reads tokens: it has none; use what changes"):
        module(bases.requires_grad_())
    with torch.no_grad():
        assert module(bases).shape == (1, 1)
    with pytest.raises(UsageError, match="no feature or class 'DNas'"):
        scorer.module("DNas")
