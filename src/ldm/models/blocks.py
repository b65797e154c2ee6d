"""Convolutional blocks shared by the U-Net and the autoencoder."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.models.dropout import KeyedDropout


def timestep_embedding(
    t: Float[Tensor, " b"], width: int, max_period: float = 10_000.0
) -> Float[Tensor, "b w"]:
    """Sinusoidal features (cos, sin) of real-valued time (Vaswani et al. 2017, Sec. 3.5).

    Args:
        t: time in schedule units.
        width: number of features, even.
        max_period: longest wavelength divided by 2 pi.

    Returns: the features, cosines first.
    """
    half = width // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def guidance_features(scale: Float[Tensor, " b"], width: int) -> Float[Tensor, "b w"]:
    """Features (sin, cos) of 1000 (w - 1) for guidance scales w (Luo et al. 2023, arXiv:2310.04378).

    The paper's w is ours less 1: it counts what is added to the conditional estimate.

    Args:
        scale: guidance scales w, 1 for none.
        width: number of features; an odd one is filled up with zeros.

    Returns: the features, sines first.
    """
    half = width // 2
    steps = torch.arange(half, device=scale.device, dtype=torch.float32) / max(half - 1, 1)
    angles = 1000.0 * (scale.float() - 1.0)[:, None] * torch.exp(-math.log(10_000.0) * steps)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width % 2))


def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Sets a layer's weight and bias to zero, so that what it ends starts as the zero function."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ResBlock(nn.Module):
    """GroupNorm-SiLU-convolution twice with a residual; the time embedding is added in between.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_dim: channels of the time embedding; None for the autoencoder.
        norm_groups: groups of the GroupNorms.
        eps: of the GroupNorms (1e-5 in the U-Net, 1e-6 in the VAE).
        dropout: before the second convolution.
        zero_init: start as the residual path only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int | None = None,
        norm_groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if embedding_dim is not None:
            self.embed = nn.Linear(embedding_dim, out_channels)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels, eps=eps)
        self.dropout = KeyedDropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        if zero_init:
            zero_(self.conv2)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b k h w"]:
        """Returns the block's output; `embedding` is the time embedding before its activation."""
        h = self.conv1(F.silu(self.norm1(x)))
        if embedding is not None:
            h = h + self.embed(F.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class Downsample(nn.Module):
    """Halves height and width by a strided 3x3 convolution.

    Args:
        channels: channels in and out.
        symmetric: pad one pixel on all sides (U-Net); else on the right and bottom only (VAE).
    """

    def __init__(self, channels: int, symmetric: bool = True) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Returns the feature map at half the size."""
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width (or nearly so) by nearest neighbours and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c h w"], size: Sequence[int] | None = None
    ) -> Float[Tensor, "b c h2 w2"]:
        """Returns the feature map at twice the size, or at the size that an odd one was halved from."""
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(F.interpolate(x, size=(height, width), mode="nearest"))
