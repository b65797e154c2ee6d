"""Helpers shared by the comparisons with reference implementations."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def randomise() -> Callable[[nn.Module, int], nn.Module]:
    """Gives every parameter a random value, so that what starts at zero is compared too."""

    def fill(module: nn.Module, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        for layer in module.modules():
            if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
                layer.weight.data += 1.0
        return module.eval()

    return fill


@pytest.fixture
def copy_weights() -> Callable[[nn.Module, nn.Module, list[tuple[str, str]]], None]:
    """Copies all parameters under new names given by regular expressions; the names must match one to one."""

    def copy(source: nn.Module, target: nn.Module, renames: list[tuple[str, str]]) -> None:
        state = {}
        for key, value in source.state_dict().items():
            for pattern, replacement in renames:
                key = re.sub(pattern, replacement, key)
            state[key] = value
        target.load_state_dict(state, strict=True)

    return copy


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Largest absolute difference relative to the largest reference value."""

    def error(value: Tensor, reference: Tensor) -> float:
        return float((value - reference).abs().max() / reference.abs().max())

    return error
