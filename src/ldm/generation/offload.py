"""Nets that stay in the CPU's memory and visit another device while they compute."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

HOME = torch.device("cpu")


class Offload:
    """Keeps nets on the CPU and brings one at a time to a device.

    Args:
        nets: that share the device's memory; each stays there until the next one is brought.
        device: to compute on.
        by_layer: nets of which single layers visit the device, for the time of their forward pass alone.
    """

    def __init__(
        self, nets: Sequence[nn.Module], device: torch.device, by_layer: Sequence[nn.Module] = ()
    ) -> None:
        self.nets, self.device, self.by_layer = list(nets), device, list(by_layer)
        self.visitor: nn.Module | None = None
        self._hooks: list[Any] = []
        for net in self.nets:
            if (before := offload_of(net)) is not None:
                before.end()
            net.to(HOME)
        for net in self.nets:
            vars(net)["_offload"] = self
        for net in self.by_layer:
            for tensor in loose_tensors(net):
                tensor.data = tensor.data.to(device)
            for layer in layers(net):
                self._hooks.append(layer.register_forward_pre_hook(self._arrive))
                self._hooks.append(layer.register_forward_hook(self._leave))

    def _arrive(self, layer: nn.Module, _: Any) -> None:
        layer.to(self.device)

    def _leave(self, layer: nn.Module, _: Any, __: Any) -> None:
        layer.to(HOME)

    def bring(self, net: nn.Module) -> None:
        """Moves a net to the device, after the one that is there has left it."""
        if self.visitor is net:
            return
        self.release()
        if net not in self.by_layer:
            net.to(self.device)
            self.visitor = net

    def release(self) -> None:
        """Moves the net on the device back."""
        if self.visitor is not None:
            self.visitor.to(HOME)
            self.visitor = None

    def end(self) -> None:
        """Leaves all nets on the CPU as if they had never been offloaded."""
        self.release()
        for hook in self._hooks:
            hook.remove()
        for net in self.nets:
            net.to(HOME)
            vars(net).pop("_offload", None)


def offload_of(net: Any) -> Offload | None:
    """The offload that a net takes part in."""
    found: Offload | None = getattr(net, "_offload", None)
    return found


def brought(net: Any) -> Any:
    """The net, on the device that it computes on: an offloaded one comes there first."""
    if (offload := offload_of(net)) is not None:
        offload.bring(net)
    return net


def place_of(net: Any) -> torch.device | None:
    """The device that a net computes on; None for one without tensors."""
    if (offload := offload_of(net)) is not None:
        return offload.device
    first = next(chain(net.parameters(), net.buffers()), None) if isinstance(net, nn.Module) else None
    return None if first is None else first.device


def loose_tensors(net: nn.Module) -> Iterator[Tensor]:
    """Tensors of the net itself rather than of one of its layers."""
    return chain(net.parameters(recurse=False), net.buffers(recurse=False))


def layers(net: nn.Module) -> Iterator[nn.Module]:
    """The outermost parts of a net that hold tensors of their own."""
    for child in net.children():
        if next(loose_tensors(child), None) is None:
            yield from layers(child)
        else:
            yield child
