import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from genobird.datasets import UPSTREAM_BP, read_promoters
from genobird.errors import TableError, UsageError
from genobird.heads import HeadConfig
from genobird.tasks.data import PromoterBatches, PromoterDataSettings

HEAD = HeadConfig(before_bp=300, after_bp=200)


@pytest.fixture
def make(promoter_path, tiny_tokenizer):
    def make(split="train", sequences=4, **changes):
        return PromoterBatches(
            read_promoters(promoter_path, split), PromoterDataSettings(sequences=sequences),
            tokenizer=tiny_tokenizer, head=HEAD, block_size=16, **changes,
        )  # fmt: skip

    return make


def texts(batch, tokenizer):
    """The bases of each sequence of a batch, and those of its place."""
    places = batch.places
    for s, (first, end) in enumerate(places.spans[:, 0].tolist()):
        whole = tokenizer.decode(places.batch.ids[places.batch.sequence == s].numpy())
        yield whole, tokenizer.decode(places.batch.ids[first:end].numpy())


def test_labels_and_starts_stay_on_their_sequence_when_first_bases_are_left_out(
    make, tiny_tokenizer
):
    batches = make()
    by_end = {row.sequence[-200:]: row for row in batches.table.itertuples()}
    shifts = set()
    for step in range(5):
        batch = batches(step)
        assert batch.places.owner.tolist() == [0, 1, 2, 3]
        assert batch.labels.shape == (4, 1)
        found = texts(batch, tiny_tokenizer)
        for (whole, place), label in zip(found, batch.labels[:, 0].tolist(), strict=True):
            row = by_end[whole[-200:]]
            assert row.label == label
            assert row.sequence.endswith(whole)
            wanted = row.sequence[UPSTREAM_BP - 300 : UPSTREAM_BP + 200]
            assert wanted in place
            assert len(place) < len(wanted) + 2 * int(tiny_tokenizer.lengths.max())
            shifts.add(len(row.sequence) - len(whole))
    assert shifts <= set(range(16))
    assert len(shifts) > 5


def test_an_epoch_visits_every_window_once(make, tiny_tokenizer):
    batches = make(sequences=5)
    assert len(batches) == 2
    ends = [whole[-50:] for step in (0, 1) for whole, _ in texts(batches(step), tiny_tokenizer)]
    assert sorted(ends) == sorted(batches.table["sequence"].str[-50:])


def test_validation_reads_whole_windows_once_in_order(make, tiny_tokenizer):
    batches = make("validation", sequences=3, augment=False)
    assert len(batches) == 2
    seen = [whole for step in (0, 1) for whole, _ in texts(batches(step), tiny_tokenizer)]
    assert seen == batches.table["sequence"].tolist()
    labels = np.concatenate([batches(step).labels[:, 0].numpy() for step in (0, 1)])
    assert labels.tolist() == batches.table["label"].tolist()


def test_a_batch_depends_on_seed_and_step_alone(make):
    first, again = make(seed=1), make(seed=1)
    again(0)
    one, two = first(7), again(7)
    assert torch.equal(one.places.batch.ids, two.places.batch.ids)
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(make(seed=2)(7).places.batch.ids, one.places.batch.ids)
    assert torch.equal(pickle.loads(pickle.dumps(first))(7).labels, one.labels)


def test_a_split_is_read_alone(promoter_path):
    table = read_promoters(promoter_path, "validation")
    assert set(table["split"]) == {"validation"}
    assert table["name"].tolist() == ["window10", "window11", "window12", "window13"]


def test_what_is_no_table_of_promoters_is_refused(promoter_path, tmp_path):
    with pytest.raises(UsageError, match="there is no promoter table"):
        read_promoters(tmp_path / "none.parquet", "train")
    with pytest.raises(UsageError, match="no window of split 'test'; it has train, validation"):
        read_promoters(promoter_path, "test")
    table = pd.read_parquet(promoter_path).drop(columns=["group", "label"])
    table.to_parquet(tmp_path / "less.parquet")
    with pytest.raises(TableError, match="lacks the columns label, group"):
        read_promoters(tmp_path / "less.parquet", "train")
