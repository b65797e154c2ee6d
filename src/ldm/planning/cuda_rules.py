"""Differences between a training step on CUDA and on a CPU, for steps that are only simulated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ldm.models import attention
from ldm.planning.torch_internals import fused_attention

# Of torch's list of ops that autocast runs in float32 on CUDA but not on CPUs, those that nets here use.
FLOAT32 = {F.group_norm, F.layer_norm}


class CudaAutocast(TorchFunctionMode):
    """Under the CPU's autocast, gives float32 inputs to the ops that CUDA's autocast runs in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch, some with the first argument in float32."""
        if func in FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """While inside, nets on fake CPU tensors compute as on CUDA: fake CUDA tensors would need a GPU."""
    before, attention.attend = attention.attend, fused_attention
    try:
        with CudaAutocast():
            yield
    finally:
        attention.attend = before
