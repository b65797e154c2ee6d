"""Nets without memory or values, made without importing torch's compiler."""

import subprocess
import sys

import torch
from torch import nn

from ldm.utils.meta import meta_device


def test_nets_have_their_shapes_and_dtypes_but_no_memory():
    with meta_device():
        layer = nn.Conv2d(3, 5, 2, dtype=torch.float16)
    assert (layer.weight.shape, layer.weight.dtype) == ((5, 3, 2, 2), torch.float16)
    assert layer.weight.is_meta
    assert layer.bias.is_meta


def test_draws_elsewhere_are_made_and_the_device_ends_with_the_block():
    with meta_device():
        torch.manual_seed(0)
        drawn = nn.init.normal_(torch.zeros(4, device="cpu"))
    torch.manual_seed(0)
    assert torch.equal(drawn, nn.init.normal_(torch.zeros(4)))
    assert not torch.zeros(1).is_meta


def test_no_compiler_is_imported_for_a_draw():
    code = """
import sys
from torch import nn
from ldm.utils.meta import meta_device
with meta_device():
    nn.init.normal_(nn.Linear(2, 2).weight)
    nn.init.kaiming_uniform_(tensor=nn.Linear(2, 2).weight)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
