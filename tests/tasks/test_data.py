import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from genobird.batch import LabelledBatch, pack
from genobird.draws import generator
from genobird.heads import HeadConfig
from genobird.places import pack_places
from genobird.tasks import data
from genobird.tasks.data import (
    PretrainBatches,
    PretrainDataSettings,
    Steps,
    mask_tokens,
)
from genobird.tokenizer import CLS, MASK, N_SPECIAL, PAD, SEP

SETTINGS = PretrainDataSettings(max_tokens=66, sequences=4)


@pytest.fixture
def make(tiny_shards, tiny_tokenizer):
    def make(settings=SETTINGS, **changes):
        return PretrainBatches(
            tiny_shards, settings, vocab_size=tiny_tokenizer.vocab_size, block_size=16, **changes
        )

    return make


def sequences(batch):
    """The ids of each sequence, masks taken back."""
    ids = batch.batch.ids.clone()
    ids[batch.targets] = batch.labels
    starts = batch.batch.starts.tolist()
    lengths = batch.batch.lengths
    return [ids[first : first + n].tolist() for first, n in zip(starts, lengths, strict=True)]


def test_a_generator_depends_on_its_key_alone():
    np.random.default_rng(0).random()
    assert generator(1, 2).random() == generator(1, 2).random()
    assert len({generator(*key).random() for key in [(1, 2), (2, 1), (1, 3), (0, 2)]}) == 4


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("start", "stop"), [(0, 10), (3, 10), (7, 8), (5, 5)])
def test_the_order_of_steps_does_not_depend_on_the_workers(monkeypatch, workers, start, stop):
    steps = Steps(lambda step: step, stop, start)
    streams = []
    for worker in range(max(1, workers)):
        info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
        monkeypatch.setattr(data, "get_worker_info", lambda info=info: info)
        streams.append(iter(list(steps)))
    seen = []
    while (step := next(streams[len(seen) % len(streams)], None)) is not None:  # as torch does
        seen.append(step)
    assert seen == list(range(start, stop))


@pytest.mark.parametrize(("start", "stop"), [(0, 12), (4, 12), (0, 3)])
def test_processes_share_the_batches_and_take_turns(monkeypatch, start, stop):
    shares = []
    for rank in range(4):
        steps = Steps(lambda step: step, stop, start, rank, 4)
        assert len(steps) == -(-stop // 4)
        alone, workers = list(steps), []
        for worker in range(2):
            info = SimpleNamespace(id=worker, num_workers=2)
            monkeypatch.setattr(data, "get_worker_info", lambda info=info: info)
            workers.append(list(steps))
        monkeypatch.setattr(data, "get_worker_info", lambda: None)
        assert [workers[i % 2][i // 2] for i in range(len(alone))] == alone
        shares.append(alone)
    assert sorted(step for share in shares for step in share) == list(range(start, stop))
    for rank, share in enumerate(shares):
        assert all(step % 4 == rank for step in share)


def test_real_workers_give_the_same_batches(make):
    batches = make()

    def ids(workers):
        loader = DataLoader(Steps(batches, 4), batch_size=None, num_workers=workers)
        return [batch.batch.ids.tolist() for batch in loader]

    assert ids(2) == ids(0) == [batches(step).batch.ids.tolist() for step in range(4)]


def test_batches_travel_to_processes_that_start_anew(make):
    batches = make()
    expected = batches(5).batch.ids
    assert torch.equal(pickle.loads(pickle.dumps(batches))(5).batch.ids, expected)


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    rate=st.sampled_from([0.01, 0.15, 0.5]),
    seed=st.integers(0, 100),
)
def test_masking_asks_for_the_share_of_tokens_and_never_for_specials(lengths, rate, seed):
    rng = np.random.Generator(np.random.Philox(seed))
    pieces = [rng.integers(N_SPECIAL, 64, size=n) for n in lengths]
    framed = [np.concatenate([[CLS], ids, [SEP]]).astype(np.uint16) for ids in pieces]
    ids = pack(framed, 16).ids
    masked, targets, labels = mask_tokens(ids, rate, 64, generator(seed))
    assert len(targets) == max(1, round(rate * sum(lengths)))
    assert targets.tolist() == sorted(set(targets.tolist()))
    assert (ids[targets] >= N_SPECIAL).all()
    assert torch.equal(labels, ids[targets])
    untouched = torch.ones(len(ids), dtype=torch.bool)
    untouched[targets] = False
    assert torch.equal(masked[untouched], ids[untouched])
    assert set(masked[targets][masked[targets] < N_SPECIAL].tolist()) <= {MASK}


def test_eight_in_ten_targets_are_masked_and_one_in_ten_is_another_piece():
    ids = torch.full((100_000,), 9)
    masked, targets, _ = mask_tokens(ids, 0.15, 1000, generator(0))
    seen = masked[targets]
    n = len(targets)
    for share, count in (
        (0.8, int((seen == MASK).sum())),
        (0.1, int((seen == 9).sum())),
        (0.1, int(((seen != MASK) & (seen != 9)).sum())),
    ):
        assert abs(count - share * n) < 5 * (n * share * (1 - share)) ** 0.5
    random = seen[(seen != MASK) & (seen != 9)]
    assert random.min() < 50
    assert random.max() > 950


def test_where_all_tokens_are_special_none_is_asked_for():
    ids = torch.arange(N_SPECIAL)
    masked, targets, labels = mask_tokens(ids, 0.9, 64, generator(0))
    assert torch.equal(masked, ids)
    assert targets.dtype == labels.dtype == torch.int64
    assert len(targets) == len(labels) == 0


def test_to_measure_all_of_the_same_targets_are_masked():
    ids = torch.arange(1000) % 50 + N_SPECIAL
    expected = mask_tokens(ids, 0.15, 64, generator(0))
    masked, targets, labels = mask_tokens(ids, 0.15, 64, generator(0), hide_all=True)
    assert torch.equal(targets, expected[1])
    assert torch.equal(labels, expected[2])
    assert (masked[targets] == MASK).all()
    assert (masked != ids).sum() == len(targets)


def test_windows_cut_documents_without_gap_or_overlap(make, tiny_shards):
    batches = make()
    for document in range(len(tiny_shards)):
        windows = np.flatnonzero(batches.windows[:, 0] == document)
        parts = [batches.window(int(w)) for w in windows]
        assert max(len(part) for part in parts) <= 64
        np.testing.assert_array_equal(np.concatenate(parts), tiny_shards.document(document))


def test_an_epoch_visits_each_window_once_in_an_order_of_its_own(make):
    batches = make(PretrainDataSettings(max_tokens=66, sequences=3))
    total = len(batches.windows)
    assert total > 200
    every = sorted([CLS, *batches.window(w).tolist(), SEP] for w in range(total))
    seen = [ids for step in range(-(-2 * total // 3)) for ids in sequences(batches(step))]
    assert sorted(seen[:total]) == every
    assert sorted(seen[total : 2 * total]) == every
    assert seen[:total] != seen[total : 2 * total]
    assert len(batches) == -(-total // 3)


def test_a_batch_depends_on_seed_and_step_alone(make):
    first, again = make(seed=4), make(seed=4)
    for step in (0, 1, 900):
        again(step)
    for step in (900, 3):  # as after a restart, out of order
        one, two = first(step), again(step)
        assert torch.equal(one.batch.ids, two.batch.ids)
        assert torch.equal(one.targets, two.targets)
        assert torch.equal(one.labels, two.labels)
    assert not torch.equal(make(seed=5)(3).labels, first(3).labels)
    assert not torch.equal(first(4).labels, first(3).labels)


def test_a_batch_is_of_whole_sequences_with_specials(make):
    batch = make()(0)
    assert len(batch.batch.lengths) == 4
    assert max(batch.batch.lengths) <= 66
    for ids in sequences(batch):
        assert (ids[0], ids[-1]) == (CLS, SEP)
        assert min(ids[1:-1]) >= N_SPECIAL
    assert (batch.batch.ids[~batch.batch.valid] == PAD).all()
    assert batch.follows.tolist() == []
    assert batch.follows.dtype == torch.int64


def test_next_sentence_pairs_follow_in_half_of_the_cases(make):
    batches = make(PretrainDataSettings(max_tokens=65, sequences=8), nsp=True)
    windows = {tuple(batches.window(w).tolist()) for w in range(len(batches.windows))}
    follows = []
    for step in range(40):
        batch = batches(step)
        assert max(batch.batch.lengths) <= 65
        for ids, label in zip(sequences(batch), batch.follows.tolist(), strict=True):
            middle = ids.index(SEP)
            first, second = ids[1:middle], ids[middle + 1 : -1]
            joined = tuple(first + second)
            assert ids.count(SEP) == 2
            if label:
                assert joined in windows
                assert len(first) - len(second) in (0, 1)
            else:
                assert any(w[: len(second)] == tuple(second) for w in windows)
            follows.append(label)
    n = len(follows)
    assert abs(sum(follows) - n / 2) < 4 * (n / 4) ** 0.5
    assert batch.follows.dtype == torch.int64


def test_batches_move_to_a_device_whole(make, tiny_tokenizer):
    masked = make()(0).to("meta")
    places = pack_places(["ACGT"], [np.array([2])], tiny_tokenizer, HeadConfig(), 16)
    labelled = LabelledBatch(places, torch.zeros(1, 1), torch.ones(1)).to("meta")
    tensors = [masked.batch.ids, masked.targets, masked.labels, masked.follows]
    tensors += [labelled.labels, labelled.places.batch.ids, labelled.places.spans]
    assert {x.device.type for x in tensors} == {"meta"}
