"""Low-rank adapters of a frozen net (Hu et al. 2021, arXiv:2106.09685)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.diffusion.conditioning import Conditioning
from ldm.models.protocols import Backbone, members


@dataclass(frozen=True, kw_only=True)
class Update:
    """A low-rank update of a weight: scale * up @ down.

    Args:
        down: (rank, in, ...), A in the paper.
        up: (out, rank, ...), B in the paper.
        scale: alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float

    def weight(self, shape: torch.Size) -> Tensor:
        """The product, in float32, shaped as the weight (linear or convolutional)."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return self.scale * product.view(shape)


class Adapter(nn.Module):
    """x -> (alpha / rank) B A x, zero before training because B is (Hu et al. 2021, Eq. 3).

    Args:
        layer: the linear layer whose output it is added to.
        rank: rows of A, columns of B.
        alpha: strength; at alpha = rank the product is added as it is.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, layer.in_features))
        self.B = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as a linear layer's weight

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The addend to the layer's output for its input x."""
        return self.scale * F.linear(F.linear(x, self.A), self.B)


class LoRA(nn.Module):
    """An adapter for each linear layer of a net whose name ends in one of the targets.

    The net itself is no part of this module: what is trained, averaged and stored are the adapters. They
    stand in a tree of the net's own names, so that their parameters are called `LAYER.A` and `LAYER.B`.

    Args:
        net: the net that they are for.
        rank: of the adapters.
        alpha: their strength; `alpha / rank` multiplies them.
        targets: last parts of layers' names: to_q, to_k, to_v, to_out of attention, ff.0.proj and ff.1 of
            feed-forward layers.

    Raises: ValueError for a rank below 1, an alpha that is not positive, or a target that no layer has.
    """

    def __init__(self, net: nn.Module, *, rank: int, alpha: int | float, targets: Sequence[str]) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        linear = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
        for target in targets or [""]:
            if not any(f".{name}".endswith(f".{target}") for name in linear):
                raise ValueError(
                    f"targets must be ends of names of linear layers, such as to_q, got {target!r}"
                )
        self.layers = [n for n in linear if any(f".{n}".endswith(f".{target}") for target in targets)]
        for name in self.layers:
            place: nn.Module = self
            *parts, last = name.split(".")
            for part in parts:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(last, Adapter(linear[name], rank, float(alpha)))

    def updates(self) -> dict[str, Update]:
        """Weight updates of the adapters by layer."""
        adapters = {name: cast(Adapter, self.get_submodule(name)) for name in self.layers}
        return {
            name: Update(down=adapter.A.detach(), up=adapter.B.detach(), scale=adapter.scale)
            for name, adapter in adapters.items()
        }

    def forward(self, name: str, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The addend to the output of the layer of that name."""
        return self.get_submodule(name)(x)


class AdaptedNet:
    """A frozen net and adapters that can be exchanged for others of the same layers.

    It is no module: a module that holds it does not hold the net's weights. The net must not be called any
    other way meanwhile than through `using`.

    Args:
        net: what they are added to; it is frozen and put in evaluation mode.
        adapters: of the net; they act wherever no others are asked for, as when a backward pass computes
            activations anew.
    """

    def __init__(self, net: nn.Module, adapters: LoRA) -> None:
        self.net, self.adapters = net.requires_grad_(False).eval(), adapters
        for name in adapters.layers:
            net.get_submodule(name).register_forward_hook(partial(self._add, name))

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + self.adapters(name, inputs[0])

    def using(self, adapters: LoRA) -> Backbone:
        """The net (x_t, t, cond) -> out with these adapters."""
        return cast(Backbone, _Adapted(self, adapters))


class _Adapted:
    """The net of an `AdaptedNet` with certain adapters; its attributes are those of the net."""

    def __init__(self, adapted: AdaptedNet, adapters: LoRA) -> None:
        self._adapted, self._adapters = adapted, adapters
        attributes = members(Backbone).keys() - {"forward"}
        for name in attributes:  # checks of types look at the object itself
            setattr(self, name, getattr(adapted.net, name))

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        adapted = self._adapted
        before, adapted.adapters = adapted.adapters, self._adapters
        try:
            return adapted.net(x_t, t, cond)
        finally:
            adapted.adapters = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapted.net, name)
