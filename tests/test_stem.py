import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genobird.batch import add_specials, pack
from genobird.model import BigBird
from genobird.stem import MASK_BASES
from genobird.tokenizer import MASK, N_SPECIAL, PAD, SEP
from tests.models import random_ids, tiny_config, tiny_encoder


@pytest.fixture
def stem(tiny_tokenizer):
    """A tower whose norms have seen something."""
    made = tiny_encoder(tiny_tokenizer, stem="tower", stem_blocks=2).stem
    generator = torch.Generator().manual_seed(1)
    for name, buffer in made.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return made


def length_of(tokenizer, piece):
    return MASK_BASES if piece == MASK else len(tokenizer.decode([piece]))


def cells_of(stem, bases):
    """The cells of one sequence that stands in nothing but itself, [L, C]; written with Conv1d."""
    count = -(-len(bases) // stem.pool)
    x = torch.zeros(5, count * stem.pool)
    for place, base in enumerate(bases):
        x["ACGTN".index(base), place] = 1
    y = F.conv1d(x[None], stem.first.weight[:, :, 0], stem.first.bias, padding="same")
    y = F.gelu(stem.first_norm(F.max_pool1d(y, stem.pool)[0].T))
    for block in stem.blocks:
        dilation = block.conv.dilation[1]
        seen = F.conv1d(
            block.norm(y).T[None], block.conv.weight[:, :, 0], block.conv.bias, padding="same",
            dilation=dilation,
        )[0].T  # fmt: skip
        y = y + block.out(F.gelu(seen))
    return stem.norm(y)


def naive_tower(stem, tokenizer, ids):
    bases = "".join("N" * MASK_BASES if i == MASK else tokenizer.decode([i]) for i in ids)
    cells = cells_of(stem, bases)
    read, first = [], 0
    for i in ids:
        length = length_of(tokenizer, i)
        last = first + length - 1
        places = [first, (first + last) // 2, last]
        empty = torch.zeros(3 * cells.shape[1])
        read.append(torch.cat([cells[p // stem.pool] for p in places]) if length else empty)
        first += length
    return stem.out(torch.stack(read))


def test_a_token_reads_the_cells_of_its_first_middle_and_last_base(stem, tiny_tokenizer):
    ids = random_ids(tiny_tokenizer, 50, seed=1)
    ids[[5, 6, 20]] = MASK
    batch = pack([random_ids(tiny_tokenizer, 9, seed=2), ids], 16)
    with torch.no_grad():
        expected = naive_tower(stem, tiny_tokenizer, ids.tolist())
        torch.testing.assert_close(stem(batch)[16 : 16 + 50], expected, rtol=1e-5, atol=1e-5)


def test_a_sequence_sees_nothing_of_its_neighbours(stem, tiny_tokenizer):
    sequences = [random_ids(tiny_tokenizer, n, seed=n) for n in (37, 2, 90)]
    with torch.no_grad():
        for order in ([0, 1, 2], [2, 0, 1]):
            batch = pack([sequences[s] for s in order], 16)
            together = stem(batch)
            for place, s in enumerate(order):
                first = int(batch.starts[place])
                alone = stem(pack([sequences[s]], 16))[: len(sequences[s])]
                found = together[first : first + len(sequences[s])]
                torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_a_masked_token_is_six_unknown_bases_whatever_it_hides(stem, tiny_tokenizer):
    lengths = tiny_tokenizer.lengths
    short, long = int(np.flatnonzero(lengths == 1)[0]), int(lengths.argmax())
    seen = []
    for piece in (short, long):
        ids = random_ids(tiny_tokenizer, 30, seed=3)
        ids[10] = piece
        batch = pack([ids], 16)
        hidden = batch.ids.clone()
        hidden[10] = MASK
        with torch.no_grad():
            seen.append((stem(batch), stem(batch.with_ids(hidden))))
    assert not torch.allclose(seen[0][0], seen[1][0])
    torch.testing.assert_close(seen[0][1], seen[1][1], rtol=0, atol=0)


def test_specials_have_no_bases_and_leave_their_neighbours_together(stem, tiny_tokenizer):
    assert stem.lengths[[PAD, SEP]].tolist() == [0, 0]
    ids = random_ids(tiny_tokenizer, 40, seed=4)
    parted = np.insert(ids, 12, SEP)
    with torch.no_grad():
        whole, split = stem(pack([ids], 16)), stem(pack([parted], 16))
    torch.testing.assert_close(split[:12], whole[:12], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split[13:41], whole[12:40], rtol=1e-5, atol=1e-5)


def test_a_single_base_inside_a_token_is_seen_and_not_beyond_the_gap(stem, tiny_tokenizer):
    pieces = {tiny_tokenizer.decode([i]): i for i in range(N_SPECIAL, tiny_tokenizer.vocab_size)}
    single = [pieces[base] for base in "ACGT"]
    rng = np.random.Generator(np.random.Philox(0))
    text = rng.choice(single, size=600).astype(np.uint16)
    changed = text.copy()
    changed[300] = single[(single.index(text[300]) + 1) % 4]
    with torch.no_grad():
        first, second = (stem(pack([add_specials(t)], 16)) for t in (text, changed))
    moved = (first - second).abs().amax(1)[1:601]
    assert moved[300] > 1e-3
    reach = stem.gap + stem.pool
    assert moved[: 300 - reach].max() == 0 == moved[300 + reach + 1 :].max()


def test_gradients_reach_every_weight(tiny_tokenizer):
    torch.manual_seed(0)
    config = tiny_config(tiny_tokenizer, stem="tower", stem_blocks=2, layers=0)
    encoder = BigBird(config, tiny_tokenizer.bases).train()
    batch = pack([random_ids(tiny_tokenizer, 80, seed=5)], 16)
    (encoder(batch) * torch.randn(len(batch.ids), config.width)).sum().backward()
    for name, parameter in encoder.stem.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_stem_wants_the_bases_of_its_vocabulary(tiny_tokenizer):
    config = tiny_config(tiny_tokenizer, stem="tower")
    with pytest.raises(ValueError, match="stem 'tower' wants the bases of 64 pieces, got none"):
        BigBird(config)
