"""Private parts of torch that the planner relies on, in one place; written for torch 2.14.

`FakeTensorMode` is public in effect (torch.export stands on it) but lives in a private package; storages have
no public identity; and the fused attention kernels of a device can only be called by their private names.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["DispatchMode", "Fake", "flop_formula", "fused_attention", "storage_id", "tensors_in"]

DispatchMode = TorchDispatchMode
"""Sees every op that runs inside it."""

_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {  # torch's counter has none for the CPU's fused attention
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _aten._scaled_dot_product_flash_attention
    ],
}
_DEVICE_QUERY = torch.ops.prim.device.default  # dispatched whenever the device of a fake tensor is read


class Fake(FakeTensorMode):
    """Mode in which tensors have shapes, dtypes and the device "cpu", but no values."""

    avoid_device_init = True  # looking for a GPU at each op takes long

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)


def is_query(op: Any) -> bool:
    """True for an op that computes nothing."""
    return op is _DEVICE_QUERY


def flop_formula(op: Any) -> Callable[..., int] | None:
    """Function of an op's arguments (and `out_val`) -> its FLOPs; None for an op that is not counted."""
    return _FORMULAS.get(op._overloadpacket)


def storage_id(storage: torch.UntypedStorage) -> int:
    """Number of a storage, unique among those alive."""
    return storage._cdata


def tensors_in(tree: Any) -> Iterable[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the CUDA kernels that keep no matrix of scores, (b, heads, n, d)."""
    if q.dtype in (torch.bfloat16, torch.float16):
        flash: Tensor = _aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return flash
    efficient: Tensor = _aten._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled())[
        0
    ]
    return efficient
