"""Steps simulated for a GPU follow CUDA's rules on fake tensors of the CPU."""

import torch

from ldm.models import attention
from ldm.planning.cuda_rules import gpu_kernels


def test_autocast_of_cuda_normalises_in_float32():
    with gpu_kernels(), torch.autocast("cpu", torch.bfloat16):
        x = torch.zeros(2, 8, 4, 4, dtype=torch.bfloat16)
        norm, conv = torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 8, 1)
        seen = [norm(x).dtype, conv(norm(x)).dtype]
    assert seen == [torch.float32, torch.bfloat16]


def test_the_attention_of_the_cpu_is_back_afterwards():
    before = attention.attend
    with gpu_kernels():
        assert attention.attend is not before
    assert attention.attend is before
