import json
import weakref

import numpy as np
import pytest
import torch

from genobird.bits_per_base import token_spans
from genobird.checkpoint import PROVENANCE, Checkpoint
from genobird.errors import InputError, ShardError, UsageError
from genobird.pair_log_odds import PairLogOdds
from genobird.shards import Shards
from genobird.tasks.data import PretrainBatches
from genobird.tasks.pretrain import MLMConfig, Pretraining, finetune_mlm, parted, validation_batches
from genobird.tasks.run_folder import Run
from genobird.tokenizer import N_SPECIAL, Tokenizer
from tests.conftest import random_dna
from tests.tasks.runs import FIT, Crash


@pytest.fixture
def config(model, tiny_shards):
    def config(**changes):
        values = {
            "checkpoint": model,
            "shards": tiny_shards.path,
            "validation_shards": tiny_shards.path,
            "validation_batches": 2,
            "least": [2, 3],
            "data": {"max_tokens": 66, "sequences": 2},
            "fit": FIT,
        }
        return MLMConfig.model_validate({**values, **changes})

    return config


def weights(checkpoint, part):
    return checkpoint.modules()[part].state_dict()


def test_the_head_alone_is_trained_and_knows_all_pairs_in_the_end(
    config, model, tiny_shards, tmp_path
):
    made = finetune_mlm(config(), Run(tmp_path / "run", progress=False))
    before, after = Checkpoint.load(model), Checkpoint.load(tmp_path / "run" / "model")
    for part in ("encoder", "promoter", "chromatin"):
        for name, value in weights(before, part).items():
            assert torch.equal(weights(after, part)[name], value), (part, name)
    assert not torch.equal(after.mlm.dense.weight, before.mlm.dense.weight)
    texts = [tiny_shards.document(i) for i in range(len(tiny_shards))]
    every = PairLogOdds.counted(texts, before.encoder.config.vocab_size, [2, 3])
    assert (after.mlm.reach, after.encoder.config.neighbours) == (2, 2)
    for name, value in every.named_buffers():
        assert torch.equal(after.mlm.neighbours.get_buffer(name), value), name
    assert not torch.equal(after.mlm.neighbours.weights, every.weights)
    assert after.hash == made.hash != before.hash


def test_tokens_of_one_document_at_a_time_are_held(tiny_shards, tiny_tokenizer, monkeypatch):
    """Tokens of a genome, and their places, are gigabytes."""
    read, alive = Shards.document, []

    def document(*of):
        assert sum(tokens() is not None for tokens in alive) <= 1
        found = read(*of).copy()
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Shards, "document", document)
    parted(tiny_shards, tiny_tokenizer.lengths)
    assert len(alive) == len(tiny_shards) > 2


def test_what_is_asked_about_was_not_counted(config, tiny_shards, tiny_tokenizer, monkeypatch,
                                             tmp_path):  # fmt: skip
    counted, asked = parted(tiny_shards, tiny_tokenizer.lengths)
    assert len(asked) >= 0.05 * len(tiny_shards)
    held = {}
    for i in asked:
        spans = token_spans(tiny_shards, int(i), tiny_tokenizer.lengths)
        held.setdefault(spans.contig, []).append((spans.starts.min(), spans.ends.max()))
    for i in counted:
        spans = token_spans(tiny_shards, int(i), tiny_tokenizer.lengths)
        for start, end in held.get(spans.contig, ()):
            assert spans.ends.max() <= start or end <= spans.starts.min()
    read = []
    whole = PretrainBatches.window

    def window(self, index):
        read.append((self.hide_all, int(self.windows[index, 0])))
        return whole(self, index)

    monkeypatch.setattr(PretrainBatches, "window", window)
    finetune_mlm(config(), Run(tmp_path / "run", progress=False))
    trained = {document for hide_all, document in read if not hide_all}
    assert trained
    assert trained <= set(asked.tolist())


def test_a_run_that_stops_and_resumes_gives_the_same_weights(config, tmp_path, monkeypatch):
    whole = finetune_mlm(config(), Run(tmp_path / "whole", progress=False))
    batch = PretrainBatches.__call__

    def crash(self, step):
        if step == 2 and not self.hide_all:
            raise Crash
        return batch(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(PretrainBatches, "__call__", crash)
        with pytest.raises(Crash):
            finetune_mlm(config(), Run(tmp_path / "parts", progress=False))
    parts = finetune_mlm(config(), Run(tmp_path / "parts", resume=True, progress=False))
    assert parts.hash == whole.hash


def test_provenance_says_how_it_was_made_and_keeps_the_rest(config, tiny_shards, tmp_path):
    finetune_mlm(config(), Run(tmp_path / "run", progress=False, provenance={"command": "c"}))
    found = json.loads((tmp_path / "run" / "model" / PROVENANCE).read_text())
    assert found["pretraining"] == {"tokens_seen": 7}
    assert found["mlm"]["command"] == "c"
    assert found["mlm"]["config"]["least"] == [2, 3]
    assert found["mlm"]["tokens_counted"] == tiny_shards.index.tokens
    assert found["mlm"]["tokens_seen"] == 4 * 2 * 66
    assert "validation/bits_per_base" in found["mlm"]["validation"]
    assert not {"checkpoint", "shards"} & set(found["mlm"]["config"])


def test_the_figures_are_of_the_model_that_is_written(config, tmp_path):
    settings = config(least=[1, 1])
    made = finetune_mlm(settings, Run(tmp_path / "run", progress=False))
    task = Pretraining(Checkpoint.load(tmp_path / "run" / "model"), settings.fit).eval()
    batches = validation_batches(settings, task.checkpoint.encoder.config, made.tokenizer)
    with torch.no_grad():
        steps = [task.model_step(batches(step)) for step in range(2)]
    weights = [int(step["weight"]) for step in steps]
    expected = np.average([float(step["bits_per_base"]) for step in steps], weights=weights)
    found = made.provenance["mlm"]["validation"]["validation/bits_per_base"]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_model_without_the_head_is_refused(config, model, tmp_path):
    bare = Checkpoint.load(model)
    bare.mlm = None
    bare.save(tmp_path / "bare")
    with pytest.raises(UsageError, match="bare has no masked-LM head; pretrain a model with one"):
        finetune_mlm(config(checkpoint=tmp_path / "bare"), Run(tmp_path / "run", progress=False))


def test_shards_of_another_tokenizer_are_refused(config, model, tmp_path):
    other = Tokenizer.train(
        [random_dna(400, seed) for seed in range(40)], tmp_path / "t", "bpe", 64
    )
    changed = Checkpoint.load(model)
    changed.tokenizer = other
    changed.save(tmp_path / "other")
    with pytest.raises(ShardError, match="made with another tokenizer than the model's"):
        finetune_mlm(config(checkpoint=tmp_path / "other"), Run(tmp_path / "run", progress=False))


def test_one_document_cannot_be_counted_and_asked_about(tiny_shards, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_shards, "documents", tiny_shards.documents[:1])
    with pytest.raises(InputError, match="has 1 documents; to count some and ask about others"):
        parted(tiny_shards, tiny_tokenizer.lengths)


def test_where_every_piece_has_one_neighbour_counting_finds_it(tiny_tokenizer):
    rng = np.random.Generator(np.random.Philox(0))
    order = rng.permutation(np.arange(N_SPECIAL, tiny_tokenizer.vocab_size)).astype(np.uint16)
    text = np.tile(order, 30)
    found = PairLogOdds.counted([text], tiny_tokenizer.vocab_size, [2])
    around = torch.from_numpy(np.stack([text[:-2], text[2:]], 1).astype(np.int64))[:, None]
    assert (found(around).argmax(-1).numpy() == text[1:-1]).all()
