import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from genobird.batch import ROWS
from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset, Predictions, read_promoters
from genobird.errors import InputError, ShardError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.inference import Inference
from genobird.scoring.scorer import Scorer
from genobird.shards import Shards
from genobird.tasks import evaluate as module
from genobird.tasks.data import PretrainDataSettings
from genobird.tasks.evaluate import (
    EvaluateSettings,
    evaluate,
    predict_chromatin,
    predict_promoters,
    windows_over,
)
from genobird.tasks.figures import evaluate_masked
from genobird.tasks.masked import predict_masked
from genobird.tasks.metrics import Resampling
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
    found = predict_chromatin(Inference(model), chromatin, "test", context_bp=400, window_bp=3000)
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
    forward = predict_chromatin(Inference(model), chromatin, "test", **shape)
    backward = predict_chromatin(Inference(model), ChromatinDataset(other), "test", **shape)
    np.testing.assert_array_equal(149 - forward.bins[::-1], backward.bins)
    np.testing.assert_array_equal(forward.labels[::-1], backward.labels)
    np.testing.assert_allclose(forward.logits[::-1], backward.logits, atol=1e-4)
    one = predict_chromatin(Inference(model), chromatin, "test", both_strands=False, **shape)
    assert not np.allclose(one.logits, forward.logits, atol=1e-2)


def test_context_may_leave_the_split_but_never_its_labels(
    model, chromatin, chromatin_path, tmp_path
):
    other = tmp_path / "other_labels"
    shutil.copytree(chromatin_path, other)
    packed = np.load(other / "chr2.labels.npy")
    packed[:60] ^= 255  # all that lies before the split
    np.save(other / "chr2.labels.npy", packed)
    shape = {"context_bp": 400, "window_bp": 3000}
    assert next(windows_over(chromatin, "test", **shape)).start < 12_000
    before = predict_chromatin(Inference(model), chromatin, "test", **shape)
    after = predict_chromatin(Inference(model), ChromatinDataset(other), "test", **shape)
    np.testing.assert_array_equal(before.labels, after.labels)
    np.testing.assert_array_equal(before.logits, after.logits)


def test_another_list_of_features_is_refused(tiny_tokenizer, chromatin):
    with pytest.raises(InputError, match="the model's 3 features are not the 11"):
        predict_chromatin(Inference(tiny_checkpoint(tiny_tokenizer)), chromatin, "test")


def test_a_model_without_the_head_is_refused(model, chromatin, promoter_path, tiny_shards):
    model.chromatin = model.promoter = model.mlm = None
    with pytest.raises(UsageError, match="no chromatin head; add one with `genobird finetune"):
        predict_chromatin(Inference(model), chromatin, "test")
    with pytest.raises(UsageError, match="no promoter head"):
        predict_promoters(Inference(model), read_promoters(promoter_path, "train"))
    with pytest.raises(UsageError, match="no masked-language-model head"):
        predict_masked(Inference(model), tiny_shards, PretrainDataSettings(max_tokens=64), 1)


def test_promoter_logits_do_not_depend_on_the_batch(model, promoter_path):
    table = read_promoters(promoter_path, "validation")
    together = predict_promoters(Inference(model), table)
    assert together.shape == (4, 2)
    alone = [predict_promoters(Inference(model), table[row : row + 1])[0] for row in range(4)]
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_what_is_measured_is_what_a_scorer_predicts(model, chromatin, promoter_path):
    """Evaluation did not fill up the rows of matrix products, and had its own passes."""
    scorer = Scorer(model, device="cpu")
    shape = {"context_bp": 400, "window_bp": 3000}
    found = predict_chromatin(Inference(model), chromatin, "test", **shape)
    windows = list(windows_over(chromatin, "test", **shape))
    texts = [chromatin.sequence(window.contig, window.start, window.end) for window in windows]
    centres = [window.bins * 200 + 100 - window.start for window in windows]
    np.testing.assert_array_equal(found.logits, scorer.profiles(texts, centres)[0])
    assert len(found.bins) % ROWS
    table = read_promoters(promoter_path, "validation")
    logits = scorer.promoter_logits(table["sequence"].tolist(), [5_000] * len(table))
    np.testing.assert_array_equal(predict_promoters(Inference(model), table)[:, 0], logits)


# -- masked tokens


def test_bits_are_summed_over_all_masked_tokens(model, tiny_shards):
    settings = PretrainDataSettings(max_tokens=64, sequences=3)
    found = predict_masked(Inference(model), tiny_shards, settings, 4, group_bp=10_000)
    result = evaluate_masked(found, Resampling(resamples=10))
    assert found.bits.shape == (12, 2)
    assert result["bits_per_base"]["point"] == pytest.approx(
        found.bits[:, 0].sum() / found.bases[:, 0].sum()
    )
    assert result["tokens"] == found.pieces.sum()
    assert result["bases"] == found.pieces @ found.lengths
    assert result["tokens_no_n"] <= result["tokens"]
    assert (found.tokens[:, 0] > 0).all()


def test_tokens_with_n_are_left_out_of_the_second_figure(model, tiny_shards):
    settings = PretrainDataSettings(max_tokens=64, sequences=4, mask_rate=0.5)
    found = predict_masked(Inference(model), tiny_shards, settings, 10_000)
    has_n = (model.tokenizer.bases == 4).any(axis=1)
    assert found.tokens[:, 0].sum() - found.tokens[:, 1].sum() == found.pieces[has_n].sum()
    assert len(found.groups) == len(found.bits)


def test_frequencies_are_the_entropy_of_the_masked_pieces(model, tiny_shards):
    settings = PretrainDataSettings(max_tokens=64)
    found = predict_masked(Inference(model), tiny_shards, settings, 5)
    share = found.pieces[found.pieces > 0] / found.pieces.sum()
    wanted = -(share * np.log2(share)).sum() * found.pieces.sum() / found.bases[:, 0].sum()
    assert found.frequency_bits_per_base() == pytest.approx(wanted)


def test_shards_of_another_tokenizer_are_refused(model, tiny_shards):
    index = tiny_shards.index.model_copy(update={"tokenizer_sha256": "other"})
    other = Shards(tiny_shards.path, index)
    with pytest.raises(ShardError, match="made with another tokenizer"):
        predict_masked(Inference(model), other, PretrainDataSettings(max_tokens=64), 1)


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
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        evaluate(model_path, output, promoters=promoter_path)


@pytest.mark.parametrize("name", ["per_feature.tsv", "mine.chromatin.npz"])
def test_no_file_of_an_evaluation_is_replaced_unless_forced(
    model_path, chromatin_path, tmp_path, name
):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(UsageError, match=f"{name} exists; choose another name or pass --force"):
        evaluate(model_path, tmp_path, chromatin=chromatin_path, name="mine")
    assert (tmp_path / name).read_text() == "theirs"


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


@pytest.mark.parametrize("name", ["", "a/b", ".hidden"])
def test_a_name_that_is_none_for_files_is_refused_at_once(
    model_path, promoter_path, tmp_path, name
):
    with pytest.raises(UsageError, match="begins file names"):
        evaluate(model_path, tmp_path / "out", promoters=promoter_path, name=name)


def test_a_name_may_have_dots(model_path, promoter_path, tmp_path):
    asked = {"promoters": promoter_path, "split": "validation", "settings": SETTINGS}
    evaluate(model_path, tmp_path / "a", name="v1.2", **asked)
    found = evaluate(model_path, tmp_path / "b", baselines=[tmp_path / "a"], **asked)
    assert set(found["promoters"]["baselines"]) == set(found["data"]["compared"]) == {"v1.2"}


@pytest.mark.parametrize("kind", ["promoters", "scan", "chromatin", "shards"])
def test_folders_without_baselines_are_refused_before_a_model_is_asked(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty has no predictions"):
        evaluate(
            tmp_path / "no model", tmp_path / "out", baselines=[tmp_path / "empty"],
            **{kind: tmp_path / "no data"},
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
    with pytest.raises(UsageError, match=r"missing has no predictions <name>.<kind>.npz"):
        evaluate(model_path, out, promoters=promoter_path, baselines=[tmp_path / "missing"])
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


@pytest.mark.parametrize("name", ["baselines.json", "evaluation.json"])
@pytest.mark.parametrize("text", ["", "[1]", '{"chromatin": ', "[" * 100_000])
def test_damaged_facts_of_models_to_compare_with_are_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} (is no JSON|holds a list)"):
        module._known([tmp_path])


def test_facts_of_baselines_are_mappings(tmp_path):
    (tmp_path / "baselines.json").write_text('{"chromatin": 5}')
    with pytest.raises(InputError, match=r"baselines\.json is damaged; train the baselines again"):
        module._known([tmp_path])
