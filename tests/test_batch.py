import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genobird.batch import add_specials, pack
from genobird.tokenizer import CLS, N_SPECIAL, PAD, SEP


@given(st.lists(st.integers(1, 70), min_size=1, max_size=6), st.sampled_from([1, 4, 16, 64]))
def test_a_packed_batch_holds_each_sequence_in_whole_blocks_and_pad_only_after_it(lengths, block):
    rng = np.random.Generator(np.random.Philox(sum(lengths)))
    sequences = [rng.integers(N_SPECIAL, 4096, size=n).astype(np.uint16) for n in lengths]
    batch = pack(sequences, block)

    assert batch.lengths == tuple(lengths)
    assert batch.ids.dtype == torch.int64
    first = 0
    for s, ids in enumerate(sequences):
        end = first + -(-len(ids) // block) * block
        assert int(batch.starts[s]) == first
        assert batch.ids[first : first + len(ids)].tolist() == ids.tolist()
        assert (batch.ids[first + len(ids) : end] == PAD).all()
        assert (batch.sequence[first:end] == s).all()
        assert batch.positions[first:end].tolist() == list(range(end - first))
        assert batch.valid[first:end].tolist() == [i < len(ids) for i in range(end - first)]
        first = end
    assert len(batch.ids) == first


def test_specials_frame_one_segment_or_two():
    a, b = np.array([7, 8], np.uint16), np.array([9], np.uint16)
    assert add_specials(a).tolist() == [CLS, 7, 8, SEP]
    assert add_specials(a, b).tolist() == [CLS, 7, 8, SEP, 9, SEP]
    assert add_specials(a).dtype == np.uint16


def test_other_ids_keep_the_shape_of_a_batch():
    batch = pack([np.array([5, 6, 7], np.uint16)], 4)
    other = batch.with_ids(batch.ids + 1)
    assert other.ids.tolist() == [6, 7, 8, 1]
    assert (other.lengths, other.block_size) == (batch.lengths, batch.block_size)
    assert other.positions.tolist() == batch.positions.tolist()


@pytest.mark.parametrize("sequences", [[], [np.array([5], np.uint16), np.array([], np.uint16)]])
def test_a_batch_without_tokens_is_refused(sequences):
    with pytest.raises(ValueError, match="at least one sequence, and each sequence a token"):
        pack(sequences, 16)
