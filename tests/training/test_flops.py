"""FLOPs on the meta device: 2 per multiply-add."""

import torch
from torch import nn

from ldm.training.flops import flops, flops_of_method


def test_a_matrix_product_takes_two_flops_per_multiply_add():
    assert flops(lambda: torch.zeros(5, 3) @ torch.zeros(3, 7)) == 2 * 5 * 3 * 7


def test_a_backward_pass_is_counted_too():
    def step():
        net = nn.Linear(3, 7, bias=False)
        net(torch.zeros(5, 3)).sum().backward()

    assert flops(step) == 2 * 2 * 5 * 3 * 7  # forward and the gradient of the weight; the input needs none


def test_no_memory_is_taken():
    assert flops(lambda: nn.Linear(10**6, 10**6, bias=False)(torch.zeros(1, 10**6))) == 2 * 10**12


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def encode(self, x):
        return self.conv(x)

    def twice(self, x):
        return self.conv(x), self.conv(x)


def test_a_method_of_a_net_is_counted_and_its_weights_are_left_alone():
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    one = flops_of_method(net, "encode", (1, 3, 8, 8))
    assert one == 2 * 4 * 3 * 9 * 8 * 8
    assert flops_of_method(net, "twice", (2, 3, 8, 8)) == 4 * one
    assert {p.device.type for p in net.parameters()} == {"cpu"}
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
