import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from genobird.datasets import Predictions
from genobird.errors import InputError, UsageError
from genobird.report.card import model_card, write_card
from genobird.tasks.evaluate import EvaluateSettings, evaluate_chromatin, evaluate_promoters
from genobird.tasks.metrics import Resampling

PROVENANCE = {
    "sha256": {"model.safetensors": "ab" * 32},
    "pretraining": {
        "command": "genobird pretrain --output run",
        "config": {
            "fit": {
                "steps": 12000, "learning_rate": 0.001, "schedule": "cosine", "precision": "bf16",
                "seed": 0,
            }
        },
        "tokens_seen": 5_000_000,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluation():
    """A model that beats `composition` and loses to `convolution`."""
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 3)) < 0.1).astype(np.uint8)
    noise = rng.normal(size=labels.shape)
    logits = {
        name: (noise + skill * labels).astype(np.float32)
        for name, skill in (("model", 1.0), ("composition", 0.0), ("convolution", 3.0))
    }
    predictions = Predictions(np.full(4000, "chr20"), np.arange(4000), labels, logits.pop("model"))
    features = pd.DataFrame(
        {"index": range(3), "name": list("abc"), "class": ["TF", "TF", "DNase"]}
    )
    chromatin = evaluate_chromatin(predictions, features, Resampling(100_000, 30), baselines=logits)
    del chromatin["per_feature"]
    windows = replace(predictions, labels=labels[:, :1], logits=predictions.logits[:, :1])
    promoters = evaluate_promoters(
        windows,
        Resampling(100_000, 30),
        baselines={name: values[:, :1] for name, values in logits.items()},
    )
    figure = {"low": 1.90, "point": 1.92, "high": 1.94}
    return {
        "genobird": "0.1.0",
        "model_sha256": "ab" * 32,
        "split": "test",
        "settings": EvaluateSettings(resamples=30).model_dump(mode="json"),
        "data": {
            "chromatin": {
                "features": 3,
                "left_out": ["K562|EZH2|None"],
                "splits": {"train": [["chrX", 0, 69_999_930]], "test": [["chr20", 0, 800_000]]},
                "bins": {"train": 300_000, "test": 4000},
            },
            "baselines": {
                "chromatin": {
                    "composition": {"parameters": 27},
                    "convolution": {"parameters": 934_418, "steps": 4000, "epochs": 3.62},
                }
            },
        },
        "chromatin": chromatin,
        "promoters": promoters,
        "masked": {
            "bits_per_base": figure, "bits_per_base_no_n": figure, "accuracy": figure,
            "frequencies": 1.95, "tokens": 1000, "bases": 6000, "sequences": 10, "groups": 8,
        },
    }  # fmt: skip


def test_a_card_says_what_the_model_was_made_from(evaluation):
    card = model_card(PROVENANCE, evaluation)
    assert "labels come from chrX and chr20, and the chromatin head holds 3 tracks." in card
    assert "K562|EZH2|None" in card
    assert "| test | chr20:1-800,000 | 4,000 |" in card
    assert "| pretraining | 12,000 | 0.001 cosine | bf16 | 0 | 5,000,000 tokens |" in card
    assert "genobird pretrain --output run" in card
    assert "| chromatin | small convolutional network | 934,418 | 4,000 (3.62 epochs) |" in card
    assert "`abababababab`" in card


def test_verdicts_follow_from_the_intervals(evaluation):
    card = model_card(PROVENANCE, evaluation)
    assert "**The transformer loses to the small convolutional network** in median AUROC of" in card
    assert "The transformer beats the GC/CpG logistic regression in median AUROC of TF (+0." in card
    assert "loses to the GC/CpG" not in card
    assert "beats the small convolutional network" not in card
    assert "Context helps" in card


def test_a_lower_brier_score_is_better(evaluation):
    promoters = model_card(PROVENANCE, evaluation).split("## Promoters")[1]
    promoters = promoters.split("### Calibration")[0]
    better = promoters.split("beats the GC/CpG logistic regression in ")[1].split("\n")[0]
    assert "AUROC (+" in better
    brier = evaluation["promoters"]["baselines"]["composition"]["difference"]["brier"]
    if brier["high"] < 0:
        assert "Brier score (-" in better
    else:
        assert "Brier score" not in better.split("No difference")[0]


def test_a_scan_has_a_section_of_its_own(evaluation):
    assert "among all windows" not in model_card({}, evaluation)
    card = model_card({}, {**evaluation, "scan": evaluation["promoters"]})
    section = card.split("## Promoters among all windows")[1].split("\n## ")[0]
    found = evaluation["promoters"]
    negatives = found["windows"] - found["positives"]
    assert f"The same {found['positives']} promoters among {negatives:,} windows" in section
    assert "one every 2,000 bp of the test part" in section
    assert "### Calibration of promoters among all windows" in section
    assert "as frequent as where it was calibrated; the scan shows what it is worth there." in card


def test_a_model_that_does_not_use_context_is_called_so(evaluation):
    masked = {**evaluation["masked"], "frequencies": 1.91}
    assert "**No use of context is shown" in model_card({}, {**evaluation, "masked": masked})


def test_a_head_that_counts_says_so(evaluation):
    said = "how often pieces stand beside each of the 2 before and after a token"
    assert said in model_card({}, {**evaluation, "encoder": {"neighbours": 2}})
    assert "the head adds counts" not in model_card({}, evaluation)


def test_other_models_of_the_same_tokens_stand_beside_it(evaluation):
    mine = evaluation["masked"]["bits_per_base"]
    other = {
        "bits_per_base": {key: value - 0.1 for key, value in mine.items()},
        "difference": {"bits_per_base": {"low": 0.05, "point": 0.1, "high": 0.15}},
    }
    masked = {**evaluation["masked"], "baselines": {"ngram_tokens": other}}
    card = model_card({}, {**evaluation, "masked": masked})
    assert f"| n-gram model of tokens | {mine['point'] - 0.1:.3f} [" in card
    assert "**The transformer loses to the n-gram model of tokens** in bits per base (+0.1" in card


def test_every_figure_stands_beside_both_baselines(evaluation):
    card = model_card(PROVENANCE, evaluation)
    header = "| transformer | GC/CpG logistic regression | small convolutional network | chance |"
    assert card.count(header) == 2
    rows = [line for line in card.splitlines() if line.startswith(("| TF (2)", "| DNase", "| all"))]
    assert len(rows) == 12
    assert all(row.count("[") == 3 for row in rows)
    for line in card.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_table_head_has_its_data_and_figures(evaluation):
    figure = {"low": 0.1, "point": 0.2, "high": 0.3}
    values = {
        "regions": 14,
        "stretches": 3,
        "targets": {
            "height": {"known": 9, "pearson": figure, "spearman": figure},
            "a|b\n<c>": {"known": 8, "pearson": figure, "spearman": figure},
        },
    }
    trained = {"regions": {"train": 2_900, "test": 14}, "contigs": {"chr1": 30_000}}
    facts = {"table": values, "training": {"table": {"data": trained}}}
    alone = {
        key: value for key, value in evaluation.items() if key in ("settings", "split", "promoters")
    }
    card = model_card(PROVENANCE, alone | facts)
    assert r"| a\|b &lt;c> | 8 | 0.200" in card
    assert r"a transcription start and height and a\|b &lt;c> of the regions of a table" in card
    assert "Table: 2,900 regions to train and 14 regions to test, on chr1." in card
    assert "14 regions of the test part. In square brackets: 95 % bootstrap" in card
    assert "| height | 9 | 0.200 [0.100, 0.300] | 0.200 [0.100, 0.300] |" in card
    single = {"low": None, "point": 0.2, "high": None}
    classes = {"regions": 14, "stretches": 1, "classes": {"a": 10, "b": 4}}
    classes |= dict.fromkeys(("accuracy", "auroc", "log_loss"), single)
    card = model_card(PROVENANCE, alone | {"table": classes})
    assert "All lie in one stretch, so there are no intervals." in card
    assert "| 0.200 | 0.200 | 0.200 |" in card
    assert "Regions of each class: a 10 and b 4." in card


def test_parts_that_were_not_measured_are_left_out(evaluation):
    card = model_card({}, {k: v for k, v in evaluation.items() if k not in ("masked", "promoters")})
    assert "Masked" not in card
    assert "## Promoters" not in card
    assert "## Limits" in card


def test_a_card_is_written_for_the_model_that_was_measured(evaluation, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    figures = tmp_path / "evaluation.json"
    figures.write_text(json.dumps(evaluation))
    with pytest.raises(UsageError, match=r"there is no .*provenance.json"):
        write_card(model, figures)
    (model / "provenance.json").write_text(json.dumps(PROVENANCE))
    encoder = {
        "layers": 4, "width": 256, "heads": 4, "vocab_size": 4096, "pattern": "bigbird",
        "block_size": 64, "position": "rope", "stem": "tower",
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps({"encoder": encoder}))
    path = write_card(model, figures)
    assert path == model / "MODEL_CARD.md"
    assert "4 layers, width 256" in path.read_text()
    figures.write_text(json.dumps({**evaluation, "model_sha256": "cd" * 32}))
    with pytest.raises(InputError, match=r"measures model cdcdcdcdcdcd, .* is abababababab"):
        write_card(model, figures)
    scan = {**evaluation["promoters"], "windows": 0}
    for odd in ({"promoters": 5}, {"scan": scan}, {"genobird": "\ud800"}):
        figures.write_text(json.dumps({**evaluation, **odd}))
        with pytest.raises(
            InputError, match=r"evaluation\.json is not as genobird writes it; make"
        ):
            write_card(model, figures)
    figures.write_text("text")
    with pytest.raises(InputError, match="is no JSON"):
        write_card(model, figures)


def test_calibration_is_told(evaluation):
    said = {"chromatin": {"slope": 0.91234, "offset": -0.25, "split": "validation"}}
    card = model_card({**PROVENANCE, "calibration": said}, evaluation)
    assert "Calibrated on the validation part: chromatin logits x 0.912 -0.25." in card


def test_stages_that_went_on_with_one_another_stand_in_their_order(evaluation):
    def stage(steps, **facts):
        return {"config": {"fit": {"steps": steps}}, "bases_seen": steps * 1000, **facts}

    provenance = {**PROVENANCE, "chromatin": stage(20, earlier=stage(10))}
    card = model_card(provenance, evaluation)
    rows = [line for line in card.splitlines() if line.startswith("| chromatin ")]
    assert rows[0].startswith("| chromatin 1 | 10 |")
    assert rows[0].endswith("| 10,000 bases |")
    assert rows[1].startswith("| chromatin 2 | 20 |")


def test_labels_that_were_learnt_beside_are_told(evaluation):
    facts = {"bases_seen": 9_000, "data": {"auxiliary": {"features": 228}}}
    card = model_card({**PROVENANCE, "chromatin": facts}, evaluation)
    assert "| 9,000 bases, labels of 228 other tracks beside |" in card
