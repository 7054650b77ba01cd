import numpy as np
import pytest
import torch
from torch.nn import functional as F

import genobird
from genobird.errors import SequenceError, UsageError
from genobird.genome.sequence import base_codes
from genobird.heads import POSITIVE_WEIGHT, probabilities
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


@pytest.fixture
def wrapped(scorer, tmp_path, monkeypatch):
    """The module in a model of gReLU's, whose network gives [batch, outputs, 1]."""
    lightning = pytest.importorskip("grelu.lightning", reason="gReLU is not installed")
    # gReLU would lower the precision of products for all tests that follow.
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.chdir(tmp_path)  # where Lightning keeps its logs
    settings = {"task": "regression", "loss": "mse"}
    model = lightning.LightningModel({"model_type": "ConvModel", "n_tasks": 1}, settings)
    model.model = torch.nn.Sequential(scorer.module("promoter"), torch.nn.Unflatten(1, (-1, 1)))
    model.data_params = {"tasks": {"name": ["promoter"]}}
    return model


@pytest.mark.filterwarnings("ignore")  # of gReLU and of what it imports
def test_grelu_mutates_with_the_module_and_is_told_that_it_has_no_gradient(scorer, wrapped):
    from grelu.interpret.score import ISM_predict, get_attributions

    text = random_dna(120, seed=5)
    found = ISM_predict(text, wrapped, start_pos=58, end_pos=61, num_workers=0)
    assert found.shape == (4, 3)
    changed = [text[:at] + base + text[at + 1 :] for base in "ACGT" for at in (58, 59, 60)]
    expected = scorer.module("promoter")(one_hot(*changed)).numpy().reshape(4, 3)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found.to_numpy(), expected, atol=1e-5)
    for method in ("deepshap", "saliency", "inputxgradient", "integratedgradients"):
        with pytest.raises(UsageError, match="the model reads tokens: it has none"):
            get_attributions(wrapped, [text], method=method, n_shuffles=2)


@pytest.mark.skipif(not hasattr(np, "Inf"), reason="evolve of gReLU 1.1.0 needs NumPy 1")
@pytest.mark.filterwarnings("ignore")
def test_grelu_evolves_sequences_by_the_logits_of_the_module(scorer, wrapped):
    from grelu.design import evolve

    text = random_dna(120, seed=6)
    found = evolve([text], wrapped, max_iter=1, positions=[59, 60], num_workers=0, verbose=False)
    assert len(found) == 1 + 2 * 3
    expected = scorer.module("promoter")(one_hot(*found["seq"]))[:, 0].numpy()
    np.testing.assert_allclose(found["prediction_score"], expected, atol=1e-5)
    np.testing.assert_allclose(found["promoter"], expected, atol=1e-5)
