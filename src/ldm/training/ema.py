"""Exponential moving average of weights as a frozen twin."""

import copy

import torch
from torch import nn


def twin_of(module: nn.Module) -> nn.Module:
    """A frozen float32 copy of a module, to be followed by `MovingAverage`."""
    twin = copy.deepcopy(module).float().eval()
    return twin.requires_grad_(False)


class MovingAverage:
    """Keeps a twin at the exponential moving average of a module's weights; buffers are copied.

    The tensors of both are looked up once, here: walking the modules at each step would take longer than the
    average itself. So it is to be made when the module is on its device, sharded and will not be rebuilt.

    Args:
        twin: the moving average, in float32.
        module: the trained module.
        decay: limit of the decay per update, in [0, 1).
    """

    def __init__(self, twin: nn.Module, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = list(twin.parameters()), list(module.parameters())
        self._buffers = list(zip(twin.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """twin <- d twin + (1 - d) module with d = min(decay, (1 + n) / (10 + n)) after n updates.

        Args:
            updates: number of updates done before this one; small numbers shorten the memory at the start.
        """
        d = min(self.decay, (1 + updates) / (10 + updates))
        ours, theirs = self._parameters
        torch._foreach_lerp_(ours, [p.float() for p in theirs], 1.0 - d)
        for buffer, source in self._buffers:
            buffer.copy_(source)
