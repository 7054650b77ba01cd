from __future__ import annotations

import numpy as np
import pytest
import torch

from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset
from genobird.errors import InputError, UsageError
from genobird.heads import POSITIVE_WEIGHT, Head, HeadConfig
from genobird.inference import Inference
from genobird.local import LocalConfig
from genobird.tasks.evaluate import predict_chromatin
from pipelines.combine import combine, fit_weights
from tests.models import tiny_checkpoint
from tests.tasks.conftest import (  # noqa: F401
    FEATURES,
    auxiliary_path,
    chromatin,
    chromatin_labels,
    chromatin_path,
)

LOCAL = LocalConfig(
    span_bp=80,
    filters=8,
    filter_bp=5,
    pool_bp=4,
    width=6,
    dilations=(2,),
    cells=4,
    kept=4,
    hidden=8,
)


def test_weights_that_made_the_labels_are_found():
    rng = np.random.default_rng(0)
    far, local = rng.normal(size=(2, 20_000, 3))
    z = 0.5 * far + 1.5 * local - 1
    labels = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.uint8)
    np.testing.assert_allclose(fit_weights(far, local, labels), [0.5, 1.5, -1], atol=0.1)


@pytest.fixture
def models(tiny_tokenizer, chromatin, tmp_path):  # noqa: F811
    """A model of all features but one, and a local one of all."""
    torch.manual_seed(3)
    made = tiny_checkpoint(tiny_tokenizer)
    width = made.encoder.config.width
    made.chromatin = Head(HeadConfig(outputs=FEATURES - 1, hidden=8), width)
    made.features = chromatin.features.iloc[1:]
    made.save(tmp_path / "far")
    made.chromatin = Head(HeadConfig(outputs=FEATURES, pool="local", local=LOCAL), width)
    made.features = chromatin.features
    made.save(tmp_path / "local")
    return tmp_path / "far", tmp_path / "local"


def test_both_heads_are_weighed_class_by_class(models, chromatin_path, tmp_path):  # noqa: F811
    far, local = models
    said = combine(far, local, chromatin_path, tmp_path / "both")
    assert list(said) == ["TF", "TF, local alone"]
    dataset = ChromatinDataset(chromatin_path)
    both = predict_chromatin(
        Inference(Checkpoint.load(tmp_path / "both")), dataset, "validation"
    ).logits
    alone = predict_chromatin(Inference(Checkpoint.load(local)), dataset, "validation").logits
    _, v, c = said["TF, local alone"]
    np.testing.assert_allclose(
        both[:, 0], v * alone[:, 0] + c + np.log(POSITIVE_WEIGHT), rtol=1e-3, atol=1e-3
    )
    changed = both[:, 1:] - np.log(POSITIVE_WEIGHT) - said["TF"][1] * alone[:, 1:] - said["TF"][2]
    model = Checkpoint.load(far)
    model.chromatin = model.chromatin.widened(
        model.chromatin.config.model_copy(update={"outputs": FEATURES}), range(1, FEATURES)
    )
    model.features = dataset.features
    own = predict_chromatin(Inference(model), dataset, "validation").logits[:, 1:]
    np.testing.assert_allclose(changed, said["TF"][0] * own, rtol=1e-3, atol=1e-3)


def test_heads_that_do_not_fit_are_refused(models, chromatin_path, tmp_path):  # noqa: F811
    far, local = models
    with pytest.raises(InputError, match="needs a chromatin head with pool = local"):
        combine(far, far, chromatin_path, tmp_path / "out")
    with pytest.raises(InputError, match="without a local network"):
        combine(local, local, chromatin_path, tmp_path / "out")
    with pytest.raises(UsageError, match="exists"):
        combine(far, local, chromatin_path, far)
