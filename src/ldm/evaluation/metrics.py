"""Image metrics."""

import torch
from jaxtyping import Float
from torch import Tensor


def psnr(output: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each image in dB, for images in [-1, 1] (peak-to-peak 2)."""
    return 10.0 * torch.log10(4.0 / (output - target).square().flatten(1).mean(1))
