"""FLOPs of nets, counted on the meta device: without weights, memory or time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flops(call: Callable[[], Any]) -> int:
    """FLOPs (2 per multiply-add) of what a function computes, as torch's counter has them.

    Args:
        call: makes its nets and inputs by itself; it runs on the meta device, as in training.
    """
    with torch.device("meta"), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def flops_of_method(module: nn.Module, name: str, shape: Sequence[int]) -> int:
    """FLOPs of a method of a net that exists, for an input of a shape; its weights are left alone."""

    class Method(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module

        def forward(self, x: torch.Tensor) -> Any:
            return getattr(self.net, name)(x)

    def call() -> None:
        weights = {f"net.{k}": torch.empty_like(v, device="meta") for k, v in module.state_dict().items()}
        torch.func.functional_call(Method(), weights, torch.zeros(*shape))

    return flops(call)
