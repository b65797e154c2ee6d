"""A toy net, its branches and diffusions of all kinds, for tests of guidance rules."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.continuous import FlowMatching, VarianceExploding
from ldm.diffusion.prediction import Epsilon, FlowVelocity, Sample, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.weighting import Uniform
from ldm.guidance import Branch, Branches

CASES = {
    "eps": (scaled_linear(), Epsilon()),
    "v": (scaled_linear(), Velocity()),
    "x0": (scaled_linear(), Sample()),
    "flow": (FlowMatching(), FlowVelocity()),
    "edm": (VarianceExploding(), Velocity()),
}
W = 4.0


def diffusion_of(case: str) -> Diffusion:
    schedule, prediction = CASES[case]
    return Diffusion(schedule=schedule, prediction=prediction, weighting=Uniform())


class Net:
    """A net that depends on all it reads, and that counts the rows it is asked about."""

    def __init__(self, gain: float = 1.0):
        self.gain, self.rows = gain, 0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.rows += len(x_t)
        assert cond.pooled is not None
        told = cond.pooled[:, :, None, None]
        if cond.identity_attention is not None:
            told = torch.where(cond.identity_attention.view(-1, 1, 1, 1), 0.3 * told, told)
        return self.gain * ((x_t + told).sin() + (t / 1000).view(-1, 1, 1, 1) * told)


def inputs(b: int = 3, time: float = 600.0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(b, 2, 4, 4, generator=draws), torch.full((b,), time)


def branches(net: Net, b: int = 3, weak: Net | None = None) -> Branches:
    draws = torch.Generator().manual_seed(1)
    cond, uncond = (Conditioning(pooled=torch.randn(b, 2, generator=draws)) for _ in range(2))
    return Branches(Branch(net, cond), Branch(net, uncond), weak and Branch(weak, cond))


def answers(asked: Branches, *inputs: Tensor) -> list[Tensor]:
    return [b.net(*inputs, b.cond) for b in (asked.cond, asked.uncond, asked.weak) if b is not None]


@pytest.fixture
def toy() -> ModuleType:
    """The functions of this file."""
    return sys.modules[__name__]
