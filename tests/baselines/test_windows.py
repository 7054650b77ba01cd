import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genobird.baselines.windows import (
    BinBatches,
    PlaceBatches,
    PromoterBatches,
    bin_codes,
    consecutive,
    promoter_codes,
)
from genobird.datasets import read_promoters
from genobird.enriched import EnrichedBatches, EnrichedSettings
from genobird.errors import InputError
from genobird.genome.sequence import base_codes, complement_codes


def test_a_bin_lies_in_the_middle_of_its_bases_and_n_fill_what_the_contig_lacks(dataset):
    text = dataset.sequence("chr1", 0, dataset.length("chr1"))
    inside = bin_codes(dataset, "chr1", np.arange(10, 13), 1000)
    np.testing.assert_array_equal(inside, base_codes(text[1600:3000]))
    first = bin_codes(dataset, "chr1", np.arange(0, 1), 1000)
    np.testing.assert_array_equal(first, base_codes("N" * 400 + text[:600]))
    last = bin_codes(dataset, "chr1", np.arange(299, 300), 1000)
    np.testing.assert_array_equal(last, base_codes(text[59_400:] + "N" * 300))


def test_runs_are_cut_at_gaps_at_contigs_and_at_their_longest():
    contigs = np.array(["a", "a", "a", "a", "b", "b"])
    bins = np.array([1, 2, 3, 7, 8, 9])
    runs = [(r.start, r.stop) for r in consecutive(contigs, bins, 2)]
    assert runs == [(0, 2), (2, 3), (3, 4), (4, 6)]


def test_training_windows_never_leave_the_split(dataset):
    batches = BinBatches(dataset, "train", input_bp=1000, windows=2, bins=8, seed=0)
    for _, bins in batches.windows:
        assert bins[0] * 200 - 400 >= 0
        assert (bins[-1] + 1) * 200 + 400 <= 50_000
    known = np.concatenate([bins for _, bins in batches.windows])
    assert len(set(known)) == len(known)


def test_labels_follow_their_bin_on_either_strand(dataset):
    batches = BinBatches(dataset, "train", input_bp=1000, windows=4, bins=8, seed=0)
    forward = {bin_codes(dataset, c, b, 1000).tobytes(): (c, b) for c, b in batches.windows}
    strands = set()
    seen = []
    for step in range(len(batches)):
        for codes, labels, usable in zip(*batches(step)[:3], strict=True):
            other = codes.tobytes() not in forward
            if other:
                codes, labels, usable = complement_codes(codes), labels[::-1], usable[::-1]
            contig, bins = forward[codes.tobytes()]
            np.testing.assert_array_equal(labels, dataset.labels(contig, bins))
            np.testing.assert_array_equal(usable, dataset.usable(contig, bins))
            strands.add(other)
            seen.append(int(bins[0]))
    assert strands == {False, True}
    assert set(seen[: len(batches.windows)]) == {int(bins[0]) for _, bins in batches.windows}


def test_a_batch_depends_on_its_step_alone(dataset):
    first, second = (
        BinBatches(dataset, "train", input_bp=1000, windows=2, bins=8, seed=0) for _ in range(2)
    )
    first(0)
    for one, two in zip(first(9)[:3], second(9)[:3], strict=True):
        np.testing.assert_array_equal(one, two)


def test_single_places_weigh_as_where_a_local_head_learns_from_them(dataset):
    places = EnrichedBatches(
        dataset, "train", EnrichedSettings(places=6), span_bp=400, auxiliary=dataset
    )
    found, batch = places(0), PlaceBatches(places, 3, 0.25)(0)
    assert batch.codes.shape == (6, 400)
    assert batch.labels.shape == batch.weights.shape == (6, 1, 6)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32))
    losses = F.binary_cross_entropy_with_logits(logits, found.labels, reduction="none")
    share = found.weights / found.weights.sum()
    expected = share @ losses[:, :3].mean(1) + 0.25 * share @ losses[:, 3:].sum(1) / 3
    weights = torch.from_numpy(batch.weights[:, 0])
    loss = F.binary_cross_entropy_with_logits(logits, found.labels, weight=weights)
    torch.testing.assert_close(loss, expected)


def test_a_split_without_room_is_refused(dataset):
    with pytest.raises(InputError, match="no 500 bins in a row with 400 bp of flank"):
        BinBatches(dataset, "train", input_bp=1000, windows=2, bins=500, seed=0)


def test_promoters_are_read_around_their_start_and_moved_a_little(promoter_path):
    table = read_promoters(promoter_path, "train")
    batches = PromoterBatches(table, input_bp=1000, before_bp=500, windows=8, jitter_bp=16, seed=0)
    codes, labels, counts, _ = batches(0)
    assert codes.shape == (8, 1000)
    assert counts.all()
    texts = [base_codes(s).tobytes() for s in table["sequence"]]
    offsets = set()
    for row, label in zip(codes, labels[:, 0, 0], strict=True):
        owner = next(i for i, text in enumerate(texts) if row.tobytes() in text)
        assert table["label"].iloc[owner] == label
        offsets.add(texts[owner].index(row.tobytes()))
    assert all(4484 <= offset <= 4516 for offset in offsets)
    assert len(offsets) > 3
    before = promoter_codes(table, 300, 249)
    np.testing.assert_array_equal(before[3], base_codes(table["sequence"].iloc[3][4751:5051]))
    with pytest.raises(InputError, match="5100 bp before the start are asked for; a window has"):
        promoter_codes(table, 10_200, 5_100)
