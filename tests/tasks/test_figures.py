import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from genobird.datasets import Predictions
from genobird.tasks.figures import evaluate_chromatin, evaluate_promoters
from genobird.tasks.metrics import Resampling, calibration

LN8 = math.log(8)


@pytest.fixture(scope="module")
def predictions():
    """Four thousand bins, five features (the last without positives), logits that know a little."""
    rng = np.random.default_rng(2)
    labels = (rng.random((4000, 5)) < [0.1, 0.05, 0.2, 0.02, 0]).astype(np.uint8)
    logits = rng.normal(size=labels.shape) + labels
    contigs = np.full(4000, "chr1")
    return Predictions(contigs, np.arange(4000), labels, logits.astype(np.float32))


FEATURES_TABLE = pd.DataFrame(
    {
        "index": range(5),
        "name": list("abcde"),
        "class": ["TF", "TF", "DNase", "histone", "histone"],
    }
)


def test_medians_are_those_of_the_features_with_positives(predictions):
    found = evaluate_chromatin(predictions, FEATURES_TABLE, Resampling(resamples=5))
    pairs = list(zip(predictions.labels.T, predictions.logits.T, strict=True))
    aurocs = [roc_auc_score(*pair) for pair in pairs[:4]]
    auprcs = [average_precision_score(*pair) for pair in pairs[:4]]
    classes = found["all_bins"]["classes"]
    assert classes["TF"]["auroc"]["point"] == pytest.approx(np.median(aurocs[:2]))
    assert classes["all"]["auprc"]["point"] == pytest.approx(np.median(auprcs))
    assert classes["histone"]["features"] == 1
    assert found["groups"] == 4  # 800 kb in stretches of 250 kb
    *known, without = found["per_feature"]["all_bins_auroc"]
    assert known == pytest.approx(aurocs)
    assert math.isnan(without)


def test_tf_bins_are_those_where_a_tf_binds(predictions):
    found = evaluate_chromatin(predictions, FEATURES_TABLE, Resampling(resamples=5))
    rows = predictions.labels[:, :2].any(axis=1)
    assert found["tf_bins"]["windows"] == rows.sum()
    assert found["tf_bins"]["classes"]["DNase"]["auroc"]["point"] == pytest.approx(
        roc_auc_score(predictions.labels[rows, 2], predictions.logits[rows, 2])
    )


def test_calibration_is_that_of_probabilities_without_the_positive_weight(predictions):
    found = evaluate_chromatin(predictions, FEATURES_TABLE, Resampling(resamples=2))["calibration"]
    assert found == calibration(predictions.labels, predictions.logits.astype(float) - LN8)


def test_a_better_model_has_a_difference_above_zero_and_itself_none(predictions):
    rng = np.random.default_rng(3)
    noise = rng.normal(size=predictions.logits.shape).astype(np.float32)
    found = evaluate_chromatin(
        predictions, FEATURES_TABLE, Resampling(resamples=30),
        baselines={"noise": noise, "same": predictions.logits},
    )  # fmt: skip
    noise_row = found["baselines"]["noise"]["all_bins"]["classes"]["all"]
    assert noise_row["auroc_difference"]["low"] > 0
    same = found["baselines"]["same"]["all_bins"]["classes"]["all"]
    assert same["auroc_difference"] == {"low": 0, "point": 0, "high": 0}
    mine = found["all_bins"]["classes"]["all"]["auroc"]["point"]
    assert noise_row["auroc_difference"]["point"] == pytest.approx(
        mine - noise_row["auroc"]["point"]
    )
    assert {"all_bins_auroc_noise", "tf_bins_auprc_same"} <= set(found["per_feature"])


def test_a_part_without_bound_tfs_has_no_tf_figures(predictions):
    none = FEATURES_TABLE.assign(**{"class": "DNase"})
    found = evaluate_chromatin(predictions, none, Resampling(resamples=2))
    assert "tf_bins" not in found


def promoters(labels, logits):
    """Windows that begin at bases 0, 1, 2, ..."""
    places = np.full(len(labels), "chr1"), np.arange(len(labels))
    return Predictions(*places, labels[:, None], logits[:, None], bin_bp=1)


def test_promoter_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(4)
    labels = (rng.random(200) < 0.5).astype(np.uint8)
    logits = (rng.normal(size=200) + labels).astype(np.float32)
    windows = promoters(labels, logits)
    flat = {"flat": windows.logits * 0}
    found = evaluate_promoters(windows, Resampling(group_bp=20), baselines=flat)
    points = {name: value["point"] for name, value in found["figures"].items()}
    probabilities = 1 / (1 + np.exp(-logits.astype(float)))
    assert points == pytest.approx(
        {
            "auroc": roc_auc_score(labels, logits),
            "auprc": average_precision_score(labels, logits),
            "f1": f1_score(labels, probabilities >= 0.5),
            "brier": brier_score_loss(labels, probabilities),
        }
    )
    assert found["groups"] == 10
    flat = found["baselines"]["flat"]
    assert flat["figures"]["auroc"]["point"] == 0.5
    assert flat["figures"]["brier"]["point"] == 0.25
    assert flat["difference"]["auroc"]["low"] > 0


def test_where_there_are_no_promoters_f1_is_zero_and_no_ranking_exists():
    logits = np.array([-1.0, 2.0], np.float32)
    found = evaluate_promoters(promoters(np.zeros(2, np.uint8), logits), Resampling(1, 3))
    points = {name: value["point"] for name, value in found["figures"].items()}
    assert (points["f1"], points["auroc"], points["auprc"]) == (0, None, None)
