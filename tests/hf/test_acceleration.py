"""Accelerated models of transformers, against transformers itself."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from genobird.errors import UsageError
from tests.assertions import assert_close

transformers = pytest.importorskip("transformers")

from genobird.hf import accelerate, restore  # noqa: E402

LONGEST = 9_024
CHECKPOINTING = "activation_checkpointing_enable"
TINY = {
    "vocab_size": 70, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "block_size": 16, "num_random_blocks": 2,
    "max_position_embeddings": LONGEST, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BASE = {**TINY, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
BASE |= {"block_size": 64, "num_random_blocks": 3}
PEGASUS = {
    "vocab_size": 70, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "block_size": 16, "num_random_blocks": 2,
    "max_position_embeddings": 1024, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _numpy_state():
    """Theirs seeds numpy's global generator."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def bigbird(head="BigBirdForMaskedLM", **changes):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, head)(transformers.BigBirdConfig(**{**TINY, **changes}))


def pegasus(head="BigBirdPegasusForConditionalGeneration", **changes):
    torch.manual_seed(0)
    return getattr(transformers, head)(transformers.BigBirdPegasusConfig(**{**PEGASUS, **changes}))


def batch(length, padding, sequences=2):
    """Ids, and a mask of one kind; `None` is no mask."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, 66, (sequences, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding is None:
        return ids, None
    if padding == "right":
        mask[1, max(1, length // 3) :] = 0
    elif padding == "left":
        mask[0, : length // 4] = 0
    elif padding == "holes":
        mask[1, length // 2 : length // 2 + 9] = 0
    elif padding == "nothing seen":
        mask[1] = 0
    return ids, mask


def both(model, ids, mask, **inputs):
    """Outputs and gradients of the first tensor that comes out, theirs and ours."""
    found = []
    for one in (model, accelerate(copy.deepcopy(model))):
        out = next(
            value for value in one(ids, attention_mask=mask, **inputs).to_tuple()
            if value.is_floating_point()
        )  # fmt: skip
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        if mask is not None and out.dim() > 1 and out.shape[1] == mask.shape[1]:
            weight = weight * mask.view(*mask.shape, *[1] * (out.dim() - 2))
        (out * weight).sum().backward()
        # Keys have no use for their bias: its gradient is rounding alone.
        gradients = [
            part.grad.flatten()
            for name, part in one.named_parameters()
            if part.grad is not None and not name.endswith("key.bias")
        ]
        found.append((out * (weight != 0), torch.cat(gradients)))
    return found


def assert_same(model, ids, mask, **inputs):
    (their_out, their_grad), (our_out, our_grad) = both(model, ids, mask, **inputs)
    assert_close("o", our_out, their_out, torch.float32)
    assert_close("dx", our_grad, their_grad, torch.float32, gradient=True)


@pytest.mark.parametrize("padding", [None, "right", "left", "holes", "nothing seen"])
@pytest.mark.parametrize("length", [1, 144, 145, 500])
def test_a_tiny_model_equals_transformers_in_train_mode(length, padding):
    assert_same(bigbird().train(), *batch(length, padding))


@pytest.mark.parametrize("length", [1024, 2048, 4090, 9_000])
def test_long_batches_take_the_same_random_blocks(length):
    assert_same(bigbird(num_hidden_layers=1).train(), *batch(length, "right"))


@pytest.mark.slow
@pytest.mark.parametrize(("length", "padding"), [(300, "right"), (1024, "right"), (1100, "left")])
def test_a_layer_of_the_base_model_equals_transformers(length, padding):
    model = bigbird(**{**BASE, "num_hidden_layers": 1, "max_position_embeddings": 4096})
    assert_same(model.train(), *batch(length, padding))


@pytest.mark.parametrize("length", [60, 500])
@pytest.mark.parametrize("padding", [None, "left"])
def test_full_attention_stays_full_and_equals_transformers(length, padding):
    assert_same(bigbird(attention_type="original_full"), *batch(length, padding))


@pytest.mark.parametrize("blocks", ["trained", "evaluation"])
def test_evaluation_takes_the_blocks_of_choice(blocks):
    ids, mask = batch(500, "right")
    model = bigbird().eval()
    with torch.no_grad():
        theirs = model.train(blocks == "trained")(ids, attention_mask=mask).logits
        ours = accelerate(model.eval(), blocks)(ids, attention_mask=mask).logits
    assert_close("o", ours[mask != 0], theirs[mask != 0], torch.float32)


@pytest.mark.parametrize(
    ("head", "inputs"),
    [
        ("BigBirdModel", {}),
        ("BigBirdForPreTraining", {}),
        ("BigBirdForQuestionAnswering", {}),
        ("BigBirdForSequenceClassification", {}),
        ("BigBirdForTokenClassification", {}),
    ],
)
def test_every_head_is_taken(head, inputs):
    assert_same(bigbird(head, num_hidden_layers=1).train(), *batch(200, "right"), **inputs)


def test_multiple_choice_is_taken():
    model = bigbird("BigBirdForMultipleChoice", num_hidden_layers=1).train()
    ids, mask = batch(200, "right", sequences=4)
    with torch.no_grad():
        theirs = model(ids.view(2, 2, -1), attention_mask=mask.view(2, 2, -1)).logits
        ours = accelerate(model)(ids.view(2, 2, -1), attention_mask=mask.view(2, 2, -1)).logits
    assert_close("o", ours, theirs, torch.float32)


@pytest.mark.parametrize("length", [100, 200])
@pytest.mark.parametrize("padding", [None, "right", "left"])
def test_the_encoder_of_pegasus_equals_transformers(length, padding):
    ids, mask = batch(length, padding)
    assert_same(pegasus().train(), ids, mask, decoder_input_ids=ids[:, :7])


def test_a_pegasus_that_gets_no_mask_is_refused(monkeypatch):
    monkeypatch.setattr("genobird.hf.acceleration.version", lambda _: "4.52.4")
    with pytest.raises(UsageError, match=r"4\.52\.4 found.*install transformers 4\.53"):
        accelerate(pegasus())
    accelerate(bigbird())


def test_a_short_batch_does_not_change_what_a_long_one_gets():
    model = accelerate(bigbird().eval())
    short, long = batch(30, None)[0], batch(300, None)[0]
    with torch.no_grad():
        before = model(long).logits
        model(short)
        assert torch.equal(model(long).logits, before)


def test_embeddings_and_positions_may_be_given():
    model = bigbird("BigBirdModel").train()
    _, mask = batch(200, "right")
    inputs = {
        "inputs_embeds": torch.randn(2, 200, 32, generator=torch.Generator().manual_seed(0)),
        "attention_mask": mask,
        "position_ids": torch.arange(200).flip(0)[None].expand(2, -1).contiguous(),
    }
    with torch.no_grad():
        theirs = model(**inputs).last_hidden_state
        ours = accelerate(model)(**inputs).last_hidden_state
        in_order = model(None, mask, None, inputs["position_ids"], inputs["inputs_embeds"])
    assert_close("o", ours[mask != 0], theirs[mask != 0], torch.float32)
    assert torch.equal(in_order.last_hidden_state, ours)


@pytest.mark.parametrize(
    "model",
    [
        lambda: pegasus(),
        lambda: pegasus("BigBirdPegasusForCausalLM"),
        lambda: bigbird("BigBirdForCausalLM", is_decoder=True, attention_type="original_full"),
    ],
)
def test_text_is_generated_as_before(model):
    model = model().eval()
    accelerated = accelerate(copy.deepcopy(model))
    ids, _ = batch(60, None)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(accelerated.generate(ids, **settings), model.generate(ids, **settings))


# Torch hides this warning of its own; as an error it cannot be hidden.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("length", [60, 200])
def test_a_compiled_model_gives_the_same(length):
    model = accelerate(bigbird("BigBirdModel", num_hidden_layers=1).train())
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for padding in ("right", "left"):
        ids, mask = batch(length, padding)
        grads = []
        for one in (model, compiled):
            model.zero_grad()
            out = one(ids, attention_mask=mask).last_hidden_state
            out.square().mean().backward()
            grads.append((out, model.encoder.layer[0].attention.self.query.weight.grad))
        assert_close("o", grads[1][0], grads[0][0], torch.float32)
        assert_close("dq", grads[1][1], grads[0][1], torch.float32)
    torch.compiler.reset()


def test_activation_checkpointing_gives_the_same_gradients():
    model = accelerate(bigbird("BigBirdModel").train())
    ids, mask = batch(200, "right")
    grads = []
    for _ in range(2):
        model.zero_grad()
        model(ids, attention_mask=mask).last_hidden_state.square().mean().backward()
        grads.append(model.embeddings.word_embeddings.weight.grad.clone())
        # transformers 5 gave it another name.
        getattr(model, CHECKPOINTING, model.gradient_checkpointing_enable)()
    assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_half_precision_is_taken(dtype, padding):
    model = accelerate(bigbird("BigBirdModel").eval())
    ids, mask = batch(200, padding)
    with torch.no_grad():
        exact = model(ids, attention_mask=mask).last_hidden_state[mask != 0]
        half = model.to(dtype)(ids, attention_mask=mask).last_hidden_state[mask != 0]
    assert half.dtype == dtype
    assert float((half - exact).square().mean().sqrt()) < 0.05 * float(exact.std())


def test_no_random_state_is_read_or_set():
    model = bigbird().train()
    ids, mask = batch(300, "right")
    states = (torch.get_rng_state(), np.random.get_state()[1].copy())
    accelerate(model)(ids, attention_mask=mask).logits.sum().backward()
    restore(model)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_what_is_saved_does_not_change(tmp_path):
    model = bigbird()
    model.save_pretrained(tmp_path / "before")
    accelerate(model).save_pretrained(tmp_path / "after")
    files = sorted(path.name for path in (tmp_path / "before").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "after").iterdir())
    for name in files:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_restoring_gives_back_the_same_parts():
    model = bigbird().train()
    before = dict(model.named_modules())
    state = {name: dict(vars(part)) for name, part in before.items()}
    restore(accelerate(accelerate(model), "evaluation"))
    assert dict(model.named_modules()) == before
    for name, part in model.named_modules():
        for key in ("attention_type", "training", "_forward_pre_hooks"):
            assert vars(part).get(key) == state[name].get(key), name
        assert "set_attention_type" not in vars(part)


def test_restoring_keeps_the_mode_and_projections_that_were_replaced():
    model = accelerate(bigbird())
    attention = model.bert.encoder.layer[0].attention
    other = torch.nn.Linear(32, 32)
    attention.self.query = other
    restore(model.eval())
    assert attention.self.query is other
    assert not attention.self.training


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_accelerated_and_can_be_restored(duplicate):
    model = accelerate(bigbird().train())
    ids, mask = batch(200, "right")
    other = duplicate(model)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        assert torch.equal(other(ids, attention_mask=mask).logits, expected)
        theirs = restore(other)(ids, attention_mask=mask).logits
    assert_close("o", theirs[mask != 0], expected[mask != 0], torch.float32)


def test_a_model_that_transformers_switched_to_full_attention_gets_its_blocks_back():
    ids, mask = batch(300, "right")
    model = bigbird().train()
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        model(ids[:, :30])  # too short for theirs: full from now on
        ours = accelerate(model)(ids, attention_mask=mask).logits
    assert_close("o", ours[mask != 0], expected[mask != 0], torch.float32)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m: accelerate(torch.nn.Linear(2, 2)), "Linear holds no BigBird"),
        (lambda m: accelerate("model"), "str holds no BigBird"),
        (lambda m: accelerate(m, "random"), "blocks 'random' found; choose trained or evaluation"),
        (lambda m: m.bert.set_attention_type("original_full"), "restore"),
        (lambda m: m(torch.ones(1, 9, dtype=torch.long), output_attentions=True), "restore"),
        (
            lambda m: m(torch.ones(1, 200, dtype=torch.long),
                        attention_mask=torch.ones(1, 1, 200, 200).tril().log()),
            "attention_mask",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_a_remedy(use, message):
    with pytest.raises(UsageError, match=message):
        use(accelerate(bigbird()))
