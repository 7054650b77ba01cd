import numpy as np
import pytest
import torch

from genobird.tasks.data import ROUND, MixedBatches, PretrainBatches, PretrainDataSettings
from genobird.tasks.pretrain import PretrainConfig


@pytest.fixture
def parts(tiny_shards, tiny_tokenizer):
    """Two corpora: the even and the odd documents of the same shards, with the same contigs."""
    settings = PretrainDataSettings(max_tokens=66, sequences=2)
    return [
        PretrainBatches(
            tiny_shards, settings, vocab_size=tiny_tokenizer.vocab_size, block_size=16,
            chosen=np.arange(first, len(tiny_shards), 2),
        )
        for first in (0, 1)
    ]  # fmt: skip


def places(mixed, count):
    found = [mixed.place(number) for number in range(count)]
    return [(mixed.parts.index(part), place) for part, place in found]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [([3, 1], [750, 250]), ([0.1, 0.2], [333, 667]), ([1e9, 1], [999, 1]), ([2, 2], [500, 500])],
)
def test_of_each_thousand_sequences_a_corpus_gives_its_share(parts, weights, counts):
    found = places(MixedBatches(parts, weights), 2 * ROUND)
    for turn in (found[:ROUND], found[ROUND:]):
        assert [sum(part == i for part, _ in turn) for i in range(2)] == counts


def test_each_corpus_is_visited_in_its_own_order_without_a_gap(parts):
    found = places(MixedBatches(parts, [3, 1]), 2 * ROUND + 17)
    for i in range(2):
        visited = [place for part, place in found if part == i]
        assert visited == list(range(len(visited)))
    turns = [[part for part, _ in found[first : first + ROUND]] for first in (0, ROUND)]
    assert turns[0] != turns[1]


def test_a_mixed_batch_holds_the_sequences_of_its_places(parts):
    mixed = MixedBatches(parts, [1, 1])
    batch = mixed(7)
    starts, lengths = batch.batch.starts.tolist(), batch.batch.lengths
    found = [batch.read[at : at + n].tolist() for at, n in zip(starts, lengths, strict=True)]
    expected = [
        part.sequence(place, None)[0].tolist() for part, place in map(mixed.place, (14, 15))
    ]
    assert found == expected
    assert torch.equal(mixed(7).batch.ids, batch.batch.ids)


def test_one_corpus_alone_is_read_as_ever(parts):
    mixed = MixedBatches(parts[:1], [5])
    for step in (0, 3):
        assert torch.equal(mixed(step).batch.ids, parts[0](step).batch.ids)


def test_shards_are_one_path_or_several_with_weights():
    assert [str(s.path) for s in PretrainConfig(shards="a", tokenizer="t").shards] == ["a"]
    several = [{"path": "a", "weight": 3}, {"path": "b"}]
    found = PretrainConfig(shards=several, tokenizer="t").shards
    assert [(str(s.path), s.weight) for s in found] == [("a", 3), ("b", 1)]
    for wrong in ([], [{"path": "a", "weight": 0}], [{"paths": "a"}]):
        with pytest.raises(ValueError, match="shards"):
            PretrainConfig(shards=wrong, tokenizer="t")
