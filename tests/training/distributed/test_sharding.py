"""The blocks of nets; recomputed and compiled blocks compute the same."""

import copy

import pytest
import torch
from torch import nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.text_encoder import TinyTextEncoder
from ldm.models.unet import UNet
from ldm.training.distributed.sharding import arrange, blocks, recompute


def net():
    torch.manual_seed(0)
    made = UNet(
        in_channels=4,
        out_channels=4,
        channels=[8, 16],
        layers_per_block=1,
        attention=["self", "cross"],
        num_heads=2,
        context_dim=6,
        norm_groups=4,
    )
    for parameter in made.parameters():  # layers that start at zero hide what is before them
        nn.init.normal_(parameter, std=0.1)
    return made


def loss_and_gradients(of):
    generator = torch.Generator().manual_seed(1)
    x, tokens = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 3, 6)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        loss = of(x, torch.tensor([3.0, 700.0]), Conditioning(tokens=tokens)).square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in of.named_parameters()}, sum(saved)


def test_blocks_are_the_called_items_of_lists_and_hold_most_of_a_net():
    for of in (
        net(),
        TinyTextEncoder(width=32, layers=2, num_heads=2, max_length=8, token_dim=8, vocabulary_size=64),
    ):
        found = list(blocks(of))
        inside = [p for block in found for p in block.parameters()]
        assert len({id(p) for p in inside}) == len(inside)  # no block within another
        assert all(callable(block) and type(block).forward is not nn.Module.forward for block in found)
    kinds = {type(block).__name__ for block in blocks(net())}
    assert kinds == {"ResBlock", "SelfAttentionBlock", "SpatialTransformer"}


def test_recomputed_blocks_give_the_same_bits_and_keep_less():
    loss, gradients, kept = loss_and_gradients(net())
    other = net()
    recompute(other)
    again, same, less = loss_and_gradients(other)
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    assert less < kept / 3
    assert list(other.state_dict()) == list(net().state_dict())


class Stack(nn.Module):
    """Two blocks without the type checks of tests, which cannot be compiled."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the tracing
def test_compiled_and_recomputed_blocks_keep_their_names_and_compute_the_same(monkeypatch):
    """Traced, but without the compiler's own code generation, which takes a minute."""
    compiled = []

    def compile_(module):
        compiled.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_)
    torch.manual_seed(0)
    plain = nn.ModuleDict({"net": Stack()})
    other = copy.deepcopy(plain)
    arrange(other, [], None, recomputes=True, compiles=True)
    assert compiled == list(other["net"].layers)
    assert list(other.state_dict()) == list(plain.state_dict())
    x = torch.randn(3, 4)
    for each in (plain, other):
        each["net"](x).square().sum().backward()
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
