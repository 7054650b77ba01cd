import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genobird.baselines.network import (
    Batch,
    Convolution,
    ConvolutionConfig,
    NetworkSettings,
    fit_network,
    predict_codes,
)
from genobird.draws import generator
from genobird.errors import InputError
from genobird.genome.sequence import base_codes, complement_codes, reverse_complement

SMALL = ConvolutionConfig(outputs=3, first=8, second=8, hidden=16)


def network(config=SMALL):
    torch.manual_seed(0)
    made = Convolution(config).eval()
    for name, value in made.named_buffers():
        if name.endswith(("mean", "var")):
            value.copy_(torch.rand_like(value) + 0.5)
    return made


def random_codes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 5, size=shape).astype(np.uint8)


@given(st.text("ACGTN", max_size=30))
def test_the_complement_of_codes_is_that_of_the_sequence(text):
    wanted = base_codes(reverse_complement(text))
    np.testing.assert_array_equal(complement_codes(base_codes(text)), wanted)


@pytest.mark.parametrize("input_bp", [400, 1000, 1400])
def test_a_long_window_gives_each_place_what_its_own_bases_give(input_bp):
    model = network(SMALL.model_copy(update={"input_bp": input_bp}))
    codes = random_codes(2, input_bp + 5 * 200)
    together = predict_codes(model, codes, both_strands=False)
    assert together.shape == (2, 6, 3)
    for i in range(6):
        alone = codes[:, 200 * i : 200 * i + input_bp]
        np.testing.assert_allclose(
            together[:, i], predict_codes(model, alone, both_strands=False)[:, 0], atol=1e-5
        )


def test_both_strands_averaged_give_the_same_from_either_strand():
    model, codes = network(), random_codes(1, 1600)
    forward = predict_codes(model, codes, both_strands=True)
    backward = predict_codes(model, complement_codes(codes), both_strands=True)
    np.testing.assert_allclose(forward, backward[:, ::-1], atol=1e-5)


def test_n_is_no_base():
    model = network()
    assert not model.one_hot[4].any()
    assert model.one_hot[:4].sum() == 4


def test_windows_that_do_not_end_with_a_bin_are_refused():
    with pytest.raises(ValueError, match="windows of 1100 bp; 1000 bp and multiples of 200 more"):
        network()(torch.zeros(1, 1100, dtype=torch.uint8))
    with pytest.raises(ValidationError, match="multiple of 200"):
        ConvolutionConfig(input_bp=900)


def test_the_default_shape_is_as_large_as_said():
    assert Convolution(ConvolutionConfig(outputs=242)).parameters_trained == 934_418


def motif_batch(step):
    """Half of the windows hold a motif in their middle."""
    rng = generator(3, step)
    codes = rng.integers(0, 4, size=(16, 400)).astype(np.uint8)
    labels = (rng.random(16) < 0.5).astype(np.uint8)
    codes[labels == 1, 190:206] = base_codes("TGACTCATGACTCATG")
    return Batch(codes, labels[:, None, None], np.ones((16, 1), bool))


SHAPE = ConvolutionConfig(outputs=1, input_bp=400, first=16, second=8, hidden=8, dropout=0.1)
SETTINGS = NetworkSettings(steps=60, learning_rate=1e-2, warmup_steps=5)


def fit_convolution(shape, *arguments, **options):
    return fit_network(lambda: Convolution(shape), *arguments, **options)


def test_a_motif_is_learned_and_the_same_seed_gives_the_same_weights():
    losses = []
    state = torch.get_rng_state()
    model = fit_convolution(
        SHAPE, motif_batch, SETTINGS, log=lambda step, loss: losses.append((step, loss))
    )
    assert torch.equal(state, torch.get_rng_state())
    assert [step for step, _ in losses] == list(range(60))
    # Of four seeds: 0.20, 0.43, 0.24, 0.30, and every label right.
    assert np.mean([loss for _, loss in losses[-10:]]) < 0.6
    codes, labels, *_ = motif_batch(1000)
    logits = predict_codes(model, codes, both_strands=False)[:, 0, 0]
    assert ((logits > 0) == labels[:, 0, 0]).mean() > 0.9
    short = SETTINGS.model_copy(update={"steps": 3})
    first, second = (fit_convolution(SHAPE, motif_batch, short).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 5, "save_every": 2})
    whole = fit_convolution(SHAPE, motif_batch, settings)

    def stopped(step):
        if step == 3:
            raise KeyboardInterrupt
        return motif_batch(step)

    made = []

    def counted(step):
        made.append(step)
        return motif_batch(step)

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit_convolution(SHAPE, stopped, settings, state=state)
    parts = fit_convolution(SHAPE, counted, settings, state=state).state_dict()
    assert made == [2, 3, 4]
    assert all(torch.equal(value, parts[name]) for name, value in whole.state_dict().items())


def test_places_that_do_not_count_change_nothing():
    def batch(step, value):
        codes = np.random.default_rng(step).integers(0, 4, (4, 600)).astype(np.uint8)
        labels = np.zeros((4, 2, 1), np.uint8)
        labels[:, 1] = value
        return Batch(codes, labels, np.array([[True, False]] * 4))

    short = SETTINGS.model_copy(update={"steps": 2})
    first, second = (
        fit_convolution(SHAPE, lambda step, v=v: batch(step, v), short).state_dict() for v in (0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_where_nothing_can_be_learned_a_positive_weight_shifts_logits_by_its_logarithm():
    def batch(step):
        rng = generator(4, step)
        codes = rng.integers(0, 4, size=(32, 400)).astype(np.uint8)
        labels = rng.integers(0, 2, (32, 1, 1)).astype(np.uint8)
        return Batch(codes, labels, np.ones((32, 1), bool))

    longer = SETTINGS.model_copy(update={"steps": 80, "learning_rate": 0.05})
    model = fit_convolution(SHAPE, batch, longer, positive_weight=8.0)
    assert predict_codes(model, batch(1000)[0], both_strands=False).mean() == pytest.approx(
        np.log(8), abs=0.5
    )


def test_weights_that_are_no_numbers_are_reported():
    broken = SETTINGS.model_copy(update={"steps": 3, "learning_rate": float("inf")})
    with pytest.raises(InputError, match="lower the learning rate"):
        fit_convolution(SHAPE, motif_batch, broken)
