"""Our autoencoder computes what diffusers' AutoencoderKL computes."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ldm.models.vae import AutoencoderKL

pytestmark = pytest.mark.parity
diffusers = pytest.importorskip("diffusers")


def renames(layers: int) -> list[tuple[str, str]]:
    """diffusers' parameter names -> ours, for `layers` residual blocks per encoder level."""
    return [
        (r"\.conv_norm_out\.", ".norm_out."),
        (r"\.mid_block\.resnets\.0\.", ".mid.resnet1."),
        (r"\.mid_block\.resnets\.1\.", ".mid.resnet2."),
        (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attention.norm."),
        (r"\.mid_block\.attentions\.0\.(to_\w+)\.", r".mid.attention.attention.\1."),
        (r"\.to_out\.0\.", ".to_out."),
        (r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1.\2."),
        (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", rf".down.\1.{layers}."),
        (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", rf".up.\1.{layers + 1}."),
        (r"\.conv_shortcut\.", ".skip."),
    ]


@pytest.mark.parametrize("seed", range(10))
def test_encode_and_decode_equal_diffusers(
    seed: int, randomise: Callable[..., nn.Module], copy_weights: Callable[..., None], relative_error: Any
) -> None:
    """Random tiny configurations of one to four levels, with and without attention in the middle."""
    rng = random.Random(seed)
    levels, groups, layers = rng.choice([1, 2, 3, 4]), rng.choice([2, 4]), rng.choice([1, 2])
    channels = [groups * rng.choice([2, 3, 4]) for _ in range(levels)]
    latent_channels, attention = rng.choice([1, 4, 8]), rng.random() < 0.7
    theirs = diffusers.AutoencoderKL(
        block_out_channels=channels,
        layers_per_block=layers,
        latent_channels=latent_channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        norm_num_groups=groups,
        mid_block_add_attention=attention,
    )
    ours = AutoencoderKL(
        latent_channels=latent_channels,
        channels=channels,
        layers_per_block=layers,
        mid_attention=attention,
        norm_groups=groups,
    )
    copy_weights(randomise(theirs, seed), ours, renames(layers))
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 16, 24, generator=generator)
    with torch.no_grad():
        posterior, expected = ours.eval().encode(image), theirs.encode(image).latent_dist
        assert relative_error(posterior.mean, expected.mean) <= 1e-5
        assert relative_error(posterior.logvar, expected.logvar) <= 1e-5
        assert relative_error(ours.decode(expected.mean), theirs.decode(expected.mean).sample) <= 1e-5
