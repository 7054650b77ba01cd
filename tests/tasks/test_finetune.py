import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from genobird.checkpoint import WEIGHTS, Checkpoint
from genobird.datasets import ChromatinDataset, read_promoters
from genobird.errors import UsageError
from genobird.heads import POSITIVE_WEIGHT, HeadConfig
from genobird.pair_log_odds import PairLogOdds
from genobird.tasks import finetune
from genobird.tasks.data import (
    ChromatinBatches,
    ChromatinDataSettings,
    PromoterBatches,
    PromoterDataSettings,
)
from genobird.tasks.finetune import (
    ChromatinConfig,
    Finetuning,
    PromoterConfig,
    finetune_chromatin,
    finetune_promoter,
)
from genobird.tasks.fit import FitSettings, fit
from genobird.tasks.run_folder import Run
from tests.models import random_ids, tiny_checkpoint
from tests.tasks.runs import FIT

WINDOWS = {"window_bp": 2000, "margin_bp": 400, "sequences": 2}


@pytest.fixture
def chromatin_config(model, chromatin_path):
    def config(**changes):
        values = {
            "checkpoint": model, "data_path": chromatin_path, "head": {"hidden": 8},
            "data": WINDOWS, "fit": FIT, "validation_batches": 2,
        }  # fmt: skip
        return ChromatinConfig.model_validate({**values, **changes})

    return config


@pytest.fixture
def promoter_config(model, promoter_path):
    def config(**changes):
        values = {
            "checkpoint": model, "data_path": promoter_path, "data": {"sequences": 2},
            "head": {"before_bp": 300, "after_bp": 200}, "fit": {**FIT, "steps": 2},
        }  # fmt: skip
        return PromoterConfig.model_validate({**values, **changes})

    return config


@pytest.fixture
def chromatin_batches(chromatin, tiny_tokenizer):
    return ChromatinBatches(
        chromatin, "train", ChromatinDataSettings(**WINDOWS), tokenizer=tiny_tokenizer,
        head=HeadConfig(), block_size=16,
    )  # fmt: skip


def state(checkpoint, part):
    return {k: v.clone() for k, v in checkpoint.modules()[part].state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_chromatin_loss_weighs_positives_by_eight(chromatin_batches, tiny_tokenizer):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    checkpoint.chromatin = type(checkpoint.chromatin)(HeadConfig(outputs=11), 32)
    task = Finetuning(checkpoint, FitSettings(), "chromatin", positive_weight=8.0).eval()
    batch = chromatin_batches(0)
    metrics = task.model_step(batch)
    places = batch.places
    with torch.no_grad():
        logits = checkpoint.chromatin(checkpoint.encoder(places.batch), places)
    p = logits.double().sigmoid().numpy()
    y = batch.labels.numpy()
    expected = -(8 * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert float(metrics["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert int(metrics["weight"]) == len(y)
    assert POSITIVE_WEIGHT == 8.0


@pytest.mark.parametrize("encoder", [{}, {"lora_rank": 2}], ids=["weights", "adapters"])
def test_four_chromatin_steps_are_two_a_crash_and_two_more(
    chromatin_config, tmp_path, monkeypatch, encoder
):
    config = chromatin_config(encoder=encoder)
    finetune_chromatin(config, Run(tmp_path / "whole", progress=False))
    make = ChromatinBatches.__call__

    def crash(self, step):
        if self.augment and step == 2:
            raise RuntimeError("power cut")
        return make(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(ChromatinBatches, "__call__", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            finetune_chromatin(config, Run(tmp_path / "parts", progress=False))
    with pytest.raises(UsageError, match=r"has done \(step 2 of 4\); pass --resume to"):
        finetune_chromatin(config, Run(tmp_path / "parts", progress=False))
    finetune_chromatin(config, Run(tmp_path / "parts", resume=True, progress=False))
    whole, parts = (tmp_path / run / "model" / WEIGHTS for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_chromatin_run_keeps_the_other_head_and_says_what_it_was_made_from(
    chromatin_config, model, tmp_path, chromatin
):
    finetune_chromatin(
        chromatin_config(), Run(tmp_path / "run", progress=False, provenance={"command": "x"})
    )
    before, after = Checkpoint.load(model), Checkpoint.load(tmp_path / "run" / "model")
    assert set(after.modules()) == {"encoder", "mlm", "promoter", "chromatin"}
    assert same(state(before, "promoter"), state(after, "promoter"))
    assert same(state(before, "mlm"), state(after, "mlm"))
    assert not same(state(before, "encoder"), state(after, "encoder"))
    assert after.chromatin.config == HeadConfig(outputs=11, hidden=8)
    assert after.features["name"].tolist() == chromatin.features["name"].tolist()
    assert after.provenance["pretraining"] == {"tokens_seen": 7}
    assert after.provenance["chromatin"]["data"]["split"] == "tiny"
    assert after.provenance["chromatin"]["command"] == "x"
    assert after.provenance["chromatin"]["config"]["fit"]["steps"] == 4
    assert after.hash != before.hash
    assert str(tmp_path) not in json.dumps(after.provenance)
    with (tmp_path / "run" / "logs" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["validation/loss"]]
    assert [row["step"] for row in rows] == ["1", "3"]


def test_a_promoter_run_keeps_the_other_head(promoter_config, model, tmp_path):
    finetune_promoter(promoter_config(), Run(tmp_path / "run", progress=False))
    before, after = Checkpoint.load(model), Checkpoint.load(tmp_path / "run" / "model")
    assert same(state(before, "chromatin"), state(after, "chromatin"))
    assert not same(state(before, "encoder"), state(after, "encoder"))
    assert after.promoter.config == HeadConfig(outputs=1, before_bp=300, after_bp=200)
    assert after.provenance["promoter"]["data"] == {"windows": 10, "positives": 5}
    assert len(after.features) == 3


def test_a_frozen_encoder_stays_as_it_was_and_drops_nothing(promoter_config, model, tmp_path):
    config = promoter_config(freeze_encoder=True)
    finetune_promoter(config, Run(tmp_path / "run", progress=False))
    before, after = Checkpoint.load(model), Checkpoint.load(tmp_path / "run" / "model")
    assert same(state(before, "encoder"), state(after, "encoder"))
    assert not same(state(before, "promoter"), state(after, "promoter"))


def test_only_the_head_and_an_encoder_that_is_not_frozen_are_trained(
    tiny_tokenizer, chromatin_batches
):
    for freeze in (True, False):
        checkpoint = tiny_checkpoint(tiny_tokenizer, dropout=0.1)
        checkpoint.chromatin = type(checkpoint.chromatin)(HeadConfig(outputs=11), 32)
        task = Finetuning(checkpoint, FitSettings(), "chromatin", freeze_encoder=freeze).train()
        task.model_step(chromatin_batches(0))["loss"].backward()
        assert checkpoint.encoder.training is not freeze
        trained = {"chromatin"} if freeze else {"chromatin", "encoder"}
        for name, part in checkpoint.modules().items():
            assert all((p.grad is not None) == (name in trained) for p in part.parameters()), name


def test_one_batch_of_bins_can_be_learnt_by_heart(tiny_tokenizer, chromatin_batches, tmp_path):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    checkpoint.chromatin = type(checkpoint.chromatin)(HeadConfig(outputs=11, dropout=0), 32)
    settings = FitSettings(
        **{**FIT, "steps": 80, "learning_rate": 1e-2, "save_every": 1000, "log_every": 1000}
    )
    fixed = chromatin_batches(0)
    task = Finetuning(checkpoint, settings, "chromatin")
    with torch.no_grad():
        before = float(task.eval().model_step(fixed)["loss"])
    fit(task, lambda step: fixed, Run(tmp_path / "run", progress=False))
    with torch.no_grad():
        after = float(task.model_step(fixed)["loss"])
    assert after < 0.3 * min(before, np.log(2))


def test_one_batch_of_promoters_can_be_learnt_by_heart(
    tiny_tokenizer, promoter_path, tmp_path, monkeypatch
):
    # Without a tower, whose batch norms have not settled after so few steps: six seeds ended
    # between 0.02 and 0.73 with it, four between 0.004 and 0.008 without.
    checkpoint = tiny_checkpoint(tiny_tokenizer, stem="none")
    table = read_promoters(promoter_path, "train").head(4)
    table["sequence"] = table["sequence"].str[4600:5200]
    monkeypatch.setattr("genobird.tasks.data.UPSTREAM_BP", 400)
    batches = PromoterBatches(
        table, PromoterDataSettings(sequences=4), tokenizer=tiny_tokenizer,
        head=HeadConfig(before_bp=300, after_bp=200), block_size=16, augment=False,
    )  # fmt: skip
    settings = FitSettings(
        **FIT | {"steps": 40, "warmup_steps": 5, "learning_rate": 1e-2, "save_every": 1000}
    )
    task = Finetuning(checkpoint, settings, "promoter")
    fixed = batches(0)
    fit(task, lambda step: fixed, Run(tmp_path / "run", progress=False))
    with torch.no_grad():
        assert float(task.model_step(fixed)["loss"]) < 0.3 * np.log(2)


def test_the_seed_decides_the_head(promoter_config, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))
        config = promoter_config(fit={**FIT, "steps": 1, "seed": seed})
        finetune_promoter(config, Run(tmp_path / name, progress=False))
        weights.append((tmp_path / name / "model" / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_without_a_model_to_start_from_nothing_is_written(chromatin_config, tmp_path):
    with pytest.raises(UsageError, match="there is no model directory"):
        finetune_chromatin(chromatin_config(checkpoint=tmp_path / "none"), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_place_of_twice_the_weight_counts_twice(chromatin_batches, tiny_tokenizer):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    checkpoint.chromatin = type(checkpoint.chromatin)(HeadConfig(outputs=11), 32)
    task = Finetuning(checkpoint, FitSettings(), "chromatin").eval()
    batch = chromatin_batches(0)

    def loss(weights):
        return float(task.model_step(replace(batch, weights=weights))["loss"].detach())

    first = (torch.arange(len(batch.labels)) < 3).float()
    # A sum over the places, whatever weights stand beside: those of a batch may all be large.
    assert loss(1 + first) == pytest.approx(2 * loss(first) + loss(1 - first), rel=1e-5)


def test_masked_tokens_are_learnt_beside_the_labels(chromatin_config, model, tmp_path):
    before = state(Checkpoint.load(model), "mlm")
    masked = chromatin_config(mlm_weight=0.1, data={**WINDOWS, "mask_rate": 0.2})
    after = finetune_chromatin(masked, Run(tmp_path / "both", progress=False))
    assert not same(before, state(after, "mlm"))
    after = finetune_chromatin(chromatin_config(), Run(tmp_path / "labels", progress=False))
    assert same(before, state(after, "mlm"))


def test_what_counts_weigh_is_not_learnt_from_text_that_was_counted(
    chromatin_config, tiny_tokenizer, tmp_path
):
    start = tiny_checkpoint(tiny_tokenizer, neighbours=1)
    text = random_ids(tiny_tokenizer, 400, seed=1)
    start.mlm.neighbours = PairLogOdds.counted([text], tiny_tokenizer.vocab_size, [1])
    start.save(tmp_path / "counting")
    before = state(Checkpoint.load(tmp_path / "counting"), "mlm")
    config = chromatin_config(
        checkpoint=tmp_path / "counting", mlm_weight=0.1, data={**WINDOWS, "mask_rate": 0.2}
    )
    after = state(finetune_chromatin(config, Run(tmp_path / "out", progress=False)), "mlm")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "dense.weight" in changed
    assert not any(name.startswith("neighbours") for name in changed)


def test_a_model_without_masked_lm_head_cannot_learn_masked_tokens(
    chromatin_config, tiny_tokenizer, tmp_path
):
    start = tiny_checkpoint(tiny_tokenizer)
    start.mlm = None
    start.save(tmp_path / "headless")
    config = chromatin_config(checkpoint=tmp_path / "headless", mlm_weight=0.1)
    with pytest.raises(UsageError, match="no masked-LM head; set mlm_weight to 0"):
        finetune_chromatin(config, Run(tmp_path / "out", progress=False))


def test_a_second_stage_deepens_the_encoder_and_goes_on_with_the_head(chromatin_config, tmp_path):
    first = finetune_chromatin(chromatin_config(), Run(tmp_path / "first", progress=False))
    config = chromatin_config(
        checkpoint=tmp_path / "first" / "model", keep_head=True, add_layers=1,
        fit={**FIT, "learning_rate": 1e-12},
    )  # fmt: skip
    second = finetune_chromatin(config, Run(tmp_path / "second", progress=False))
    assert second.encoder.config.layers == first.encoder.config.layers + 1
    for name, value in state(first, "chromatin").items():
        torch.testing.assert_close(state(second, "chromatin")[name], value, rtol=1e-5, atol=1e-6)


def test_a_head_is_kept_for_the_features_it_was_trained_on(
    chromatin_config, chromatin_path, auxiliary_path, tmp_path
):
    finetune_chromatin(chromatin_config(), Run(tmp_path / "first", progress=False))
    other = shutil.copytree(chromatin_path, tmp_path / "other")
    table = (other / "features.tsv").read_text()
    (other / "features.tsv").write_text(table.replace("cell3|", "lung|").replace("cell5|", "eye|"))
    config = chromatin_config(
        checkpoint=tmp_path / "first" / "model", keep_head=True, data_path=other,
        auxiliary_path=auxiliary_path,
    )  # fmt: skip
    message = r"2 of the 11 features of .* are not in .*, 'cell3\|TF3\|None' the first"
    with pytest.raises(UsageError, match=message):
        finetune_chromatin(config, Run(tmp_path / "second", progress=False))


def test_a_head_is_kept_for_features_of_one_name_by_their_indices():
    # The last of that name was taken for all of them.
    data = pd.DataFrame({"index": [9, 5, 3], "name": ["p300", "CTCF", "CTCF"]})
    checkpoint = SimpleNamespace(features=data.iloc[[2, 1, 0]])
    columns = finetune._columns(checkpoint, SimpleNamespace(), SimpleNamespace(features=data))
    assert columns == [2, 1, 0]


@pytest.mark.parametrize("turn", [1, -1])
def test_auxiliary_labels_neither_come_nor_go_when_a_run_is_resumed(
    chromatin_config, auxiliary_path, tmp_path, turn
):
    """Torch said that sizes do not match."""
    first, second = (chromatin_config(auxiliary_path=p) for p in (None, auxiliary_path)[::turn])
    finetune_chromatin(first, Run(tmp_path / "run", progress=False))
    said = (r"\w{64}", r"not given")[::turn]
    message = r"sha256\.auxiliary_path {}, before {}\);".format(*said)
    with pytest.raises(UsageError, match=message):
        finetune_chromatin(second, Run(tmp_path / "run", resume=True, progress=False))


def test_batches_that_hide_nothing_teach_the_labels_alone(chromatin_config, tmp_path):
    """With one window a batch, every second batch hides nothing."""
    config = chromatin_config(mlm_weight=0.1, data={**WINDOWS, "mask_rate": 0.2, "sequences": 1})
    made = finetune_chromatin(config, Run(tmp_path / "run", progress=False))
    assert all(value.isfinite().all() for value in state(made, "mlm").values())


def test_a_kept_head_may_grow_and_learn_auxiliary_labels_beside(
    chromatin_config, auxiliary_path, tmp_path
):
    cells = {"hidden": 8, "pool": "cells", "before_bp": 80, "after_bp": 80, "cell_width": 4}
    first = finetune_chromatin(
        chromatin_config(head=cells), Run(tmp_path / "first", progress=False)
    )
    config = chromatin_config(
        checkpoint=tmp_path / "first" / "model", keep_head=True, auxiliary_path=auxiliary_path,
        head={**cells, "cell_width": 6}, fit={**FIT, "learning_rate": 1e-12},
    )  # fmt: skip
    second = finetune_chromatin(config, Run(tmp_path / "second", progress=False))
    assert second.chromatin.config == first.chromatin.config.model_copy(update={"cell_width": 6})
    old, new = state(first, "chromatin"), state(second, "chromatin")
    torch.testing.assert_close(new["layers.5.weight"], old["layers.5.weight"])
    assert len(second.features) == 11
    facts = second.provenance["chromatin"]
    assert facts["data"]["auxiliary"]["features"] == 2
    assert str(tmp_path) not in json.dumps(facts["config"])
    assert Checkpoint.load(tmp_path / "second" / "model").chromatin.config.outputs == 11


def test_auxiliary_labels_weigh_what_they_are_told_to(
    chromatin, auxiliary_path, chromatin_batches, tiny_tokenizer
):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    checkpoint.chromatin = type(checkpoint.chromatin)(HeadConfig(outputs=13), 32)
    chromatin_batches.auxiliary = ChromatinDataset(auxiliary_path)
    batch = chromatin_batches(0)

    def loss(**options):
        task = Finetuning(checkpoint, FitSettings(), "chromatin", **options).eval()
        return {name: float(value.detach()) for name, value in task.model_step(batch).items()}

    plain = loss()
    split = loss(outputs=11, auxiliary_weight=0.5)
    assert plain["loss"] * 13 == pytest.approx(11 * (split["labels"] + split["auxiliary"]))
    assert split["loss"] == pytest.approx(split["labels"] + 0.5 * split["auxiliary"])


def test_new_outputs_begin_with_the_rate_of_their_labels(
    chromatin_config, auxiliary_path, tmp_path
):
    begun = {}

    def fit(task, *_):
        begun.update(state(task.checkpoint, "chromatin"))
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "_fit", fit)
        config = chromatin_config(auxiliary_path=auxiliary_path)
        finetune_chromatin(config, Run(tmp_path / "out", progress=False))
    bias = next(value for name, value in begun.items() if len(value) == 13 and value.dim() == 1)
    torch.testing.assert_close(bias[11:].exp() / 8, torch.full((2,), 0.4 / 0.6))


def test_a_head_of_another_shape_cannot_be_kept(chromatin_config, tmp_path):
    with pytest.raises(UsageError, match=r"3 of the 3 features of .* are not in"):
        finetune_chromatin(chromatin_config(keep_head=True), Run(tmp_path / "out", progress=False))
    finetune_chromatin(chromatin_config(), Run(tmp_path / "first", progress=False))
    other = chromatin_config(
        checkpoint=tmp_path / "first" / "model", keep_head=True, head={"hidden": 9}
    )
    with pytest.raises(UsageError, match=r"only cell_width may grow, .*; set keep_head to false"):
        finetune_chromatin(other, Run(tmp_path / "out", progress=False))
