import pytest
import torch

from genobird.batch import pack
from genobird.checkpoint import Checkpoint
from genobird.errors import ConfigError, UsageError
from genobird.heads import HeadConfig
from genobird.tasks.data import ChromatinBatches, ChromatinDataSettings
from genobird.tasks.finetune import Finetuning
from genobird.tasks.fit import FitSettings
from genobird.tasks.task import EncoderPart, limit, merge
from genobird.tasks.training import finetune
from tests.models import random_ids, tiny_checkpoint, tiny_encoder

FIT = {
    "steps": 2, "warmup_steps": 1, "learning_rate": 1e-2, "device": "cpu", "threads": 1,
    "precision": "float32",
}  # fmt: skip


def stepped(tokenizer, dataset, part):
    """A task after the backward pass of one batch, and the encoder's state before it."""
    checkpoint = tiny_checkpoint(tokenizer, dropout=0.1)
    checkpoint.chromatin = type(checkpoint.chromatin)(HeadConfig(outputs=11), 32)
    before = {k: v.clone() for k, v in checkpoint.encoder.state_dict().items()}
    windows = ChromatinDataSettings(window_bp=2000, margin_bp=400, sequences=2)
    batches = ChromatinBatches(
        dataset, "train", windows, tokenizer=tokenizer, head=HeadConfig(), block_size=16
    )
    task = Finetuning(checkpoint, FitSettings(), "chromatin", encoder=part).train()
    task.model_step(batches(0))["loss"].backward()
    return task, before


def graded(task):
    return {
        name for name, value in task.checkpoint.encoder.named_parameters() if value.grad is not None
    }


def test_adapters_alone_get_gradients(tiny_tokenizer, chromatin):
    task, before = stepped(tiny_tokenizer, chromatin, EncoderPart(lora_rank=2))
    found = graded(task)
    assert len(found) == 2 * 4 * 2  # A and B of four matrices in each of two layers
    assert all(name.endswith((".weight.0.a", ".weight.0.b")) for name in found)
    assert task.head.layers[-1].weight.grad is not None
    merge(task.checkpoint.encoder)
    after = task.checkpoint.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # statistics too


def test_layers_below_stay_as_they_are(tiny_tokenizer, chromatin):
    task, before = stepped(tiny_tokenizer, chromatin, EncoderPart(freeze_layers=1))
    found = graded(task)
    assert found
    assert all(name.startswith(("blocks.1.", "norm.")) for name in found)
    after = task.checkpoint.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    both, _ = stepped(tiny_tokenizer, chromatin, EncoderPart(freeze_layers=1, lora_rank=2))
    assert len(graded(both)) == 8
    assert all(name.startswith("blocks.1.") for name in graded(both))


def test_merged_weights_compute_what_the_adapters_did(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer)
    names = set(encoder.state_dict())
    batch = pack([random_ids(tiny_tokenizer, 100, seed=1)], 16)
    bare = encoder(batch)
    limit(encoder, EncoderPart(lora_rank=3, lora_alpha=6))
    assert torch.equal(encoder(batch), bare)  # they begin at zero
    for name, value in encoder.named_parameters():
        if name.endswith(".weight.0.b"):
            torch.nn.init.normal_(value, std=0.1)
    adapted = encoder(batch)
    assert (adapted - bare).abs().max() > 0.1
    merge(encoder)
    assert set(encoder.state_dict()) == names
    torch.testing.assert_close(encoder(batch), adapted, rtol=1e-5, atol=1e-5)


def test_a_model_with_merged_adapters_is_an_ordinary_one(tiny_tokenizer, promoter_path, tmp_path):
    tiny_checkpoint(tiny_tokenizer).save(tmp_path / "start")
    asked = {"checkpoint": tmp_path / "start", "data_path": promoter_path, "fit": FIT}
    asked |= {"data": {"sequences": 2}, "progress": False}
    finetune("promoter", tmp_path / "run", encoder={"lora_rank": 2}, **asked)
    before, after = (Checkpoint.load(tmp_path / name).encoder for name in ("start", "run/model"))
    moved = {
        name
        for name, value in after.named_parameters()
        if not torch.equal(value, before.get_parameter(name))
    }
    linears = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    assert moved == {f"blocks.{layer}.{name}.weight" for layer in (0, 1) for name in linears}
    with pytest.raises(UsageError, match="freeze_layers is 2, and the encoder has 2 layers; leave"):
        finetune("promoter", tmp_path / "none", encoder={"freeze_layers": 2}, **asked)
    with pytest.raises(ConfigError, match="trains the head alone; leave out encoder"):
        finetune(
            "promoter", tmp_path / "none", freeze_encoder=True, encoder={"lora_rank": 2}, **asked
        )
