import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.batch import add_specials, pack
from genobird.heads import HeadConfig
from genobird.places import pack_places
from genobird.tokenizer import CLS, SEP
from tests.conftest import random_dna


@settings(max_examples=30)
@given(data=st.data())
def test_the_tokens_of_a_place_spell_the_bases_around_it(data, tiny_tokenizer):
    lengths = data.draw(st.lists(st.integers(1, 600), min_size=1, max_size=3))
    before, after = data.draw(st.integers(0, 120)), data.draw(st.integers(1, 120))
    sequences = [random_dna(n, seed=i) for i, n in enumerate(lengths)]
    at = [
        np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4)), np.int64)
        for n in lengths
    ]
    head = HeadConfig(before_bp=before, after_bp=after)
    places = pack_places(sequences, at, tiny_tokenizer, head, block_size=16)

    assert places.owner.tolist() == [s for s, found in enumerate(at) for _ in found]
    longest = int(tiny_tokenizer.lengths.max())
    for (first, end), s, place in zip(
        places.spans[:, 0].tolist(), places.owner.tolist(), np.concatenate(at), strict=True
    ):
        wanted = sequences[s][max(0, place - before) : place + after]
        spelt = tiny_tokenizer.decode(places.batch.ids[first:end].numpy())
        assert wanted in spelt
        assert len(spelt) <= len(wanted) + 2 * (longest - 1)
        assert (places.batch.sequence[first:end] == s).all()
        assert not set(places.batch.ids[first:end].tolist()) & {CLS, SEP}


def test_places_are_packed_as_training_packs_them(tiny_tokenizer):
    sequences = [random_dna(300, seed=1), random_dna(77, seed=2)]
    places = pack_places(
        sequences, [np.array([150]), np.array([3])], tiny_tokenizer, HeadConfig(), 16
    )
    expected = pack([add_specials(tiny_tokenizer.encode(text).ids) for text in sequences], 16)
    assert torch.equal(places.batch.ids, expected.ids)
    assert places.batch.lengths == expected.lengths


def test_places_follow_their_batch_to_a_device(tiny_tokenizer):
    places = pack_places(["ACGTACGT"], [np.array([4])], tiny_tokenizer, HeadConfig(), 16)
    moved = places.to("meta")
    assert {x.device.type for x in (moved.batch.ids, moved.spans, moved.owner)} == {"meta"}


def test_a_sequence_without_its_places_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="zip"):
        pack_places(["ACGT", "ACGT"], [np.array([1])], tiny_tokenizer, HeadConfig(), 16)
