import itertools
import math

import pytest
import torch
from torch import nn

from ldm.utils.ema import EMA, Horizon, MovingAverage, twin_of


def follow(values, images, horizon):
    """The average of a weight that takes the values, one a step of so many images."""
    net = nn.Linear(1, 1).double()
    twin = twin_of(net)
    average = MovingAverage(twin, net, Horizon(images=horizon))
    for i, value in enumerate(values):
        with torch.no_grad():
            net.weight.fill_(value)
        average.update(i * images, (i + 1) * images)
    return twin.weight.item()


def test_twin_follows_the_closed_form():
    """With h = min(horizon, n / 9): (a / b)^9 up to 9 horizons, then exp(-(b - a) / horizon)."""
    values = [math.sin(i) for i in range(40)]
    expected = 0.0
    for i, value in enumerate(values):
        before, after = 10 * i, 10 * (i + 1)
        d = (before / after) ** 9 if after <= 180 else math.exp(-10 / 20)
        expected = d * expected + (1 - d) * value
    assert follow(values, 10, 20) == pytest.approx(expected, rel=1e-6)


def test_an_impulse_is_forgotten_to_1_in_e_over_the_horizon():
    h = Horizon(images=1000)
    assert h(20_000, 21_000) == pytest.approx(math.exp(-1))
    assert h(0, 5) == 0.0  # the random weights of the start leave no trace


@pytest.mark.parametrize("horizon", [10, 64, 1000, 10**6])
def test_the_decay_is_that_of_its_parts_whatever_the_steps(horizon):
    h = Horizon(images=horizon)
    for cuts in ([7, 1024], [7, 8, 9, 500, 1024], list(range(7, 1025))):
        parts = [h(a, b) for a, b in itertools.pairwise(cuts)]
        assert math.prod(parts) == pytest.approx(h(7, 1024), rel=1e-12)


def test_other_batch_sizes_average_the_same_to_first_order():
    """A weight that is a function of the images seen: halving the steps halves the difference."""
    weight, total = lambda n: math.sin(n / 300) + n / 2000, 4800
    means = {b: follow([weight(b * (i + 1)) for i in range(total // b)], b, 200) for b in (1, 4, 8, 16, 32)}
    errors = [means[b] - means[1] for b in (32, 16, 8)]
    assert errors[0] / errors[1] == pytest.approx(31 / 15, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(15 / 7, rel=0.05)
    assert abs(means[4] - means[1]) < 0.005


@pytest.mark.parametrize("images", [0, -5])
def test_a_horizon_that_is_none_is_refused(images):
    with pytest.raises(ValueError, match=r"ema_images must be at least 1 image, got .*"):
        Horizon(images=images)


def test_twin_is_frozen_float32_and_apart():
    net = nn.Linear(3, 2).bfloat16()
    twin = twin_of(net)
    assert twin.weight.dtype == torch.float32
    assert not any(p.requires_grad for p in twin.parameters())
    assert twin.weight.data_ptr() != net.weight.data_ptr()


def test_buffers_are_copied():
    net = nn.BatchNorm1d(2)
    twin = twin_of(net)
    net(torch.randn(8, 2))
    MovingAverage(twin, net, Horizon(images=10)).update(5, 6)
    assert torch.equal(twin.running_mean, net.running_mean)


def test_an_average_of_ones_own_is_that_of_a_run():
    module = torch.nn.Linear(2, 2)
    mine, twin = EMA(module, images=50), twin_of(module)
    theirs = MovingAverage(twin, module, Horizon(images=50))
    for step in range(4):
        with torch.no_grad():
            module.weight.add_(1.0)
        mine.update(8)
        theirs.update(8 * step, 8 * (step + 1))
    assert torch.equal(mine.module.weight, twin.weight)
    assert not torch.equal(mine.module.weight, module.weight)
