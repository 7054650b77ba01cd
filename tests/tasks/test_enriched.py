from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset, Sites
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import NO_BASE, base_codes, complement_codes
from genobird.tasks.enriched import EnrichedBatches, EnrichedSettings
from genobird.tasks.finetune import ChromatinConfig, finetune_chromatin
from tests.models import tiny_checkpoint
from tests.tasks.conftest import FEATURES

SPAN = 80
LOCAL = {
    "span_bp": SPAN, "filters": 8, "filter_bp": 5, "pool_bp": 4, "width": 6, "dilations": [2],
    "cells": 4, "kept": 4, "hidden": 8,
}  # fmt: skip
PLAIN = EnrichedSettings(places=7, masked_flanks=0, shift_bp=0)


@pytest.fixture
def sites_path(tmp_path: Path, chromatin: ChromatinDataset) -> Path:
    """Five sites of 60 bp; the last feature of the first is unknown."""
    rng = np.random.default_rng(3)
    known = np.ones((5, FEATURES), dtype=np.uint8)
    known[0, -1] = 0
    labels = rng.integers(0, 2, (5, FEATURES)).astype(np.uint8)
    path = tmp_path / "sites.npz"
    np.savez(
        path,
        features=chromatin.features["name"].to_numpy(str),
        codes=rng.integers(0, 4, (5, 60)).astype(np.uint8),
        labels=np.packbits(labels, axis=1, bitorder="little"),
        known=np.packbits(known, axis=1, bitorder="little"),
    )
    return path


def test_an_epoch_visits_each_bound_bin_and_site_once_and_as_many_others(chromatin, sites_path):
    sites = Sites.load(sites_path)
    batches = EnrichedBatches(chromatin, "train", PLAIN, span_bp=SPAN, sites=sites)
    visited = batches._epoch(0)
    assert len(visited) == batches.visits
    bins = visited[visited[:, 0] == 0, 1:]
    assert {tuple(row) for row in batches.bound.tolist()} <= {tuple(row) for row in bins.tolist()}
    assert sorted(visited[visited[:, 0] == 1, 1]) == [0, 1, 2, 3, 4]
    assert not np.array_equal(visited, batches._epoch(1))


def test_a_batch_holds_the_bases_and_labels_of_its_places(chromatin):
    batches = EnrichedBatches(chromatin, "train", PLAIN, span_bp=SPAN)
    batch = batches(3)
    rows = batches._epoch(0)[21:28]
    for row, bases, labels in zip(rows, batch.bases.numpy(), batch.labels.numpy(), strict=True):
        contig, number = batches.contigs[row[1]], int(row[2])
        text = base_codes(chromatin.sequence(contig, number * 200 + 60, number * 200 + 140))
        assert np.array_equal(bases, text) or np.array_equal(bases, complement_codes(text))
        assert np.array_equal(labels, chromatin.labels(contig, np.array([number]))[0])
    again = EnrichedBatches(chromatin, "train", PLAIN, span_bp=SPAN)(3)
    assert torch.equal(batch.bases, again.bases)


def test_flanks_are_masked_and_what_is_unknown_has_no_loss(chromatin, sites_path):
    settings = EnrichedSettings(places=1_000, masked_flanks=1.0, kept_bp=(30, 31))
    batches = EnrichedBatches(
        chromatin, "train", settings, span_bp=SPAN, sites=Sites.load(sites_path)
    )
    batch = batches(0)
    site = (batch.weights != 1).numpy()
    assert site.sum() == 5
    kept = (batch.bases.numpy()[~site] != NO_BASE).sum(1)
    assert set(kept.tolist()) == {30}
    assert int((~batch.known).sum()) == 1


def test_sites_of_other_features_and_splits_without_positives_are_refused(chromatin, sites_path):
    sites = Sites.load(sites_path)
    with pytest.raises(UsageError, match="11 features, the data of 22"):
        EnrichedBatches(chromatin, "train", PLAIN, span_bp=SPAN, sites=sites, auxiliary=chromatin)
    with pytest.raises(InputError, match="classes DNase"):
        EnrichedBatches(chromatin, "train", EnrichedSettings(classes=("DNase",)), span_bp=SPAN)


def test_a_local_head_is_trained_alone(chromatin_path, sites_path, tiny_tokenizer, tmp_path):
    tiny_checkpoint(tiny_tokenizer).save(tmp_path / "start")
    fit = {"steps": 2, "warmup_steps": 1, "validate_every": 2, "precision": "float32"}
    config = {
        "checkpoint": tmp_path / "start", "data_path": chromatin_path, "sites": sites_path,
        "head": {"pool": "local", "local": LOCAL}, "enriched": {"places": 8}, "fit": fit,
    }  # fmt: skip
    finetune_chromatin(ChromatinConfig.model_validate(config), tmp_path / "run", progress=False)
    made = Checkpoint.load(tmp_path / "run" / "model")
    assert made.chromatin.config.pool == "local"
    assert made.provenance["chromatin"]["bases_seen"] == 2 * 8 * SPAN
    assert made.provenance["chromatin"]["data"]["sites"]["sites"] == 5


def test_single_places_are_for_heads_that_read_bases_alone():
    with pytest.raises(ValueError, match="enriched places are for"):
        ChromatinConfig(checkpoint=Path("a"), data_path=Path("b"), enriched=EnrichedSettings())
