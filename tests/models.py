"""Small models for tests, made from a seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

from genobird.batch import UInt16Array, add_specials
from genobird.checkpoint import Checkpoint
from genobird.heads import Head, HeadConfig
from genobird.model import PRESETS, BigBird, BigBirdConfig, MaskedLMHead
from genobird.tokenizer import N_SPECIAL, Tokenizer


def tiny_config(tokenizer: Tokenizer, **changes: object) -> BigBirdConfig:
    """The `tiny` preset for a tokenizer, with changes."""
    return BigBirdConfig.model_validate(
        {**PRESETS["tiny"], "vocab_size": tokenizer.vocab_size, **changes}
    )


def tiny_encoder(tokenizer: Tokenizer, seed: int = 0, **changes: object) -> BigBird:
    """An encoder whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    encoder = BigBird(tiny_config(tokenizer, **changes), tokenizer.bases)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def tiny_checkpoint(tokenizer: Tokenizer, seed: int = 0, **changes: object) -> Checkpoint:
    """A checkpoint with all of its heads; the chromatin head has three features."""
    encoder = tiny_encoder(tokenizer, seed, **changes)
    width = encoder.config.width
    features = {"index": [3, 130, 820], "name": ["a|DNase|None", "b|CTCF|None", "c|H3K4me3|None"]}
    return Checkpoint(
        encoder,
        tokenizer,
        mlm=MaskedLMHead(encoder.config),
        nsp=nn.Linear(width, 2) if encoder.config.nsp else None,
        promoter=Head(HeadConfig(before_bp=300, after_bp=200), width),
        chromatin=Head(HeadConfig(outputs=3, hidden=8), width),
        features=pd.DataFrame({**features, "class": ["DNase", "TF", "histone"]}),
    )


def starts_checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    """A checkpoint whose promoter head reads profiles and the letters of its core promoter."""
    checkpoint = tiny_checkpoint(tokenizer)
    width = checkpoint.encoder.config.width
    profiles = HeadConfig(outputs=3, hidden=8, pool="cells", before_bp=100, after_bp=100)
    reads = {"before_bp": 200, "after_bp": 200, "core_before_bp": 6, "core_after_bp": 4}
    checkpoint.chromatin = Head(profiles, width)
    config = HeadConfig(pool="profiles", profiles=profiles, near_bp=30, **reads)
    checkpoint.promoter = Head(config, width)
    assert checkpoint.promoter.core is not None
    checkpoint.promoter.core.weight.data.mul_(10)
    return checkpoint


def random_ids(tokenizer: Tokenizer, length: int, seed: int) -> UInt16Array:
    """`length` token ids, with [CLS] and [SEP] (at least two)."""
    rng = np.random.Generator(np.random.Philox(seed))
    pieces = rng.integers(N_SPECIAL, tokenizer.vocab_size, size=length - 2)
    return add_specials(pieces.astype(np.uint16))
