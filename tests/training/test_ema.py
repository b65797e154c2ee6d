import torch
from torch import nn

from ldm.training.ema import MovingAverage, twin_of


def test_twin_follows_the_closed_form():
    net = nn.Linear(3, 2)
    twin = twin_of(net)
    expected = net.weight.detach().clone()
    average = MovingAverage(twin, net, 0.5)
    for n in range(20):
        with torch.no_grad():
            net.weight.copy_(torch.full_like(net.weight, float(n)))
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * n
        average.update(n)
    torch.testing.assert_close(twin.weight, expected)


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
    MovingAverage(twin, net, 0.9).update(5)
    assert torch.equal(twin.running_mean, net.running_mean)
