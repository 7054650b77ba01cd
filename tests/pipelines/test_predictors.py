from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genobird.baselines.config import BaselineConfig
from genobird.baselines.train import train_baselines
from genobird.datasets import ChromatinDataset
from genobird.errors import UsageError
from pipelines.motif_effects import Predictor, load_predictor, usual_changes
from tests.tasks.conftest import write_chromatin


@pytest.fixture(scope="module")
def chromatin(tiny_contigs, tmp_path_factory):
    """Two features of random labels."""
    rng = np.random.default_rng(1)
    labels = {
        name: rng.integers(0, 2, (len(tiny_contigs[name]) // 200, 2)).astype(np.uint8)
        for name in ("chr1", "chr2")
    }
    return write_chromatin(tmp_path_factory.mktemp("chromatin") / "data", tiny_contigs, labels)


@pytest.fixture(scope="module")
def baselines(chromatin, tmp_path_factory):
    output = tmp_path_factory.mktemp("baselines") / "b"
    config = BaselineConfig(models=("composition",), composition_bins=50)
    train_baselines(output, chromatin=chromatin, config=config)
    return output


def test_a_rival_is_asked_as_a_model_is(baselines, chromatin, tiny_checkpoint):
    rival = load_predictor(baselines=baselines, rival="composition")
    assert rival.name == "composition"
    assert rival.names == ["cell0|TF0|None", "cell1|TF1|None"]
    data = ChromatinDataset(chromatin)
    model = load_predictor(tiny_checkpoint)
    for asked, features in ((rival, 2), (model, 5)):
        texts = [data.sequence("chr1", 1_000, 5_000), data.sequence("chr1", 9_000, 12_000)]
        logits = asked.logits(texts, [2_000, 1_000])
        assert logits.shape == (2, features)
        assert asked.rank(logits[:1], logits[1:]).shape == (1, features)


def test_what_is_not_there_is_refused(baselines, tiny_checkpoint):
    with pytest.raises(UsageError, match="has no danq; it has composition"):
        load_predictor(baselines=baselines, rival="danq")
    with pytest.raises(UsageError, match="together"):
        load_predictor(rival="composition")
    with pytest.raises(UsageError, match="no --model beside"):
        load_predictor(tiny_checkpoint, baselines, "composition")


def test_changes_are_compared_with_those_of_random_bases(chromatin):
    asked = []

    def logits(sequences, places):
        """The first feature changes by 10 with any base at the place, the second by 1."""
        asked.extend(zip(sequences, places, strict=True))
        bases = ["ACGT".index(text[place]) for text, place in zip(sequences, places, strict=True)]
        return np.array([[10 * base, base] for base in bases], dtype=np.float32)

    features = pd.DataFrame({"index": [0, 1], "name": ["x", "y"], "class": "TF"})
    predictor = Predictor("word", features, logits)
    found = usual_changes(predictor, ChromatinDataset(chromatin), count=40, flank_bp=300)
    assert found.count == 40
    for (ref, place), (alt, _) in zip(asked[::2], asked[1::2], strict=True):
        assert ref[place] != alt[place]
        assert ref[:place] + ref[place + 1 :] == alt[:place] + alt[place + 1 :]
    units = found.sizes_beyond([0.01])[:, 0]
    assert units[0] == pytest.approx(10 * units[1])
