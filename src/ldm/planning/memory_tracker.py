"""Bytes alive after each op, and FLOPs of the ops."""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.planning.torch_internals import DispatchMode, flop_formula, is_query, storage_id, tensors_in


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of some tensors, each storage once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage_id(storage): storage.nbytes() for storage in storages}.values())


class MemoryTracker(DispatchMode):
    """While it is on, follows the bytes of all storages that are created and still alive.

    Args:
        state: tensors that are not counted.

    Attributes:
        flops: of the ops by the formulas of torch's `FlopCounterMode`, which also follows modules and is
            slower: of "trained" nets' forward passes, of "frozen" ones', which make no graph, and "backward".
        backward: True while a backward pass runs.
    """

    def __init__(self, state: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.flops = {"trained": 0, "frozen": 0, "backward": 0}
        self.backward = False
        self._state = [tensor.untyped_storage() for tensor in state]  # alive, so that no id is used twice
        self._known = {storage_id(storage) for storage in self._state}
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._gradients: set[int] = set()
        self._bytes = [0, 0]  # of gradients, of everything else
        self._moments: list[tuple[int, int]] = []

    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the gradients, and of everything else, alive whenever a storage was new."""
        moments = np.array(self._moments, dtype=np.float64)
        return moments[:, 0], moments[:, 1]

    def count_gradient(self, parameter: Tensor) -> None:
        """Counts the gradient of a parameter among the gradients: a hook for `backward`."""
        assert parameter.grad is not None
        name = self._follow(parameter.grad)
        if name in self._alive and name not in self._gradients:
            size = self._alive[name][1]
            self._gradients.add(name)
            self._bytes[0] += size
            self._bytes[1] -= size
            self._note()

    def _note(self) -> None:
        self._moments.append((self._bytes[0], self._bytes[1]))

    def _follow(self, tensor: Tensor) -> int:
        """The id of a tensor's storage, which is counted until it dies."""
        storage = tensor.untyped_storage()
        name, size = storage_id(storage), storage.nbytes()
        if name not in self._known:
            self._known.add(name)
            self._alive[name] = weakref.ref(storage, lambda _: self._forget(name)), size
            self._bytes[1] += size
            self._note()
        return name

    def _forget(self, name: int) -> None:
        self._known.discard(name)
        self._bytes[0 if name in self._gradients else 1] -= self._alive.pop(name)[1]
        self._gradients.discard(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an op and counts its outputs and FLOPs."""
        out = func(*args, **(kwargs or {}))
        if is_query(func):
            return out
        for tensor in tensors_in(out):
            self._follow(tensor)
        formula = flop_formula(func)
        if formula is not None:
            kind = "trained" if torch.is_grad_enabled() else "frozen"
            self.flops["backward" if self.backward else kind] += formula(*args, **(kwargs or {}), out_val=out)
        return out
