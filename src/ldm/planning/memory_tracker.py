"""Which storages are alive, op by op, and what the ops cost."""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
FORMULAS = {  # torch's counter has none for the CPU's fused attention
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
}
TRIFLES = {torch.ops.prim.device.default}  # asked for by each look at a fake tensor's device


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of some tensors, each storage once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


class MemoryTracker(TorchDispatchMode):
    """Keeps account, while it is on, of the bytes of all storages that come into being and are still alive.

    Args:
        state: tensors that are not counted.

    Attributes:
        flops: of the ops by the formulas of torch's `FlopCounterMode`, which also looks at modules and is
            slower: of "trained" nets' forward passes, of "frozen" ones', which make no graph, and "backward".
        backward: whether the pass that runs now is a backward one.
    """

    def __init__(self, state: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.flops = {"trained": 0, "frozen": 0, "backward": 0}
        self.backward = False
        self._kept = [tensor.untyped_storage() for tensor in state]  # alive: none takes the name of another
        self._known = {storage._cdata for storage in self._kept}
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._gradients: set[int] = set()
        self._bytes = [0, 0]  # of gradients, of everything else
        self._moments: list[tuple[int, int]] = []

    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the gradients, and of everything else, alive whenever a storage was new."""
        moments = np.array(self._moments, dtype=np.float64)
        return moments[:, 0], moments[:, 1]

    def count_gradient(self, parameter: Tensor) -> None:
        """Counts what a parameter has as gradient among the gradients: a hook for `backward`."""
        assert parameter.grad is not None
        name = self._seen(parameter.grad)
        if name in self._alive and name not in self._gradients:
            size = self._alive[name][1]
            self._gradients.add(name)
            self._bytes[0] += size
            self._bytes[1] -= size
            self._note()

    def _note(self) -> None:
        self._moments.append((self._bytes[0], self._bytes[1]))

    def _seen(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        if name not in self._known:
            self._known.add(name)
            self._alive[name] = weakref.ref(storage, lambda _: self._gone(name)), size
            self._bytes[1] += size
            self._note()
        return name

    def _gone(self, name: int) -> None:
        self._known.discard(name)
        self._bytes[0 if name in self._gradients else 1] -= self._alive.pop(name)[1]
        self._gradients.discard(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an op and looks at what came of it."""
        out = func(*args, **(kwargs or {}))
        if func in TRIFLES:
            return out
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._seen(leaf)
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            kind = "trained" if torch.is_grad_enabled() else "frozen"
            self.flops["backward" if self.backward else kind] += formula(*args, **(kwargs or {}), out_val=out)
        return out
