"""Offloaded nets are on the device when they compute and on the CPU else.

The device is the CPU as well here, so that its moves are observed and not felt.
"""

from typing import Any

import pytest
import torch
from torch import nn

from ldm.generation.offload import Offload, brought, layers, loose_tensors, offload_of, place_of

DEVICE = torch.device("cpu:0")  # another name than "cpu"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)))
        self.attention = nn.MultiheadAttention(4, 1)  # its own tensors, and a layer whose weight it reads
        self.position = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) + self.position


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str]]:
    """The moves of modules, in order."""
    seen: list[tuple[Any, str]] = []
    to = nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda self, where: seen.append((self, str(where))) or to(self, where)
    )
    return seen


def test_one_net_at_a_time_is_on_the_device(moves: list[tuple[Any, str]]):
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    offload = Offload([first, second], DEVICE)
    assert moves == [(first, "cpu"), (second, "cpu")]
    moves.clear()
    for net in (first, first, second):
        assert brought(net) is net
    assert moves == [(first, "cpu:0"), (first, "cpu"), (second, "cpu:0")]
    moves.clear()
    offload.release()
    offload.release()
    assert moves == [(second, "cpu")]


def test_single_layers_visit_the_device_for_their_own_pass(moves: list[tuple[Any, str]]):
    net, other = Net(), nn.Linear(2, 2)
    x = torch.ones(1, 3)
    wanted = net(x)
    offload = Offload([net, other], DEVICE, by_layer=[net])
    first, second = net.blocks[0], net.blocks[1][0]
    brought(other)
    moves.clear()
    assert torch.equal(brought(net)(x), wanted)
    assert moves == [
        (other, "cpu"),
        *((first, "cpu:0"), (first, "cpu"), (second, "cpu:0"), (second, "cpu")),
    ]
    offload.end()
    moves.clear()
    net(x)
    assert moves == []
    assert offload_of(net) is None


def test_the_parts_that_move_hold_tensors_of_their_own():
    net = Net()
    assert list(layers(net)) == [net.blocks[0], net.blocks[1][0], net.attention]
    assert [t is net.position for t in loose_tensors(net)] == [True]


def test_a_second_offload_replaces_the_first():
    net = nn.Linear(2, 2)
    first = Offload([net], DEVICE, by_layer=[net])
    second = Offload([net], torch.device("cpu"))
    assert offload_of(net) is second is not first
    assert not net._forward_hooks
    second.end()
    assert offload_of(net) is None


def test_the_place_of_a_net_is_where_it_computes():
    net = nn.Linear(2, 2)
    assert place_of(net) == torch.device("cpu")
    Offload([net], DEVICE)
    assert str(place_of(net)) == "cpu:0"
    assert place_of(nn.Identity()) is None
    assert brought(nn.Identity) is nn.Identity
