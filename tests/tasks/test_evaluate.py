import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset, Predictions, read_promoters
from genobird.errors import InputError, ShardError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.shards import Shards
from genobird.tasks.data import PretrainDataSettings
from genobird.tasks.evaluate import (
    EvaluateSettings,
    bits_per_base,
    evaluate,
    evaluate_chromatin,
    evaluate_promoters,
    predict_chromatin,
    predict_promoters,
)
from genobird.tasks.masked import predict_masked
from genobird.tasks.metrics import auprc, auroc, calibration_error, per_feature, reliability
from genobird.tasks.predict import windows_over
from tests.models import tiny_checkpoint
from tests.tasks.conftest import FEATURES

LN8 = math.log(8)


@pytest.fixture
def model(tiny_tokenizer, chromatin):
    """A tiny model whose chromatin head has the features of the dataset."""
    made = tiny_checkpoint(tiny_tokenizer)
    torch.manual_seed(1)
    made.chromatin = Head(HeadConfig(outputs=FEATURES), made.encoder.config.width)
    made.features = chromatin.features
    return made


@pytest.mark.parametrize(("context_bp", "window_bp"), [(400, 2000), (0, 200), (600, 1700)])
def test_windows_cover_each_usable_bin_once_with_its_context(chromatin, context_bp, window_bp):
    for split in ("train", "validation", "test"):
        seen = []
        for window in windows_over(chromatin, split, context_bp, window_bp):
            assert window.end - window.start <= window_bp
            length = chromatin.length(window.contig)
            assert window.start <= max(0, window.bins[0] * 200 - context_bp)
            assert window.end >= min(length, (window.bins[-1] + 1) * 200 + context_bp)
            assert window.start >= 0
            assert window.end <= length
            seen += [(window.contig, int(i)) for i in window.bins]
        wanted = [
            (i.contig, int(b)) for i in chromatin.intervals(split) for b in chromatin.usable_bins(i)
        ]
        assert seen == wanted


def test_a_window_without_room_for_a_bin_is_refused(chromatin):
    with pytest.raises(UsageError, match="window_bp 1000 has no bin with 500 bp of context"):
        next(windows_over(chromatin, "test", 500, 1000))


def test_predictions_hold_every_usable_bin_with_its_labels(model, chromatin, chromatin_labels):
    found = predict_chromatin(model, chromatin, "test", context_bp=400, window_bp=3000)
    usable = [b for b in range(60, 150) if b % 7]
    assert found.bins.tolist() == usable
    assert set(found.contigs) == {"chr2"}
    np.testing.assert_array_equal(found.labels, chromatin_labels["chr2"][usable])
    assert found.logits.shape == (len(usable), FEATURES)
    assert found.logits.dtype == np.float32


def test_logits_are_the_same_from_either_strand_of_the_genome(
    model, chromatin, chromatin_path, tmp_path
):
    other = tmp_path / "other_strand"
    shutil.copytree(chromatin_path, other)
    text = chromatin.sequence("chr2", 0, 30_000)
    turned = np.frombuffer(reverse_complement(text).encode(), np.uint8)
    np.save(other / "chr2.sequence.npy", turned)
    for what in ("labels", "usable"):
        np.save(other / f"chr2.{what}.npy", np.load(other / f"chr2.{what}.npy")[::-1])
    index = json.loads((other / "index.json").read_text())
    index["splits"]["test"] = [["chr2", 0, 18_000]]
    (other / "index.json").write_text(json.dumps(index))
    shape = {"context_bp": 400, "window_bp": 2800}  # nine windows of ten bins from either end
    forward = predict_chromatin(model, chromatin, "test", **shape)
    backward = predict_chromatin(model, ChromatinDataset(other), "test", **shape)
    np.testing.assert_array_equal(149 - forward.bins[::-1], backward.bins)
    np.testing.assert_array_equal(forward.labels[::-1], backward.labels)
    np.testing.assert_allclose(forward.logits[::-1], backward.logits, atol=1e-4)
    one = predict_chromatin(model, chromatin, "test", both_strands=False, **shape)
    assert not np.allclose(one.logits, forward.logits, atol=1e-2)


def test_context_may_leave_the_split_but_never_its_labels(model, chromatin):
    before = predict_chromatin(model, chromatin, "test", context_bp=400, window_bp=3000)
    window = next(windows_over(chromatin, "test", 400, 3000))
    assert window.start < 12_000
    assert before.bins.min() * 200 >= 12_000


def test_another_list_of_features_is_refused(tiny_tokenizer, chromatin):
    with pytest.raises(InputError, match="the model's 3 features are not the 11"):
        predict_chromatin(tiny_checkpoint(tiny_tokenizer), chromatin, "test")


def test_a_model_without_the_head_is_refused(model, chromatin, promoter_path, tiny_shards):
    model.chromatin = model.promoter = model.mlm = None
    with pytest.raises(UsageError, match="no chromatin head; add one with `genobird finetune"):
        predict_chromatin(model, chromatin, "test")
    with pytest.raises(UsageError, match="no promoter head"):
        predict_promoters(model, read_promoters(promoter_path, "train"))
    with pytest.raises(UsageError, match="no masked-language-model head"):
        predict_masked(model, tiny_shards, PretrainDataSettings(max_tokens=64), 1)


def test_promoter_logits_do_not_depend_on_the_batch(model, promoter_path):
    table = read_promoters(promoter_path, "validation")
    together = predict_promoters(model, table)
    assert together.shape == (4,)
    np.testing.assert_allclose(predict_promoters(model, table, sequences=1), together, atol=1e-5)


# -- masked tokens


def test_bits_are_summed_over_all_masked_tokens(model, tiny_shards):
    settings = PretrainDataSettings(max_tokens=64, sequences=3)
    found = predict_masked(model, tiny_shards, settings, 4, group_bp=10_000)
    result = bits_per_base(model, tiny_shards, settings, 4, group_bp=10_000, resamples=10)
    assert found.bits.shape == (12, 2)
    assert result["bits_per_base"]["point"] == pytest.approx(
        found.bits[:, 0].sum() / found.bases[:, 0].sum()
    )
    assert result["tokens"] == found.pieces.sum()
    assert result["bases"] == found.pieces @ found.lengths
    assert result["tokens_no_n"] <= result["tokens"]
    assert result["bits_per_base"]["low"] <= result["bits_per_base"]["point"]
    # A sequence asks for the same share of its tokens whatever else is in the batch.
    assert (found.tokens[:, 0] > 0).all()


def test_tokens_with_n_are_left_out_of_the_second_figure(model, tiny_shards):
    settings = PretrainDataSettings(max_tokens=64, sequences=4, mask_rate=0.5)
    found = predict_masked(model, tiny_shards, settings, 10_000)
    has_n = (model.tokenizer.bases == 4).any(axis=1)
    assert found.tokens[:, 0].sum() - found.tokens[:, 1].sum() == found.pieces[has_n].sum()
    assert len(found.groups) == len(found.bits)


def test_frequencies_are_the_entropy_of_the_masked_pieces(model, tiny_shards):
    settings = PretrainDataSettings(max_tokens=64)
    found = predict_masked(model, tiny_shards, settings, 5)
    share = found.pieces[found.pieces > 0] / found.pieces.sum()
    wanted = -(share * np.log2(share)).sum() * found.pieces.sum() / found.bases[:, 0].sum()
    assert found.frequency_bits_per_base() == pytest.approx(wanted)


def test_shards_of_another_tokenizer_are_refused(model, tiny_shards):
    index = tiny_shards.index.model_copy(update={"tokenizer_sha256": "other"})
    other = Shards(tiny_shards.path, index)
    with pytest.raises(ShardError, match="made with another tokenizer"):
        predict_masked(model, other, PretrainDataSettings(max_tokens=64), 1)


# -- figures


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
    found = evaluate_chromatin(predictions, FEATURES_TABLE, resamples=5)
    table = per_feature(predictions.labels, predictions.logits)
    classes = found["all_bins"]["classes"]
    assert classes["TF"]["auroc"]["point"] == pytest.approx(table["auroc"][:2].median())
    assert classes["all"]["auprc"]["point"] == pytest.approx(table["auprc"][:4].median())
    assert classes["histone"]["features"] == 1
    assert found["groups"] == 4  # 800 kb in stretches of 250 kb
    pd.testing.assert_series_equal(
        found["per_feature"]["all_bins_auroc"], table["auroc"], check_names=False
    )


def test_tf_bins_are_those_where_a_tf_binds(predictions):
    found = evaluate_chromatin(predictions, FEATURES_TABLE, resamples=5)
    rows = predictions.labels[:, :2].any(axis=1)
    assert found["tf_bins"]["windows"] == rows.sum()
    assert found["tf_bins"]["classes"]["DNase"]["auroc"]["point"] == pytest.approx(
        auroc(predictions.labels[rows, 2], predictions.logits[rows, 2])
    )


def test_calibration_is_that_of_probabilities_without_the_positive_weight(predictions):
    found = evaluate_chromatin(predictions, FEATURES_TABLE, resamples=20)["calibration"]
    probabilities = 1 / (1 + np.exp(-(predictions.logits.astype(float) - LN8)))
    table = reliability(predictions.labels.ravel(), probabilities.ravel())
    assert found["error"]["point"] == pytest.approx(calibration_error(table))
    assert found["error"]["low"] <= found["error"]["high"]
    filled = table[table["windows"] > 0]
    assert [row["count"] for row in found["table"]] == filled["windows"].tolist()
    assert [row["predicted"] for row in found["table"]] == pytest.approx(
        filled["predicted"].tolist()
    )


def test_a_better_model_has_a_difference_above_zero_and_itself_none(predictions):
    rng = np.random.default_rng(3)
    noise = rng.normal(size=predictions.logits.shape).astype(np.float32)
    found = evaluate_chromatin(
        predictions, FEATURES_TABLE, resamples=30,
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
    found = evaluate_chromatin(predictions, none, resamples=2)
    assert "tf_bins" not in found


def test_promoter_figures_are_those_of_scikit_learn():
    from sklearn.metrics import brier_score_loss, f1_score

    rng = np.random.default_rng(4)
    labels = (rng.random(200) < 0.5).astype(np.uint8)
    logits = (rng.normal(size=200) + labels).astype(np.float32)
    groups = np.array([f"chr1:{i // 20}" for i in range(200)])
    found = evaluate_promoters(labels, logits, groups, baselines={"flat": logits[:, None] * 0})
    points = {name: value["point"] for name, value in found["figures"].items()}
    probabilities = 1 / (1 + np.exp(-logits.astype(float)))
    assert points == pytest.approx(
        {
            "auroc": auroc(labels, logits),
            "auprc": auprc(labels, logits),
            "f1": f1_score(labels, probabilities >= 0.5),
            "brier": brier_score_loss(labels, probabilities),
        }
    )
    assert found["groups"] == 10
    flat = found["baselines"]["flat"]
    assert flat["figures"]["auroc"]["point"] == 0.5
    assert flat["figures"]["brier"]["point"] == 0.25
    assert flat["difference"]["auroc"]["low"] > 0


# -- the whole


SETTINGS = EvaluateSettings(
    context_bp=400, window_bp=3000, group_bp=3_000, resamples=5, masked_batches=2,
    masked=PretrainDataSettings(max_tokens=64, sequences=2), device="cpu",
)  # fmt: skip


@pytest.fixture
def model_path(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def baselines_path(chromatin, chromatin_labels, promoter_path, tmp_path):
    """Predictions of a model that knows nothing."""
    path = tmp_path / "baselines"
    path.mkdir()
    bins = chromatin.usable_bins(chromatin.intervals("validation")[0])
    labels = chromatin_labels["chr1"][bins]
    Predictions(np.full(len(bins), "chr1"), bins, labels, np.zeros(labels.shape, np.float32)).save(
        path / "flat.chromatin.npz"
    )
    table = read_promoters(promoter_path, "validation")
    Predictions.of_promoters(table, np.zeros(4, np.float32)).save(path / "flat.promoters.npz")
    return path


def test_an_evaluation_is_written_with_what_it_was_made_from(
    model_path, baselines_path, chromatin_path, promoter_path, tiny_shards, tmp_path
):
    output = tmp_path / "evaluation"
    result = evaluate(
        model_path, output, chromatin=chromatin_path, promoters=promoter_path,
        shards=tiny_shards.path, split="validation", baselines=[baselines_path], settings=SETTINGS,
        provenance={"command": "genobird evaluate"},
    )  # fmt: skip
    written = json.loads((output / "evaluation.json").read_text())
    assert written == result
    digest = Checkpoint.load(model_path).provenance["sha256"]["model.safetensors"]
    assert written["model_sha256"] == digest
    assert written["command"] == "genobird evaluate"
    assert written["settings"]["group_bp"] == 3000
    assert len(written["data"]["chromatin"]["sha256"]) == 64
    assert written["chromatin"]["baselines"]["flat"]["all_bins"]["classes"]["TF"]["auroc"] == {
        "low": 0.5, "point": 0.5, "high": 0.5,
    }  # fmt: skip
    assert written["promoters"]["windows"] == 4
    assert written["masked"]["sequences"] == 4
    table = pd.read_csv(output / "per_feature.tsv", sep="\t")
    assert len(table) == FEATURES
    assert sorted(p.name for p in output.iterdir()) == ["evaluation.json", "per_feature.tsv"]
    with pytest.raises(UsageError, match="exists; choose another place or pass --force"):
        evaluate(model_path, output, promoters=promoter_path)


def test_models_are_compared_by_their_named_predictions(
    tiny_tokenizer, chromatin, promoter_path, tiny_shards, tmp_path
):
    paths = {"shards": tiny_shards.path, "promoters": promoter_path, "split": "validation"}
    for number, name in enumerate(("first", "second")):
        tiny_checkpoint(tiny_tokenizer, seed=number).save(tmp_path / f"model-{name}")
    evaluate(tmp_path / "model-first", tmp_path / "a", **paths, name="first", settings=SETTINGS)
    alone = evaluate(tmp_path / "model-second", tmp_path / "b", **paths, settings=SETTINGS)
    found = evaluate(
        tmp_path / "model-second", tmp_path / "c", **paths, settings=SETTINGS,
        baselines=[tmp_path / "a"], name="second",
    )  # fmt: skip
    files = ["evaluation.json", "first.masked.npz", "first.promoters.npz"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == files
    first = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert found["data"]["compared"]["first"]["model_sha256"] == first["model_sha256"]
    assert found["data"]["compared"]["first"]["encoder"]["layers"] == 2
    for figure in ("bits_per_base", "accuracy"):
        mine, other = found["masked"], found["masked"]["baselines"]["first"]
        assert mine[figure] == alone["masked"][figure]
        assert other[figure] == first["masked"][figure]
        assert other["difference"][figure]["point"] == pytest.approx(
            mine[figure]["point"] - other[figure]["point"]
        )
    theirs = found["promoters"]["baselines"]["first"]["figures"]
    assert theirs == first["promoters"]["figures"]
    again = {"settings": SETTINGS.model_copy(update={"seed": 1}), "baselines": [tmp_path / "a"]}
    with pytest.raises(InputError, match=r"first.masked.npz answers for other tokens"):
        evaluate(tmp_path / "model-second", tmp_path / "d", shards=tiny_shards.path, **again)
    with pytest.raises(UsageError, match="have one name; leave one of them out"):
        evaluate(
            tmp_path / "model-second", tmp_path / "d", shards=tiny_shards.path,
            baselines=[tmp_path / "a", tmp_path / "a"], settings=SETTINGS,
        )  # fmt: skip


def test_an_evaluation_without_data_is_refused(model_path, tmp_path):
    with pytest.raises(UsageError, match="nothing to measure"):
        evaluate(model_path, tmp_path / "out")


def test_baselines_of_other_windows_are_refused(
    model_path, baselines_path, chromatin_path, promoter_path, tmp_path
):
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match="holds 34 windows that are not, with their labels, the 77"
    ):
        evaluate(
            model_path, out, chromatin=chromatin_path, baselines=[baselines_path], settings=SETTINGS
        )
    (baselines_path / "flat.promoters.npz").unlink()
    with pytest.raises(UsageError, match="train the baselines first"):
        evaluate(
            model_path, out, promoters=promoter_path, split="train", baselines=[baselines_path]
        )
    (baselines_path / "flat.promoters.npz").write_text("text")
    with pytest.raises(InputError, match="holds no predictions; predict again"):
        evaluate(
            model_path, out, promoters=promoter_path, split="train", baselines=[baselines_path]
        )
    assert not out.exists()
