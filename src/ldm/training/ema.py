"""Exponential moving average of weights as a frozen twin."""

import copy

import torch
from torch import nn


def twin_of(module: nn.Module) -> nn.Module:
    """A frozen float32 copy of a module, to be followed by `update_twin`."""
    twin = copy.deepcopy(module).float().eval()
    return twin.requires_grad_(False)


@torch.no_grad()
def update_twin(twin: nn.Module, module: nn.Module, decay: float, updates: int) -> None:
    """twin <- d twin + (1 - d) module with d = min(decay, (1 + n) / (10 + n)) after n updates.

    Args:
        twin: the moving average, in float32.
        module: the trained module.
        decay: limit of the decay, in [0, 1).
        updates: number of updates done before this one; small numbers shorten the memory at the start.
    """
    d = min(decay, (1 + updates) / (10 + updates))
    ours, theirs = list(twin.parameters()), list(module.parameters())
    torch._foreach_lerp_(ours, [p.detach().float() for p in theirs], 1.0 - d)
    for buffer, source in zip(twin.buffers(), module.buffers(), strict=True):
        buffer.copy_(source)
