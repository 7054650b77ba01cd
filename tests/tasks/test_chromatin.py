import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from genobird.datasets import ChromatinDataset
from genobird.draws import generator
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.tasks.data import ChromatinBatches, ChromatinDataSettings
from genobird.tasks.finetune import Finetuning
from genobird.tasks.fit import FitSettings
from genobird.tokenizer import CLS, SEP
from tests.models import tiny_checkpoint

SETTINGS = ChromatinDataSettings(window_bp=2000, margin_bp=400, sequences=3)


@pytest.fixture
def make(chromatin, tiny_tokenizer):
    def make(split="train", settings=SETTINGS, **changes):
        return ChromatinBatches(
            chromatin, split, settings, tokenizer=tiny_tokenizer, head=HeadConfig(), block_size=16,
            **changes,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def bins(tiny_contigs, chromatin_labels):
    """What is known of a bin by its 200 bases, on either strand: contig, number and labels."""
    found = {}
    for contig, labels in chromatin_labels.items():
        for i, row in enumerate(labels):
            text = tiny_contigs[contig][200 * i : 200 * i + 200]
            found[text] = found[reverse_complement(text)] = (contig, i, tuple(row))
    return found


def windows_of(batches, epochs):
    """Every window of some epochs, as training draws them."""
    for epoch in range(epochs):
        for index in range(len(batches.windows)):
            interval, _ = batches.windows[index]
            yield interval, *batches._window(index, generator(0, epoch, index))


def test_labels_come_out_as_they_were_written(chromatin, chromatin_labels):
    for contig, labels in chromatin_labels.items():
        order = np.random.Generator(np.random.Philox(0)).permutation(len(labels))
        np.testing.assert_array_equal(chromatin.labels(contig, order), labels[order])
        usable = chromatin.usable(contig, np.arange(len(labels)))
        np.testing.assert_array_equal(usable, np.arange(len(labels)) % 7 > 0)


@pytest.mark.parametrize("margin", [0, 200, 400])
def test_jitter_and_strand_keep_labels_on_their_bases(make, bins, margin):
    settings = ChromatinDataSettings(window_bp=2000, margin_bp=margin)
    starts, reversed_windows, windows = set(), 0, 0
    for _, sequence, centres, labels in windows_of(make(settings=settings), epochs=4):
        assert len(sequence) == 2000
        numbers = []
        for centre, row in zip(centres.tolist(), labels, strict=True):
            assert centre >= 100
            _, number, expected = bins[sequence[centre - 100 : centre + 100]]
            assert tuple(row) == expected
            numbers.append(number)
        windows += 1
        reversed_windows += bool(np.any(np.diff(centres) < 0))
        starts.add(centres[0] % 200)
    assert abs(reversed_windows / windows - 0.5) < 0.2
    assert (len(starts) > 20) == (margin > 0)  # without a margin there is no room for jitter


def test_bins_and_their_context_never_leave_their_split(make, bins, tiny_contigs):
    for split in ("train", "validation", "test"):
        seen = set()
        for interval, sequence, centres, _ in windows_of(make(split), epochs=3):
            text = tiny_contigs[interval.contig][interval.start : interval.end]
            assert sequence in text or reverse_complement(sequence) in text
            for centre in centres.tolist():
                contig, number, _ = bins[sequence[centre - 100 : centre + 100]]
                assert contig == interval.contig
                assert interval.start <= 200 * number
                assert 200 * number + 200 <= interval.end
                seen.add((contig, number))
        assert len(seen) > 20


def test_bins_have_their_margin_but_for_the_jitter(make):
    for _, sequence, centres, _ in windows_of(make(), epochs=2):
        assert centres.min() - 100 >= 200
        assert centres.max() + 100 <= len(sequence) - 200
    for _, sequence, centres, _ in windows_of(make(augment=False), epochs=1):
        assert centres.min() - 100 >= 400
        assert centres.max() + 100 <= len(sequence) - 400


def test_an_epoch_visits_every_usable_bin_once_but_for_the_ends_of_intervals(make, chromatin):
    batches = make(augment=False)
    visited = [
        (interval.contig, number)
        for interval, start in batches.windows
        for number in batches._bins(start)
        if chromatin.usable(interval.contig, np.array([number]))[0]
    ]
    assert len(visited) == len(set(visited))
    usable = sum(
        chromatin.usable(i.contig, np.arange(-(-i.start // 200), i.end // 200)).sum()
        for i in chromatin.intervals("train")
    )
    assert usable - len(visited) <= 2 * 2000 / 200 * 2
    assert all(number % 7 for _, number in visited)


def test_a_batch_asks_about_the_tokens_of_each_bin(make, bins, tiny_tokenizer):
    strands = set()
    for step in range(3):
        batch = make()(step)
        places = batch.places
        assert places.batch.lengths == tuple(
            int(n) for n in torch.bincount(places.batch.sequence[places.batch.valid])
        )
        for (first, end), row in zip(
            places.spans[:, 0].tolist(), batch.labels.tolist(), strict=True
        ):
            ids = places.batch.ids[first:end].numpy()
            assert not {CLS, SEP} & set(ids.tolist())
            spelt = tiny_tokenizer.decode(ids)
            assert 200 <= len(spelt) < 220
            known = [bins[w] for i in range(len(spelt) - 199) if (w := spelt[i : i + 200]) in bins]
            assert [tuple(map(float, labels)) for _, _, labels in known] == [tuple(row)]
        decoded = tiny_tokenizer.decode(places.batch.ids.numpy())
        strands.add(decoded[:2000])
    assert len(strands) == 3
    assert batch.labels.dtype == torch.float32


def test_both_strands_can_be_left_out(make, tiny_contigs):
    settings = ChromatinDataSettings(window_bp=2000, margin_bp=400, both_strands=False)
    for interval, sequence, _, _ in windows_of(make(settings=settings), epochs=2):
        assert sequence in tiny_contigs[interval.contig]


def test_a_batch_depends_on_seed_and_step_alone(make):
    first, again = make(seed=1), make(seed=1)
    for step in (2, 0, 40):
        again(step)
    one, two = first(40), again(40)
    assert torch.equal(one.places.batch.ids, two.places.batch.ids)
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(make(seed=2)(40).places.batch.ids, one.places.batch.ids)
    assert torch.equal(pickle.loads(pickle.dumps(first))(40).labels, one.labels)


def test_validation_reads_each_window_once_in_order(make, chromatin):
    settings = SETTINGS.model_copy(update={"sequences": 4})
    batches = make("validation", settings, augment=False)
    labels = torch.cat([batches(step).labels for step in range(len(batches))])
    expected = [
        chromatin.labels(interval.contig, numbers[chromatin.usable(interval.contig, numbers)])
        for interval, start in batches.windows
        for numbers in [batches._bins(start)]
    ]
    assert len(batches.windows) % 4  # the last batch is not full
    np.testing.assert_array_equal(labels.numpy(), np.concatenate(expected))


def test_an_epoch_of_training_visits_each_window_once(make):
    batches = make()
    visits = [
        int(batches._order(place // len(batches.windows))[place % len(batches.windows)])
        for place in range(2 * len(batches.windows))
    ]
    half = len(batches.windows)
    assert sorted(visits[:half]) == sorted(visits[half:]) == list(range(half))
    assert visits[:half] != visits[half:]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window_bp": 2100}, "multiples of the bin, 200 bp"),
        ({"window_bp": 2000, "margin_bp": 1000}, "2000 bp has no bin inside its margins"),
        ({"window": 3}, "Extra inputs"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        ChromatinDataSettings.model_validate(values)


def test_a_split_without_a_whole_window_is_refused(make):
    settings = ChromatinDataSettings(window_bp=10_000, margin_bp=0)
    with pytest.raises(InputError, match="validation has no window of 10000 bp with a usable bin"):
        make("validation", settings)


def test_an_unknown_split_is_misuse(chromatin):
    with pytest.raises(UsageError, match="split 'dev' is not one of train, validation, test"):
        chromatin.intervals("dev")


def test_what_is_no_dataset_is_refused(tmp_path, chromatin_path):
    with pytest.raises(UsageError, match=r"is no chromatin dataset: it has no index\.json"):
        ChromatinDataset(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"bin_bp": 200, "splits": {}}))
    (tmp_path / "features.tsv").write_bytes((chromatin_path / "features.tsv").read_bytes())
    (tmp_path / "chr1.labels.npy").write_bytes(b"no array")
    dataset = ChromatinDataset(tmp_path)
    for read in (lambda: dataset.length("chr1"), lambda: dataset.labels("chr1", np.array([0]))):
        with pytest.raises(InputError, match=r"chr1\.\w+\.npy cannot be read; build the dataset"):
            read()


def test_every_second_window_hides_tokens_and_keeps_its_labels(make):
    four = SETTINGS.model_copy(update={"sequences": 4})
    plain = make(settings=four)
    hidden = make(settings=four.model_copy(update={"mask_rate": 0.2}))
    for step in range(3):
        whole, masked = plain(step), hidden(step)
        torch.testing.assert_close(masked.labels, whole.labels)
        batch = masked.places.batch
        touched = batch.ids != whole.places.batch.ids
        assert set(batch.sequence[masked.targets].tolist()) == {step % 2, step % 2 + 2}
        assert touched.any()
        assert set(torch.nonzero(touched)[:, 0].tolist()) <= set(masked.targets.tolist())
        torch.testing.assert_close(whole.places.batch.ids[masked.targets], masked.pieces)


def test_of_single_windows_every_second_one_hides_nothing(make):
    batches = make(settings=SETTINGS.model_copy(update={"mask_rate": 0.2, "sequences": 1}))
    assert [len(batches(step).targets) > 0 for step in range(4)] == [True, False, True, False]


def test_validation_hides_nothing(make):
    settings = SETTINGS.model_copy(update={"mask_rate": 0.2})
    batch = make("validation", settings, augment=False)(0)
    assert not len(batch.targets)


def test_poor_windows_are_visited_in_turn_and_count_as_much_more(chromatin_path, tiny_tokenizer):
    dataset = ChromatinDataset(chromatin_path)
    settings = SETTINGS.model_copy(update={"poor_share": 0.5, "sequences": 1})
    batches = ChromatinBatches(
        dataset, "train", settings, tokenizer=tiny_tokenizer, head=HeadConfig(), block_size=16
    )
    positives = [
        int(dataset.labels(i.contig, bins[dataset.usable(i.contig, bins)]).sum())
        for i, start in batches.windows
        for bins in [np.arange(-(-(start + 400) // 200), (start + 1600) // 200)]
    ]
    mean = sum(positives) / len(positives)
    assert batches.poor.tolist() == [number < mean for number in positives]
    poor, rich = set(np.flatnonzero(batches.poor)), set(np.flatnonzero(~batches.poor))
    assert batches.visits == len(rich) + -(-len(poor) // 2) == len(batches)
    visited = [batches._order(epoch).tolist() for epoch in range(8)]
    for order in visited:
        assert len(order) == len(set(order)) == batches.visits
        assert rich <= set(order)
    assert set().union(*visited) == rich | poor
    kept, share = batches.visits - len(rich), batches.visits / len(batches.windows)
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    checkpoint.chromatin = Head(HeadConfig(outputs=len(dataset.features), hidden=8), 32)
    task = Finetuning(checkpoint, FitSettings(steps=1, warmup_steps=1), "chromatin").eval()
    weights = []
    for step in range(batches.visits):
        batch = batches(step)
        plain = task.model_step(replace(batch, weights=torch.ones(len(batch.weights))))["loss"]
        more = len(poor) / kept if visited[0][step] in poor else 1.0
        # In a batch of one window, a share of the batch's own weights would be nothing.
        torch.testing.assert_close(task.model_step(batch)["loss"], share * more * plain)
        weights.append(share * more)
    assert sum(weights) / batches.visits == pytest.approx(1)


def test_validation_visits_poor_windows_too(make):
    settings = SETTINGS.model_copy(update={"poor_share": 0.1})
    batches = make("validation", settings, augment=False)
    assert batches.visits == len(batches.windows)
    assert set(batches(0).weights.tolist()) == {1.0}


def test_auxiliary_labels_stand_behind_the_others(chromatin, auxiliary_path, make):
    both = make(auxiliary=ChromatinDataset(auxiliary_path))
    for step in range(3):
        plain, more = make()(step).labels, both(step).labels
        torch.testing.assert_close(more, torch.cat([plain, 1 - plain[:, :2]], dim=1))


def test_auxiliary_labels_of_other_bins_are_refused(auxiliary_path, make, tmp_path):
    shutil.copytree(auxiliary_path, tmp_path / "other")
    index = json.loads((tmp_path / "other" / "index.json").read_text())
    index["splits"]["train"][0][2] -= 200
    (tmp_path / "other" / "index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"has other splits than .*build both from one genome"):
        make(auxiliary=ChromatinDataset(tmp_path / "other"))
