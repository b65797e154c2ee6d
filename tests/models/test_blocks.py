import math

import pytest
import torch

from ldm.models.blocks import Downsample, ResBlock, Upsample, timestep_embedding


def test_timestep_embedding_is_the_written_out_formula():
    t = [0.0, 1.0, 437.25, 999.0]
    embedding = timestep_embedding(torch.tensor(t), 8)
    expected = [[f(s * 10_000 ** (-i / 4)) for f in (math.cos, math.sin) for i in range(4)] for s in t]
    assert torch.allclose(embedding, torch.tensor(expected), atol=1e-4)


def test_timestep_embedding_does_not_take_real_times_for_integers():
    a, b = timestep_embedding(torch.tensor([10.0, 10.5]), 16)
    assert (a - b).abs().max() > 0.1


def test_resblock_starts_as_its_residual_path():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResBlock(8, 8, 16, norm_groups=4, zero_init=True)(x, torch.randn(2, 16)), x)


def test_resblock_listens_to_the_time():
    torch.manual_seed(0)
    block, x = ResBlock(8, 12, 16, norm_groups=4), torch.randn(1, 8, 4, 4)
    out = [block(x, torch.full((1, 16), value)) for value in (0.0, 1.0)]
    assert out[0].shape == (1, 12, 4, 4)
    assert not torch.allclose(*out)


@pytest.mark.parametrize("symmetric", [True, False])
def test_sizes_are_halved_and_doubled(symmetric: bool):
    x = torch.randn(1, 4, 6, 10)
    assert Downsample(4, symmetric)(x).shape == (1, 4, 3, 5)
    assert Upsample(4)(x).shape == (1, 4, 12, 20)
