import pytest

from ldm.training.callbacks.averages import FollowAverages
from ldm.training.callbacks.base import StepCallback


class Recorded:
    """An average that records its updates and the weight at that moment."""

    def __init__(self, weight):
        self.weight, self.updates = weight, []

    def update(self, before, after):
        self.updates.append((before, after, float(self.weight.detach())))


class Saver(StepCallback):
    """Records the averages' updates that a callback after them finds."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.stepped(trainer):
            self.found.append(len(pl_module.averages[0].updates))


@pytest.fixture
def module(small):
    net = small.Module()
    net.batch_size = 8
    net.averages = [Recorded(net.weight), Recorded(net.weight)]
    return net


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averages_follow_each_step_once_before_it_is_saved(accumulate, small, module, tmp_path):
    saver = Saver()
    small.fit(tmp_path, module, FollowAverages(), saver, steps=3, accumulate=accumulate)
    for average in module.averages:
        assert [update[:2] for update in average.updates] == [(0, 8), (8, 16), (16, 24)]
        assert [update[2] for update in average.updates] == pytest.approx([0.9, 0.8, 0.7])  # after the step
    assert saver.found == [1, 2, 3]


def test_a_skipped_step_counts(small, module, tmp_path):
    module.losses = [[1.0, 1.0], [float("nan"), 1.0]]
    small.fit(tmp_path, module, FollowAverages(), steps=3)
    assert [update[:2] for update in module.averages[0].updates] == [(0, 8), (8, 16), (16, 24)]
    assert [update[2] for update in module.averages[0].updates] == pytest.approx([0.9, 0.9, 0.8])
