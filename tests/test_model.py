import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from genobird.batch import add_specials, pack
from genobird.errors import InputError
from genobird.model import PRESETS, BigBird, BigBirdConfig, MaskedLMHead, rotate
from genobird.tokenizer import N_SPECIAL
from tests.assertions import assert_close
from tests.models import random_ids, tiny_config, tiny_encoder

SHAPES = [
    {},
    {"stem": "none"},
    {"norm": "post", "position": "absolute", "max_tokens": 256},
    {"pattern": "window", "heads": 4},
    {"pattern": "google"},
    {"global_tokens": "extra"},
    {"global_tokens": "extra", "global_blocks": 1, "pattern": "longformer", "position": "absolute"},
]
LENGTHS = [37, 200, 2, 64]
BUNDLED = {"layers": 2, "stem_width": 256, "stem_kernel": 17, "stem_blocks": 4}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hidden_states_do_not_depend_on_the_neighbours_in_the_batch(tiny_tokenizer, shape):
    encoder = tiny_encoder(tiny_tokenizer, **shape)
    sequences = [random_ids(tiny_tokenizer, n, seed=n) for n in LENGTHS]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        batch = pack([sequences[s] for s in order], 16)
        with torch.no_grad():
            together = encoder(batch)
            for place, s in enumerate(order):
                first = int(batch.starts[place])
                alone = encoder(pack([sequences[s]], 16))[: LENGTHS[s]]
                torch.testing.assert_close(
                    together[first : first + LENGTHS[s]], alone, rtol=1e-5, atol=1e-5
                )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hidden_states_do_not_depend_on_the_ids_of_the_fill(tiny_tokenizer, shape):
    encoder = tiny_encoder(tiny_tokenizer, **shape)
    batch = pack([random_ids(tiny_tokenizer, n, seed=n) for n in LENGTHS], 16)
    fill = torch.full_like(batch.ids, tiny_tokenizer.vocab_size - 1)
    with torch.no_grad():
        expected = encoder(batch)[batch.valid]
        actual = encoder(batch.with_ids(torch.where(batch.valid, batch.ids, fill)))[batch.valid]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_fast_attention_gives_the_hidden_states_of_the_reference(tiny_tokenizer, shape):
    encoder = tiny_encoder(tiny_tokenizer, **shape)
    batch = pack([random_ids(tiny_tokenizer, n, seed=n) for n in LENGTHS], 16)
    with torch.no_grad():
        expected = encoder(batch, backend="reference")
        assert_close("hidden", encoder(batch), expected, torch.float32)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_with_full_attention_it_is_the_textbook_encoder(tiny_tokenizer, norm):
    encoder = tiny_encoder(
        tiny_tokenizer, norm=norm, pattern="full", position="absolute", stem="none", max_tokens=128
    )
    shape = encoder.config
    layer = nn.TransformerEncoderLayer(
        shape.width, shape.heads, shape.mlp_width, 0.0, F.gelu, norm_first=norm == "pre"
    )
    oracle = nn.TransformerEncoder(
        layer, shape.layers, nn.LayerNorm(shape.width), enable_nested_tensor=False
    )
    for ours, theirs in zip(encoder.blocks, oracle.layers, strict=True):
        theirs.self_attn.in_proj_weight = ours.attention.qkv.weight
        theirs.self_attn.in_proj_bias = ours.attention.qkv.bias
        theirs.self_attn.out_proj = ours.attention.out
        theirs.linear1, theirs.linear2 = ours.mlp[0], ours.mlp[2]
        theirs.norm1, theirs.norm2 = ours.attention_norm, ours.mlp_norm
    oracle.norm = encoder.norm
    ids = random_ids(tiny_tokenizer, 100, seed=0)
    x = encoder.embedding(torch.from_numpy(ids.astype(np.int64))) + encoder.position.weight[:100]
    with torch.no_grad():
        assert_close("hidden", encoder(pack([ids], 16))[:100], oracle.eval()(x), torch.float32)


def test_layers_that_are_appended_change_nothing_until_they_are_trained(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer, layers=1)
    batch = pack([random_ids(tiny_tokenizer, 60, seed=0)], 16)
    with torch.no_grad():
        before = encoder(batch)
        encoder.deepen(2)
        torch.testing.assert_close(encoder(batch), before, rtol=0, atol=0)
    assert encoder.config.layers == len(encoder.blocks) == 3
    encoder(batch).square().sum().backward()
    assert encoder.blocks[-1].attention.out.weight.grad.abs().sum() > 0


def test_an_encoder_with_norms_behind_cannot_be_deepened(tiny_tokenizer):
    with pytest.raises(ValueError, match="only an encoder with norm = 'pre'"):
        tiny_encoder(tiny_tokenizer, norm="post").deepen(1)


def test_without_stem_tokens_enter_as_their_embedding(tiny_tokenizer):
    # A layer whose two outputs are zero adds nothing, so the embedding is all that is left.
    encoder = tiny_encoder(tiny_tokenizer, stem="none")
    for block in encoder.blocks:
        for linear in (block.attention.out, block.mlp[2]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    batch = pack([random_ids(tiny_tokenizer, 40, seed=0)], 16)
    assert encoder.stem is None
    torch.testing.assert_close(encoder(batch), encoder.norm(encoder.embedding(batch.ids)))


def test_rope_scores_depend_on_the_distance_alone(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer)
    q, k = torch.randn(2, 5, 2, 16, generator=torch.Generator().manual_seed(0)).double()
    places = torch.tensor([0, 3, 4, 60, 200])

    def scores(shift):
        rope = [x.double() for x in encoder._rope(places + shift)]
        return torch.einsum("qhd,khd->hqk", rotate(q, *rope), rotate(k, *rope))

    torch.testing.assert_close(scores(0), scores(1000), rtol=0, atol=1e-3)
    plain = torch.einsum("qhd,khd->hqk", q, k)
    torch.testing.assert_close(scores(0).diagonal(0, 1, 2), plain.diagonal(0, 1, 2))
    assert (scores(0) - plain).abs().max() > 0.1


def test_a_sequence_beyond_the_learned_positions_is_refused(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer, position="absolute", max_tokens=64)
    encoder(pack([random_ids(tiny_tokenizer, 64, seed=0)], 16))
    with pytest.raises(InputError, match="65 tokens is longer than max_tokens 64; cut it, or use"):
        encoder(pack([random_ids(tiny_tokenizer, 65, seed=0)], 16))


def test_mlm_logits_exist_only_at_the_targets(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer)
    head = MaskedLMHead(encoder.config)
    hidden = encoder(pack([random_ids(tiny_tokenizer, 40, seed=0)], 16))
    targets = torch.tensor([3, 17, 18])
    logits = head(hidden[targets], encoder.embedding.weight)
    assert logits.shape == (3, tiny_tokenizer.vocab_size)
    every = head(hidden, encoder.embedding.weight)
    torch.testing.assert_close(logits, every[targets])
    by_hand = head.norm(F.gelu(head.dense(hidden[3]))) @ encoder.embedding.weight.T + head.bias
    torch.testing.assert_close(logits[0], by_hand)


def test_the_tied_decoder_trains_the_embedding(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer)
    head = MaskedLMHead(encoder.config)
    absent = tiny_tokenizer.vocab_size - 1
    ids = add_specials(np.full(20, N_SPECIAL, np.uint16))
    hidden = encoder(pack([ids], 16))
    F.cross_entropy(head(hidden[[4]], encoder.embedding.weight), torch.tensor([absent])).backward()
    gradient = encoder.embedding.weight.grad
    assert gradient[absent].abs().max() > 0  # only the decoder reads this row
    assert gradient[N_SPECIAL].abs().max() > 0
    assert not any("decoder" in name for name, _ in head.named_parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 64}, "widht\n.*Extra inputs are not permitted"),
        ({"pattern": "bigbrid"}, "'bigbird', 'full', 'google', 'longformer'"),
        ({"norm": "none"}, "'pre', 'post' or 'bert'"),
        ({"width": 100, "heads": 12}, "width 100 is not a multiple of heads 12"),
        ({"width": 36, "heads": 12, "position": "rope"}, "even head width, not 3"),
        ({"stem_kernel": 14}, "stem_kernel is 14; it must be odd"),
        ({"window_blocks": 2}, "window_blocks is 2; it must be odd"),
        ({"pattern": "google", "window_blocks": 5}, "has global_blocks 2 and window_blocks 3"),
        ({"pattern": "full", "global_tokens": "extra"}, "wants pattern bigbird or longformer"),
        ({"global_blocks": 0, "global_tokens": "extra"}, "wants global_blocks of 1 or more"),
        ({"vocab_size": 70_000}, "less than or equal to 65535"),
        ({"dropout": 1.0}, "less than 1"),
    ],
    ids=lambda x: "" if isinstance(x, str) else "-".join(x),
)
def test_a_shape_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        BigBirdConfig.model_validate(values)


def test_a_shape_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        BigBirdConfig().width = 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_built(preset, tiny_tokenizer):
    config = BigBirdConfig.model_validate(PRESETS[preset])
    bases = np.resize(tiny_tokenizer.bases, (config.vocab_size, 16))
    with torch.device("meta"):
        encoder = BigBird(config, bases)
    assert len(encoder.blocks) == config.layers


def test_the_base_preset_has_the_size_of_bert_base():
    with torch.device("meta"):
        encoder, head = BigBird(BigBirdConfig()), MaskedLMHead(BigBirdConfig())
    layer = 4 * 768 * (768 + 1) + 768 * 3072 * 2 + 3072 + 768 + 4 * 768
    assert count(encoder) == (32_000 + 4096) * 768 + 12 * layer + 2 * 768
    assert 110e6 < count(encoder) + count(head) < 115e6


def test_the_bundled_shape_stays_under_6_2_million_parameters(tiny_tokenizer):
    config = BigBirdConfig.model_validate({**PRESETS["mini"], **BUNDLED})
    bases = np.resize(tiny_tokenizer.bases, (4096, 12))
    with torch.device("meta"):
        parameters = count(BigBird(config, bases)) + count(MaskedLMHead(config))
    assert parameters < 6.2e6
    assert 2 * parameters < 25e6  # float16 on disk


def test_a_model_depends_on_the_seed_alone(tiny_tokenizer):
    first, again = (tiny_encoder(tiny_tokenizer, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_initial_weights_are_those_of_the_released_code(tiny_tokenizer):
    torch.manual_seed(0)
    encoder = BigBird(tiny_config(tiny_tokenizer, width=128, layers=8), tiny_tokenizer.bases)
    block = encoder.blocks[3]
    assert encoder.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.mlp[2].weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert not block.attention.qkv.bias.any()


def test_dropout_acts_in_training_only(tiny_tokenizer):
    encoder = tiny_encoder(tiny_tokenizer, dropout=0.5)
    batch = pack([random_ids(tiny_tokenizer, 40, seed=0)], 16)
    torch.testing.assert_close(encoder(batch), encoder(batch))
    encoder.train()
    assert not torch.allclose(encoder(batch), encoder(batch))
