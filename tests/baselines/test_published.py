import numpy as np
import pytest
import torch

from genobird.baselines.network import CNNProm, DanQ, DeePromoter, DeepSEA, predict_codes

ALL = [DeepSEA, DanQ, CNNProm, DeePromoter]


def sizes(network):
    return [tuple(p.shape) for p in network.parameters() if p.dim() > 1]


def test_deepsea_has_the_layers_and_the_parameters_of_its_paper():
    network = DeepSEA()
    assert sizes(network) == [
        (320, 4, 8), (480, 320, 8), (960, 480, 8), (925, 53 * 960), (919, 925),
    ]  # fmt: skip
    assert network.parameters_trained == 52_843_119
    assert network.input_bp == 1_000


def test_danq_has_the_layers_and_the_parameters_of_its_paper():
    network = DanQ()
    gates = [(4 * 320, 320)] * 4  # input and recurrent weights, two directions
    assert sizes(network) == [(320, 4, 26), *gates, (925, 75 * 640), (919, 925)]
    assert network.parameters_trained == 46_926_479
    assert network.input_bp == 1_000


def test_cnnprom_has_the_layers_of_its_human_non_tata_model():
    network = CNNProm()
    assert sizes(network) == [(300, 4, 21), (128, 300), (1, 128)]
    assert network.parameters_trained == 64_157
    assert (network.input_bp, network.before_bp) == (251, 200)


def test_deepromoter_has_the_layers_of_its_paper():
    network = DeePromoter()
    assert sizes(network)[:3] == [(32, 4, 27), (32, 4, 14), (32, 4, 7)]
    assert sizes(network)[-2:] == [(128, 50 * 64), (1, 128)]
    assert network.grammar.lstm.hidden_size == 32
    assert network.parameters_trained == 449_121
    assert (network.input_bp, network.before_bp) == (300, 249)


@pytest.mark.parametrize("kind", ALL)
def test_width_scales_the_hidden_layers_and_not_the_outputs(kind):
    small = kind(outputs=7, width=0.1)
    assert sizes(small)[-1][0] == 7
    assert small.parameters_trained < kind(outputs=7, width=0.2).parameters_trained


@pytest.mark.parametrize("kind", ALL)
def test_each_place_is_predicted_from_its_own_bases(kind):
    torch.manual_seed(0)
    network = kind(outputs=3, width=0.1).eval()
    codes = np.random.default_rng(1).integers(0, 5, (2, network.input_bp + 400)).astype(np.uint8)
    together = predict_codes(network, codes, both_strands=False)
    assert together.shape == (2, 3, 3)
    for i in range(3):
        alone = codes[:, 200 * i : 200 * i + network.input_bp]
        np.testing.assert_allclose(
            together[:, i], predict_codes(network, alone, both_strands=False)[:, 0], atol=1e-5
        )


@pytest.mark.parametrize("kind", [DanQ, DeePromoter])
def test_the_second_bias_of_torch_stays_zero(kind):
    network = kind(outputs=1, width=0.05).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    network(torch.randint(0, 4, (2, network.input_bp), dtype=torch.uint8)).sum().backward()
    optimiser.step()
    second = [p for name, p in network.named_parameters() if "bias_hh" in name]
    assert len(second) == 2
    assert not any(p.any() for p in second)
