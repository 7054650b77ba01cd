import pytest
import torch

from genobird.tasks.task import Averages


def averages(*batches):
    found = Averages()
    for metrics, weight in batches:
        found.add(metrics, weight)
    return found


def test_each_metric_is_averaged_over_the_batches_that_have_it_by_their_weight():
    found = averages(({"loss": torch.tensor(1.0), "rare": 7.0}, 1), ({"loss": 4.0}, 3))
    assert found.means() == {"loss": pytest.approx(3.25), "rare": 7.0}


def test_a_batch_without_weight_counts_for_nothing():
    assert averages(({"loss": float("nan")}, 0), ({"loss": 2.0}, 1)).means() == {"loss": 2.0}
    assert averages().means() == {}


def test_what_is_not_finite_stays_so():
    (value,) = averages(({"loss": float("nan")}, 1), ({"loss": 2.0}, 1)).means().values()
    assert value != value


def test_joined_averages_are_those_of_all_batches():
    batches = [({"a": 1.0, "b": 5.0}, 2), ({"a": 3.0}, 1), ({"b": 1.0}, 4)]
    joined = Averages.joined([averages(*batches[:1]).plain(), averages(*batches[1:]).plain()])
    assert joined.means() == pytest.approx(averages(*batches).means())
