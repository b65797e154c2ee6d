"""The identity as an autoencoder: with it, pixel diffusion is latent diffusion."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.models.vae import Posterior


class IdentityAutoencoder(nn.Module):
    """Latent = image.

    Args:
        latent_channels: channels of the image.
    """

    downscale = 1
    supports = frozenset({"thresholding"})

    def __init__(self, latent_channels: int = 3) -> None:
        super().__init__()
        self.latent_channels = latent_channels

    def encode(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """A posterior with the image as mean and no variance."""
        return Posterior(image, torch.full_like(image, -30.0))

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns z."""
        return z

    def normalise(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns z: pixels in [-1, 1] are the units."""
        return z

    def denormalise(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns z."""
        return z

    def to_latent(
        self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Returns the image."""
        return image

    def from_latent(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns z."""
        return z
