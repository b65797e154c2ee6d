"""KL-regularised autoencoder of Stable Diffusion (Rombach et al. 2022, App. G; Kingma & Welling 2014)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.models.attention import SelfAttentionBlock
from ldm.models.blocks import Downsample, ResBlock, Upsample, zero_
from ldm.utils.errors import UserError


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian q(z | image) with mean and log-variance of shape (b, c, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns mean + std * noise."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Kullback-Leibler divergence to the standard normal in nats, summed over each sample."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1.0 - self.logvar).flatten(1).sum(1)


class MidBlock(nn.Module):
    """Residual block, single-head self-attention, residual block."""

    def __init__(self, channels: int, norm_groups: int, attention: bool) -> None:
        super().__init__()
        self.resnet1 = ResBlock(channels, channels, norm_groups=norm_groups, eps=1e-6)
        self.attention = SelfAttentionBlock(channels, 1, norm_groups) if attention else nn.Identity()
        self.resnet2 = ResBlock(channels, channels, norm_groups=norm_groups, eps=1e-6)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns the features after the middle block."""
        return self.resnet2(self.attention(self.resnet1(x)))


class Encoder(nn.Module):
    """Image -> moments (mean, logvar) before the 1x1 convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        layers: int,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        c = channels[0]
        for i, width in enumerate(channels):
            blocks: list[nn.Module] = []
            for _ in range(layers):
                blocks.append(ResBlock(c, width, norm_groups=groups, eps=1e-6))
                c = width
            if i < len(channels) - 1:
                blocks.append(Downsample(width, symmetric=False))
            self.down.append(nn.Sequential(*blocks))
        self.mid = MidBlock(c, groups, attention)
        self.norm_out = nn.GroupNorm(groups, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """Returns the moments at the latent resolution."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent after the 1x1 convolution -> image."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        layers: int,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        c = channels[-1]
        self.conv_in = nn.Conv2d(in_channels, c, 3, padding=1)
        self.mid = MidBlock(c, groups, attention)
        self.up = nn.ModuleList()
        for i, width in reversed(list(enumerate(channels))):
            blocks: list[nn.Module] = []
            for _ in range(layers + 1):
                blocks.append(ResBlock(c, width, norm_groups=groups, eps=1e-6))
                c = width
            if i:
                blocks.append(Upsample(width))
            self.up.append(nn.Sequential(*blocks))
        self.norm_out = nn.GroupNorm(groups, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """Returns the image."""
        h = self.mid(self.conv_in(z))
        for level in self.up:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderKL(nn.Module):
    """Variational autoencoder image <-> latent with downscale factor 2^(levels - 1).

    Args:
        in_channels: channels of the image.
        latent_channels: channels of the latent.
        channels: width of each level, from the full resolution down.
        layers_per_block: residual blocks per level (the decoder has one more).
        mid_attention: self-attention in the middle blocks.
        norm_groups: groups of all GroupNorms.
        scaling_factor: normalised latent = (z - shift_factor) * scaling_factor; one number or one a channel.
        shift_factor: see `scaling_factor`.
        patch_shortcut: add a linear patch transform beside each convolutional path, whose last convolutions
            then start at zero: the net starts as a linear autoencoder (`init_shortcut`) and learns the rest.
    """

    supports: frozenset[str]
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        in_channels: int = 3,
        latent_channels: int = 4,
        channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        mid_attention: bool = True,
        norm_groups: int = 32,
        scaling_factor: float | Sequence[float] = 1.0,
        shift_factor: float | Sequence[float] = 0.0,
        patch_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.latent_channels, self.downscale = latent_channels, 2 ** (len(channels) - 1)
        parts = (channels, layers_per_block, norm_groups, mid_attention)
        self.encoder = Encoder(in_channels, 2 * latent_channels, *parts)
        self.decoder = Decoder(latent_channels, in_channels, *parts)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.patch_shortcut = patch_shortcut
        self.supports = frozenset({"tiling", "training"} | ({"shortcut"} if patch_shortcut else set()))
        if patch_shortcut:
            f = self.downscale
            self.patch_in = nn.Conv2d(in_channels, latent_channels, f, stride=f)
            self.patch_out = nn.Conv2d(latent_channels, in_channels * f * f, 1)
            zero_(self.quant_conv)
            zero_(self.decoder.conv_out)
            nn.init.constant_(self.quant_conv.bias[latent_channels:], -6.0)  # type: ignore[index]
        self.register_buffer("scale", torch.empty(0), persistent=False)
        self.register_buffer("shift", torch.empty(0), persistent=False)
        self.set_latent_statistics(scaling_factor, shift_factor)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the layer that makes the image."""
        return self.decoder.conv_out.weight

    def set_latent_statistics(
        self, scaling_factor: float | Sequence[float], shift_factor: float | Sequence[float]
    ) -> None:
        """Sets the affine normalisation of latents, one number or one per channel each."""
        device = self.quant_conv.weight.device
        for name, key, value in (
            ("scale", "scaling_factor", scaling_factor),
            ("shift", "shift_factor", shift_factor),
        ):
            values = [float(value)] if isinstance(value, int | float) else [float(v) for v in value]
            if len(values) not in (1, self.latent_channels):
                raise UserError(f"{key} needs 1 or {self.latent_channels} values, got {len(values)}")
            setattr(self, name, torch.tensor(values, device=device).view(1, -1, 1, 1))

    @torch.no_grad()
    def init_shortcut(self, images: Float[Tensor, "n c h w"]) -> None:
        """Sets the linear shortcut to the principal components of the images' patches.

        Args:
            images: in [-1, 1]; the components are computed in float64.
        """
        f, k = self.downscale, self.latent_channels
        patches = F.pixel_unshuffle(images.double(), f).movedim(1, -1).flatten(0, -2)  # (patches, c f f)
        mean = patches.mean(0)
        _, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean))
        basis = vectors[:, -k:].flip(1).T  # (k, c f f), orthonormal, largest variance first
        weight = basis.view(k, images.shape[1], f, f)
        self.patch_in.weight.copy_(weight)
        self.patch_in.bias.copy_(-(basis @ mean))  # type: ignore[union-attr]
        self.patch_out.weight.copy_(basis.T[:, :, None, None])
        self.patch_out.bias.copy_(mean)  # type: ignore[union-attr]

    def encode(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """Posterior of the (unnormalised) latent of images in [-1, 1]; sizes divisible by `downscale`."""
        mean, logvar = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        if self.patch_shortcut:
            mean = mean + self.patch_in(image)
        return Posterior(mean.float(), logvar.float().clamp(-30.0, 20.0))

    def decode(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Image of an (unnormalised) latent."""
        image = self.decoder(self.post_quant_conv(z)).float()
        if self.patch_shortcut:
            image = image + F.pixel_shuffle(self.patch_out(z), self.downscale)
        return image

    def normalise(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Latent in the units the diffusion model works in."""
        return (z - self.shift) * self.scale

    def denormalise(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Unnormalised latent of a normalised one."""
        return z / self.scale + self.shift

    def to_latent(
        self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b k h2 w2"] | None = None
    ) -> Float[Tensor, "b k h2 w2"]:
        """Normalised latent: the posterior's sample for given noise, its mean without."""
        posterior = self.encode(image)
        return self.normalise(posterior.mean if noise is None else posterior.sample(noise))

    def from_latent(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Image of a normalised latent."""
        return self.decode(self.denormalise(z))
