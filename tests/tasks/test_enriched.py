from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from genobird.checkpoint import Checkpoint
from genobird.datasets import ChromatinDataset, Sites
from genobird.enriched import EnrichedBatches, EnrichedSettings
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import NO_BASE, base_codes, complement_codes
from genobird.heads import Head, HeadConfig
from genobird.motifs import read_motifs
from genobird.tasks.finetune import ChromatinConfig, finetune_chromatin
from genobird.tasks.run_folder import Run
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
    site = (batch.weights < 1).numpy()
    assert site.sum() == 5
    kept = (batch.bases.numpy()[~site] != NO_BASE).sum(1)
    assert set(kept.tolist()) == {30}
    assert int((~batch.known).sum()) == 1


@pytest.mark.parametrize("kept", [(0, 10), (30, 30), (40, 30)])
def test_bases_to_keep_that_cannot_be_drawn_are_refused(kept):
    with pytest.raises(ValidationError, match=f"kept_bp is {kept[0]} to {kept[1]}; the least is 1"):
        EnrichedSettings(kept_bp=kept)


def test_an_epoch_ends_with_its_last_full_batch(chromatin):
    batches = EnrichedBatches(
        chromatin, "train", PLAIN.model_copy(update={"places": 8}), span_bp=SPAN, augment=False
    )
    assert batches.visits % 8
    batches(len(batches) - 1)
    assert batches._order_of == 0
    batches(len(batches))
    assert batches._order_of == 1


def test_sites_of_other_features_and_splits_without_positives_are_refused(chromatin, sites_path):
    sites = Sites.load(sites_path)
    with pytest.raises(UsageError, match="11 features, the data of 22"):
        EnrichedBatches(chromatin, "train", PLAIN, span_bp=SPAN, sites=sites, auxiliary=chromatin)
    with pytest.raises(InputError, match="classes DNase"):
        EnrichedBatches(chromatin, "train", EnrichedSettings(classes=("DNase",)), span_bp=SPAN)


def test_a_share_of_the_bases_is_replaced_by_others(chromatin, sites_path):
    def bases(mutated):
        settings = EnrichedSettings(places=1_000, masked_flanks=0, mutated=mutated)
        batches = EnrichedBatches(
            chromatin, "train", settings, span_bp=SPAN, sites=Sites.load(sites_path)
        )
        return np.stack([batches._place(row, np.random.default_rng(1))[0] for row in rows])

    rows = EnrichedBatches(chromatin, "train", PLAIN, span_bp=SPAN)._epoch(0)
    rows = np.concatenate([rows, [[1, 0, 0]]])
    plain, all_ = bases(1e-9), bases(1.0)
    unknown = plain == NO_BASE
    assert unknown.any()
    assert np.array_equal(unknown, all_ == NO_BASE)
    assert (plain != all_)[~unknown].all()
    some = bases(0.1)
    share = (some != plain)[~unknown].mean()
    assert 0.05 < share < 0.15
    assert (some[~unknown] < NO_BASE).all()


def test_bases_are_deleted_or_inserted_and_the_rest_moves_together(chromatin):
    settings = EnrichedSettings(places=64, masked_flanks=0, shift_bp=0, indels=1.0, indel_bp=3)
    batches = EnrichedBatches(chromatin, "train", settings, span_bp=SPAN)
    longer = shorter = 0
    for row in batches._epoch(0)[:64]:
        contig, number = batches.contigs[row[1]], int(row[2])
        text = chromatin.sequence(contig, number * 200 + 100 - SPAN, number * 200 + 100 + SPAN)
        codes = base_codes(text)
        found = batches._place(row, np.random.default_rng(row[2]))[0]
        assert len(found) == SPAN
        if not _within(codes, found[:20]):
            found = complement_codes(found)
        first, last = _within(codes, found[:20]), _within(codes, found[-20:])
        if first and last:  # else the change lies within the ends
            assert abs(last[0] - first[0] - (SPAN - 20)) <= 3
            longer += last[0] - first[0] > SPAN - 20
            shorter += last[0] - first[0] < SPAN - 20
    assert longer
    assert shorter


def _within(codes, part):
    windows = np.lib.stride_tricks.sliding_window_view(codes, len(part))
    return np.flatnonzero((windows == part).all(1)).tolist()


def test_changes_that_are_not_asked_for_draw_nothing(chromatin):
    one, other = (
        EnrichedBatches(chromatin, "train", EnrichedSettings(places=8, indel_bp=bp), span_bp=SPAN)
        for bp in (4, 16)
    )
    assert torch.equal(one(0).bases, other(0).bases)


@pytest.fixture
def local_config(chromatin_path, tiny_tokenizer, tmp_path):
    """Settings of two steps of a local head; changes are to them."""
    tiny_checkpoint(tiny_tokenizer).save(tmp_path / "start")
    fit = {"steps": 2, "warmup_steps": 1, "validate_every": 2, "precision": "float32"}

    def config(fit=fit, **changes):
        values = {
            "checkpoint": tmp_path / "start", "data_path": chromatin_path,
            "head": {"pool": "local", "local": LOCAL}, "enriched": {"places": 8}, "fit": fit,
        }  # fmt: skip
        return ChromatinConfig.model_validate({**values, **changes})

    return config


@pytest.mark.parametrize(("held", "kept"), [(1.0, True), (0.5, False)])
def test_filters_that_begin_with_motifs_are_held_for_a_share_of_the_steps(
    local_config, tmp_path, held, kept
):
    rng = np.random.default_rng(4)
    rows = [f"{base} [ {' '.join(map(str, rng.integers(0, 9, 5)))} ]" for base in "ACGT"]
    (tmp_path / "motifs.txt").write_text("\n".join([">MA1 TF1", *rows]) + "\n")
    config = local_config(motifs=tmp_path / "motifs.txt", motifs_held=held)
    made = finetune_chromatin(config, Run(tmp_path / "run", progress=False))
    filters = made.chromatin.local.motifs.weight.detach()
    (motif,) = read_motifs(tmp_path / "motifs.txt")
    begun = torch.from_numpy(motif.odds / 4).float()
    assert torch.equal(filters[0, :, 0], begun) == kept
    assert torch.equal(filters[1, :, 0], begun.flip(0, 1)) == kept


def test_training_goes_on_from_the_local_network_of_a_combined_head(
    local_config, chromatin, auxiliary_path, tiny_tokenizer, tmp_path
):
    start = tiny_checkpoint(tiny_tokenizer)
    torch.manual_seed(3)
    start.chromatin = Head(HeadConfig(outputs=2, local=LOCAL), start.encoder.config.width)
    start.features = chromatin.features.iloc[[4, 1]]
    start.provenance = {"chromatin": {"steps": 1}, "combined": {"local": {"steps": 2}}}
    start.save(tmp_path / "combined")
    slow = {"steps": 1, "learning_rate": 1e-12, "warmup_steps": 0, "precision": "float32"}
    made = finetune_chromatin(
        local_config(
            checkpoint=tmp_path / "combined",
            keep_head=True,
            fit=slow,
            auxiliary_path=auxiliary_path,
        ),
        Run(tmp_path / "run", progress=False),
    )
    begun, head = start.chromatin, made.chromatin
    assert head.config.pool == "local"
    torch.testing.assert_close(head.local_out.weight[[4, 1]], begun.local_out.weight)
    assert torch.count_nonzero(head.local_out.weight[[0, 2, 3]].abs() > 1e-9) == 0
    torch.testing.assert_close(head.local.hidden.weight, begun.local.hidden.weight)
    assert made.provenance["chromatin"]["earlier"] == {"steps": 2}
    assert "combined" not in made.provenance


def test_a_local_head_is_trained_alone(local_config, sites_path, tmp_path):
    finetune_chromatin(local_config(sites=sites_path), Run(tmp_path / "run", progress=False))
    made = Checkpoint.load(tmp_path / "run" / "model")
    assert made.chromatin.config.pool == "local"
    assert made.provenance["chromatin"]["bases_seen"] == 2 * 8 * SPAN
    assert made.provenance["chromatin"]["data"]["sites"]["sites"] == 5


def test_single_places_are_for_heads_that_read_bases_alone():
    with pytest.raises(ValueError, match="enriched places are for"):
        ChromatinConfig(checkpoint=Path("a"), data_path=Path("b"), enriched=EnrichedSettings())
