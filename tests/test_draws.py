import numpy as np
import pytest

from genobird.draws import Epochs, generator


def test_what_is_drawn_depends_on_the_key_alone():
    first, again, other = (generator(*key).random(5).tolist() for key in ((1, 2), (1, 2), (2, 1)))
    assert first == again != other


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize(("count", "steps"), [(1, 5), (4, 2), (12, 1)])
def test_visits_are_those_of_the_epochs_end_to_end(step, count, steps):
    epochs = Epochs(count, seed=7)
    epochs.visits = 5
    every = np.concatenate([epochs._order(epoch) for epoch in range(10)])
    assert epochs._visited(step).tolist() == every[step * count : (step + 1) * count].tolist()
    assert sorted(epochs._order(3)) == list(range(5))
    assert len(epochs) == steps


def test_an_epoch_may_leave_items_out(monkeypatch):
    epochs = Epochs(3, seed=7)
    epochs.visits = 2
    monkeypatch.setattr(epochs, "_order", [np.array([4, 1]), np.array([9, 0])].__getitem__)
    assert epochs._visited(0).tolist() == [4, 1, 9]
