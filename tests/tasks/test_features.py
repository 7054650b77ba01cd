from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genobird.checkpoint import Checkpoint
from genobird.datasets import read_promoters
from genobird.draws import visiting_order
from genobird.errors import UsageError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.inference import Inference
from genobird.places import pack_places
from genobird.tasks import features
from genobird.tasks.bins import ChosenBins, group
from genobird.tasks.data import PromoterBatches, PromoterDataSettings
from genobird.tasks.evaluate import predict_promoters
from genobird.tasks.features import FeatureBatches, encode_batches, encode_bins, window
from genobird.tasks.finetune import PromoterConfig, finetune_promoter
from genobird.tasks.peaks import predict
from genobird.tasks.run_folder import Run
from tests.models import tiny_checkpoint
from tests.tasks.runs import Crash

CONTEXT = 600


@pytest.fixture
def genome(tiny_genome_path):
    with Genome(tiny_genome_path) as opened:
        yield opened


@pytest.fixture
def model(tiny_tokenizer):
    return tiny_checkpoint(tiny_tokenizer)


def bins_of(contig, *numbers):
    labels = np.zeros((len(numbers), 1), bool)
    return ChosenBins(np.array([contig] * len(numbers)), np.array(numbers), labels, 1, 1)


def encoded(model, genome, chosen, folder, **changes):
    options = {"context_bp": CONTEXT, "both_strands": False, "seconds": None, "seed": 7, **changes}
    groups = group(chosen, 1200, 0)
    return encode_bins(Inference(model), model.chromatin, genome, chosen, groups, folder, **options)


@pytest.mark.parametrize("shape", [
    {"hidden": 8}, {"pool": "cls"}, {"before_bp": 30},
    {"pool": "cells", "before_bp": 120, "cell_bp": 20, "cell_width": 3},
])  # fmt: skip
def test_a_head_says_of_kept_states_what_it_says_of_the_sequence(model, genome, tmp_path, shape):
    model.chromatin = Head(HeadConfig(outputs=3, **shape), 32)
    chosen = bins_of("chr1", 0, 3, 100, 105, 299)
    states = encoded(model, genome, chosen, tmp_path / "states", both_strands=True)
    found = predict(model.chromatin, states, len(chosen))
    groups = [[0, 3], [100, 105], [299]]
    expected = []
    for numbers in groups:
        text, start = genome.fetch_clipped("chr1", *window(numbers[0], numbers[-1], CONTEXT))
        centres = np.array(numbers) * 200 + 100 - start
        asked = pack_places(
            [text, reverse_complement(text)], [centres, len(text) - centres],
            model.tokenizer, model.chromatin.config, 16,
        )  # fmt: skip
        with torch.no_grad():
            logits = model.chromatin(model.encoder(asked.batch), asked)
        expected.append(logits.view(2, len(numbers), -1).mean(0).numpy())
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-3)
    assert np.abs(found).max() > 0.05  # the states matter


@given(st.integers(0, 500), st.integers(0, 40), st.integers(0, 8_000))
def test_a_window_gives_its_bins_their_context_and_has_one_of_few_widths(first, more, context):
    start, end = window(first, first + more, context)
    assert start <= 200 * first - context
    assert end >= 200 * (first + more) + 200 + context
    assert (end - start - 2 * context - 200) % 1_000 == 0
    assert end - start <= 200 * more + 200 + 2 * context + 999


def test_states_on_disk_are_not_computed_again(model, genome, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_CHUNK", 2)
    chosen = bins_of("chr1", *range(0, 200, 20))
    first = encoded(model, genome, chosen, tmp_path / "states")
    files = sorted((tmp_path / "states").glob("*.npz"))
    assert len(files) == 5
    (tmp_path / "states" / "done").unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])  # a disk that was full
    fetch, asked = Genome.fetch_clipped, []
    monkeypatch.setattr(
        Genome, "fetch_clipped", lambda self, *place: (asked.append(place), fetch(self, *place))[1]
    )
    again = encoded(model, genome, chosen, tmp_path / "states")
    third, fourth = (chosen.bins[rows[0]] for rows in group(chosen, 1200, 0)[2:4])
    assert sorted(asked) == sorted(
        ("chr1", *window(number, number, CONTEXT)) for number in (third, fourth)
    )
    for name in ("rows", "pooled"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_when_time_is_up_a_resumed_run_goes_on_with_the_same_bins(
    model, genome, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "_CHUNK", 2)
    chosen = bins_of("chr1", *range(0, 200, 20))
    short = encoded(model, genome, chosen, tmp_path / "states", seconds=0)
    assert len(short) == 2
    again = encoded(model, genome, chosen, tmp_path / "states", seconds=None)
    assert torch.equal(short.pooled, again.pooled)


@pytest.mark.parametrize("left", ["", "x\n"])
def test_a_damaged_count_of_windows_counts_as_none(model, genome, tmp_path, left):
    chosen = bins_of("chr1", *range(0, 60, 20))
    first = encoded(model, genome, chosen, tmp_path / "states")
    done = tmp_path / "states" / "done"
    assert done.read_text() == "3\n"
    done.write_text(left)
    again = encoded(model, genome, chosen, tmp_path / "states")
    assert torch.equal(first.pooled, again.pooled)
    assert done.read_text() == "3\n"


def test_the_strand_is_drawn_by_the_seed(model, genome, tmp_path):
    chosen = bins_of("chr1", *range(0, 200, 20))
    runs = [
        encoded(model, genome, chosen, tmp_path / str(i), seed=seed).pooled
        for i, seed in enumerate((1, 1, 2))
    ]
    assert torch.equal(runs[0], runs[1])
    assert runs[0].shape != runs[2].shape or not torch.equal(runs[0], runs[2])


STEPS = 4


@pytest.fixture
def checkpoint(tiny_tokenizer):
    return tiny_checkpoint(tiny_tokenizer)


@pytest.fixture
def draws(checkpoint, promoter_path):
    return PromoterBatches(
        read_promoters(promoter_path, "train"), PromoterDataSettings(sequences=4),
        tokenizer=checkpoint.tokenizer, head=checkpoint.promoter.config, block_size=16,
    )  # fmt: skip


def frozen_config(start, promoter_path, **changes):
    return PromoterConfig.model_validate({
        "checkpoint": start, "data_path": promoter_path, "freeze_encoder": True,
        "draws": 2, "places": 5, "data": {"sequences": 2},
        "fit": {"steps": 3, "warmup_steps": 1, "device": "cpu", "validate_every": 3},
        **changes,
    })  # fmt: skip


def test_a_head_says_of_encoded_draws_what_it_says_of_the_draws(checkpoint, draws, tmp_path):
    head = checkpoint.promoter.eval()
    found = encode_batches(draws, STEPS, Inference(checkpoint), head, tmp_path)
    batches = FeatureBatches(**found, batch=5, seed=3)
    with torch.no_grad():
        logits, labels = [], []
        for step in range(STEPS):
            batch = draws(step)
            places = batch.places
            hidden = checkpoint.encoder(places.batch)
            logits.append(head(hidden, places))
            labels.append(batch.labels)
        expected, known = torch.cat(logits), torch.cat(labels)
        order = visiting_order(len(known), 3, 0)
        for step in range(len(known) // 5):
            batch = batches(step)
            found = head.answer(batch.pooled)
            rows = torch.from_numpy(order[5 * step : 5 * step + 5])
            torch.testing.assert_close(found, expected[rows], rtol=2e-2, atol=2e-2)  # float16
            torch.testing.assert_close(batch.labels, known[rows])


def test_an_epoch_visits_every_place_once_but_what_fills_no_batch(checkpoint, draws, tmp_path):
    found = encode_batches(draws, STEPS, Inference(checkpoint), checkpoint.promoter, tmp_path)
    batches = FeatureBatches(**found, batch=5, seed=0)
    places = len(batches.pooled)
    assert places == 4 * STEPS == len(batches) * 5 + 1  # one fills no batch
    batches.labels = torch.arange(places)[:, None].float()
    for epoch in range(2):
        steps = range(epoch * len(batches), (epoch + 1) * len(batches))
        visited = torch.cat([batches(step).labels for step in steps])[:, 0]
        order = visiting_order(places, 0, epoch)
        assert visited.tolist() == order[:-1].tolist()


def test_a_head_is_trained_on_encoded_draws(checkpoint, promoter_path, tmp_path):
    checkpoint.save(tmp_path / "start")
    config = frozen_config(tmp_path / "start", promoter_path)
    made = finetune_promoter(config, Run(tmp_path / "run", progress=False))
    before = checkpoint.encoder.state_dict()
    for name, value in made.encoder.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    head = checkpoint.promoter.state_dict()
    for name, value in made.promoter.state_dict().items():
        assert not torch.equal(value, head[name]), name
    assert made.provenance["promoter"]["config"]["draws"] == 2


CELLS = {"pool": "cells", "before_bp": 120, "after_bp": 120, "cell_bp": 40, "cell_width": 3}
PROFILES = {"pool": "profiles", "before_bp": 320, "after_bp": 320, "step_bp": 200}


def test_a_head_reads_the_profiles_of_a_copy_of_the_chromatin_head(
    checkpoint, promoter_path, tmp_path
):
    torch.manual_seed(1)
    chromatin = Head(HeadConfig(outputs=3, hidden=8, dropout=0.9, **CELLS), 32)
    torch.nn.init.normal_(chromatin.cell_norm.running_mean)
    checkpoint.chromatin = chromatin
    checkpoint.save(tmp_path / "start")
    finetune_promoter(
        frozen_config(tmp_path / "start", promoter_path, head=PROFILES),
        Run(tmp_path / "run", progress=False),
    )
    made = Checkpoint.load(tmp_path / "run" / "model")
    assert made.promoter.config.profiles == chromatin.config
    for name, value in made.promoter.profiles.state_dict().items():
        assert torch.equal(value, chromatin.state_dict()[name])
    table = read_promoters(promoter_path, "validation")
    before = predict_promoters(Inference(made), table)
    made.chromatin = None  # a copy: it needs no other head
    made.features = made.features[:0]
    made.save(tmp_path / "alone")
    alone = Checkpoint.load(tmp_path / "alone")
    np.testing.assert_array_equal(predict_promoters(Inference(alone), table), before)


def test_profiles_that_are_not_there_or_do_not_fit_are_refused(checkpoint, promoter_path, tmp_path):
    start, out = tmp_path / "start", tmp_path / "run"
    checkpoint.chromatin = Head(HeadConfig(outputs=3, **CELLS), 32)
    checkpoint.save(start)
    with pytest.raises(UsageError, match="profiles of 240 bp, every 120 bp, do not fill 640 bp"):
        finetune_promoter(
            frozen_config(start, promoter_path, head=PROFILES | {"step_bp": 120}),
            Run(out, progress=False),
        )
    checkpoint.chromatin = None
    checkpoint.features = checkpoint.features[:0]
    checkpoint.save(start, force=True)
    with pytest.raises(UsageError, match="has no chromatin head, whose profiles"):
        finetune_promoter(
            frozen_config(start, promoter_path, head=PROFILES), Run(out, progress=False)
        )
    assert not out.exists()


def test_draws_of_an_encoder_that_is_trained_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="freeze_encoder must be true, or draws 0"):
        PromoterConfig(checkpoint=tmp_path, data_path=tmp_path, draws=1)


def test_draws_for_a_head_that_learns_what_to_keep_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="choose pool bin"):
        PromoterConfig.model_validate({
            "checkpoint": tmp_path, "data_path": tmp_path, "draws": 1, "freeze_encoder": True,
            "head": {"pool": "cells", "before_bp": 100, "after_bp": 100},
        })  # fmt: skip


def test_what_was_encoded_before_a_stop_is_not_encoded_again(
    checkpoint, promoter_path, tmp_path, monkeypatch, caplog
):
    checkpoint.save(tmp_path / "start")
    config = frozen_config(tmp_path / "start", promoter_path)
    whole = finetune_promoter(config, Run(tmp_path / "whole", progress=False))
    make, asked = PromoterBatches.__call__, []

    def stopped(self, step):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(step)
        return make(self, step)

    monkeypatch.setattr(PromoterBatches, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        finetune_promoter(config, Run(tmp_path / "parts", progress=False))
    assert "keeps what is done (7 of 10 batches); the same command with --resume goes on" in (
        caplog.text
    )
    assert asked == list(range(7))
    (damaged,) = (tmp_path / "parts" / "encoded").glob("*/000002.npz")
    damaged.write_bytes(damaged.read_bytes()[:-40])

    asked.clear()
    parts = finetune_promoter(config, Run(tmp_path / "parts", resume=True, progress=False))
    assert asked[:4] == [2, 7, 8, 9]  # of ten; then those of the validation part
    assert not (tmp_path / "parts" / "encoded").exists()
    for name, value in whole.promoter.state_dict().items():
        assert torch.equal(value, parts.promoter.state_dict()[name])


def test_a_resumed_run_keeps_the_precision_that_it_began_with(
    checkpoint, promoter_path, tmp_path, monkeypatch
):
    """It was measured again: a machine that was busy once mixed float32 and bfloat16."""
    checkpoint.save(tmp_path / "start")
    config = frozen_config(tmp_path / "start", promoter_path)
    read, precisions = Inference.read, []

    def stopped(inference, readers, asked):
        if len(precisions) == at:
            raise Crash
        precisions.append(inference.precision)
        return read(inference, readers, asked)

    monkeypatch.setattr("genobird.inference.fastest", lambda device: "bf16")
    whole = finetune_promoter(config, Run(tmp_path / "whole", progress=False))
    for at in (1, 7):
        precisions.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Inference, "read", stopped)
            with pytest.raises(Crash):
                finetune_promoter(config, Run(tmp_path / f"parts-{at}", progress=False))
        assert set(precisions) == {"bf16"}
        with monkeypatch.context() as patched:
            patched.setattr("genobird.inference.fastest", lambda device: "float32")
            parts = finetune_promoter(
                config, Run(tmp_path / f"parts-{at}", resume=True, progress=False)
            )
        assert parts.hash == whole.hash
        assert parts.provenance == whole.provenance
        assert parts.provenance["promoter"]["config"]["fit"]["precision"] == "bf16"


def test_a_run_that_is_stopped_in_its_training_keeps_the_precision_too(
    checkpoint, promoter_path, tmp_path, monkeypatch
):
    checkpoint.save(tmp_path / "start")
    fit = {"steps": 3, "warmup_steps": 1, "device": "cpu", "save_every": 1}
    config = frozen_config(tmp_path / "start", promoter_path, fit=fit)
    make = FeatureBatches.__call__

    def stopped(self, step):
        if step == 2:
            raise Crash
        return make(self, step)

    monkeypatch.setattr("genobird.inference.fastest", lambda device: "bf16")
    whole = finetune_promoter(config, Run(tmp_path / "whole", progress=False))
    with monkeypatch.context() as patched:
        patched.setattr(FeatureBatches, "__call__", stopped)
        with pytest.raises(Crash):
            finetune_promoter(config, Run(tmp_path / "parts", progress=False))
    monkeypatch.setattr("genobird.inference.fastest", lambda device: "float32")
    parts = finetune_promoter(config, Run(tmp_path / "parts", resume=True, progress=False))
    assert parts.hash == whole.hash
    assert not (tmp_path / "parts" / "encoded").exists()


def test_other_windows_are_encoded_anew(checkpoint, promoter_path, tmp_path):
    checkpoint.save(tmp_path / "start")

    def folders(seed):
        config = frozen_config(tmp_path / "start", promoter_path, fit={"steps": 1, "seed": seed})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("genobird.tasks.finetune._fit", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                finetune_promoter(config, Run(tmp_path / "run", progress=False))
        return {folder.name for folder in (tmp_path / "run" / "encoded").glob("*/")}

    first = folders(0)
    assert len(first) == 2  # the training part's and the validation part's
    assert len(folders(1) - first) == 2
