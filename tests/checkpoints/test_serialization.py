"""Tensors as bytes come back as they were or not at all; a fingerprint is of the weights and nothing else."""

import copy

import pytest
import torch
from torch import nn

from ldm.checkpoints.serialization import about_of, fingerprint, packed, unpacked

TENSORS = {
    "mean": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "tokens": torch.ones(3, dtype=torch.bfloat16),
    "half": torch.tensor([1.5], dtype=torch.float16),
}


def test_tensors_and_what_they_are_come_back():
    data = packed(TENSORS, {"key": 12, "bad": "", "size": 3})
    assert all(packed(TENSORS, {"size": 3, "bad": "", "key": 12}) == data for _ in range(20))
    found, about = unpacked(data)
    assert about == about_of(data) == {"key": 12, "bad": "", "size": 3}
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert all(found[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert unpacked(packed({}, {"bad": "cause"})) == ({}, {"bad": "cause"})


def test_any_bit_that_changes_a_value_is_noticed():
    data = packed(TENSORS, {"key": 12})
    for i in range(len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        try:
            found, about = unpacked(bytes(damaged))
        except ValueError:
            continue
        assert about == {"key": 12}  # a space of the header, say
        assert sum(name in found and torch.equal(found[name], TENSORS[name]) for name in TENSORS) >= 2


@pytest.mark.parametrize("size", [0, 4, 8, 50, -1])
def test_bytes_cut_short_are_noticed(size):
    with pytest.raises(ValueError, match=r"header|checksum|safetensors"):
        unpacked(packed(TENSORS, {})[:size])


def test_a_fingerprint_is_of_values_names_and_shapes():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).half().float()
    same = copy.deepcopy(net)
    assert fingerprint(net) == fingerprint(same) == fingerprint(copy.deepcopy(net).half())
    with torch.no_grad():
        same[0].weight[1, 1] += 2**-9
    assert fingerprint(same) != fingerprint(net)
    other = nn.Sequential(nn.Linear(3, 2), nn.Identity(), nn.BatchNorm1d(3))
    assert fingerprint(other) != fingerprint(net)
