"""What a training step does otherwise on CUDA than on a CPU, for steps that are only simulated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ldm.models import attention

# Of torch's list of ops that autocast runs in float32 on CUDA but not on CPUs, those that nets here use.
FLOAT32 = {F.group_norm, F.layer_norm}


class CudaAutocast(TorchFunctionMode):
    """Under the CPU's autocast, gives float32 inputs to the ops that CUDA's autocast runs in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch, some with the first argument in float32."""
        if func in FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the kernels of CUDA that keep no matrix of scores, shapes and dtypes as in `attend`."""
    if q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled())[0]


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """While inside, nets on fake tensors compute as on CUDA: they could not be there without a GPU."""
    before, attention.attend = attention.attend, fused
    try:
        with CudaAutocast():
            yield
    finally:
        attention.attend = before
