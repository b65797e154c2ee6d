"""Exponential moving average of weights, with a horizon in images, as a frozen twin."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

Twin = TypeVar("Twin", bound=nn.Module)

Decay = Callable[[int, int], float]
"""Maps the images seen (before, after) a step to what the average keeps of its old value, in [0, 1]."""

START = 9.0  # the memory is at most 1 / START of the images seen


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Decay of an exponential moving average that forgets to 1/e over a number of images.

    The memory is h(n) = min(horizon, n / 9) images after n images, short at the start, and the decay from
    a to b images exp(-integral of dn / h(n)): it is the product of the decays of parts, so the average does
    not depend on how the images are cut into steps, but for where the weights stand in between.

    Args:
        images: the horizon.
    """

    images: int

    def __post_init__(self) -> None:
        """Checks the range."""
        if self.images < 1:
            raise ValueError(f"ema_images must be at least 1 image, got {self.images}")

    def __call__(self, before: int, after: int) -> float:
        """Weight of the old average from `before` to `after` images seen."""
        joint = START * self.images  # from here on the memory is the horizon
        short = (min(before, joint) / min(after, joint)) ** START
        return short * math.exp(-(max(after, joint) - max(before, joint)) / self.images)


def twin_of(module: Twin) -> Twin:
    """A frozen float32 copy of a module, to be followed by `MovingAverage`."""
    twin = copy.deepcopy(module).float().eval()
    return twin.requires_grad_(False)


class MovingAverage:
    """Keeps a twin at a moving average of a module's weights; buffers are copied.

    The tensors of both are looked up once, here: walking the modules at each step would take longer than the
    average itself. So it is to be made when the module is on its device, sharded and will not be rebuilt.

    Args:
        twin: the moving average, in float32.
        module: the trained module.
        decay: what is kept, given the images seen before and after a step.
    """

    def __init__(self, twin: nn.Module, module: nn.Module, decay: Decay) -> None:
        self.decay = decay
        self._averages: list[Tensor] = list(twin.parameters())
        self._sources = list(module.parameters())
        self._buffers = list(zip(twin.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, before: int, after: int) -> None:
        """twin <- d twin + (1 - d) module with d = decay(before, after).

        Args:
            before: images seen before the step.
            after: images seen after it.
        """
        sources, weight = [p.float() for p in self._sources], 1.0 - self.decay(before, after)
        torch._foreach_lerp_(self._averages, sources, weight)
        for buffer, source in self._buffers:
            buffer.copy_(source)


class EMA:
    """A moving average of a module's weights, for training loops of one's own.

    Attributes:
        module: the average, a frozen float32 copy of the module.

    Args:
        module: the trained module, on its device.
        images: that the average remembers (`Horizon`); 10,000 steps of 32 images are 320,000.
    """

    def __init__(self, module: nn.Module, images: int) -> None:
        self.module = twin_of(module)
        self._average = MovingAverage(self.module, module, Horizon(images=images))
        self._seen = 0

    def update(self, batch_size: int) -> None:
        """Takes the weights after a step into the average.

        Args:
            batch_size: images of the step.
        """
        self._average.update(self._seen, self._seen + batch_size)
        self._seen += batch_size
