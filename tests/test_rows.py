from __future__ import annotations

import pytest
import torch

from genobird.batch import ROWS, filled, in_rows
from genobird.local import LocalConfig, LocalNetwork


@pytest.mark.parametrize(("count", "full"), [(1, 16), (15, 16), (16, 16), (17, 32), (48, 48)])
def test_rows_are_filled_with_the_last(count, full):
    rows = torch.arange(count * 3).view(count, 3)
    found = filled(rows)
    assert found.shape == (full, 3)
    assert torch.equal(found[:count], rows)
    assert (found[count:] == rows[-1]).all()


@pytest.mark.parametrize("count", [1, 5, 16, 21])
def test_layers_see_filled_rows_and_give_those_that_were_asked(count):
    seen = []

    def double(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return 2 * rows

    rows = torch.randn(count, 4)
    assert torch.equal(in_rows(double, rows), 2 * rows)
    assert seen == [-(-count // ROWS) * ROWS]


def test_a_local_network_reads_one_place_as_it_reads_several():
    torch.manual_seed(0)
    shape = LocalConfig(span_bp=80, filters=8, filter_bp=5, pool_bp=4, width=8, dilations=(1,))
    network = LocalNetwork(shape).eval()
    codes = torch.randint(0, 5, (7, 80), dtype=torch.uint8)
    together = network(codes)
    assert together.shape == (7, shape.hidden)
    for row in range(7):
        assert torch.equal(network(codes[row : row + 1])[0], together[row])


def test_in_training_every_row_counts_once():
    network = LocalNetwork(LocalConfig(span_bp=80, filters=8, pool_bp=4, width=8, dropout=0))
    codes = torch.randint(0, 5, (3, 80), dtype=torch.uint8)
    network.train()(codes)
    mean = network.motif_norm.running_mean.clone()
    again = LocalNetwork(network.config)
    again.load_state_dict(network.state_dict())
    again.motif_norm.reset_running_stats()
    again.train()(filled(codes))
    assert not torch.allclose(mean, again.motif_norm.running_mean)
