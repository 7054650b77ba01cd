from functools import partial

import numpy as np
import pytest

from genobird.draws import generator, visited, visiting_order


def test_what_is_drawn_depends_on_the_key_alone():
    first, again, other = (generator(*key).random(5).tolist() for key in ((1, 2), (1, 2), (2, 1)))
    assert first == again != other


@pytest.mark.parametrize("first", range(0, 20, 3))
@pytest.mark.parametrize("count", [1, 4, 12])
def test_visits_are_those_of_the_epochs_end_to_end(first, count):
    order = partial(visiting_order, 5, 7)
    every = np.concatenate([order(epoch) for epoch in range(8)])
    assert visited(first, count, 5, order).tolist() == every[first : first + count].tolist()
    assert sorted(order(3)) == list(range(5))


def test_an_epoch_may_leave_items_out():
    orders = [np.array([4, 1]), np.array([9, 0])]
    assert visited(1, 2, 2, orders.__getitem__).tolist() == [1, 9]
