"""Images <-> latents, whole, one by one or in bands."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.generation.finite import check_finite
from ldm.generation.offload import brought
from ldm.models.tiling import decode_tiled, encode_tiled
from ldm.models.vae import Posterior


@dataclass(frozen=True, kw_only=True, eq=False)
class Codec:
    """An autoencoder and the way in which it is run.

    Args:
        autoencoder: image <-> latent.
        dtype: of its weights.
        slicing: run it on one image at a time.
        tile_rows: height of the bands in which it is run (`ldm.models.tiling`); None runs it on whole images.
    """

    autoencoder: Any
    dtype: torch.dtype = torch.float32
    slicing: bool = False
    tile_rows: int | None = None

    @torch.no_grad()
    def posterior(self, images: Float[Tensor, "n c h w"]) -> Posterior:
        """Posterior of the (unnormalised) latents of images in [-1, 1].

        Raises: ArithmeticError if it is not finite.
        """
        pieces, autoencoder = (
            images.to(self.dtype).split(1 if self.slicing else len(images)),
            brought(self.autoencoder),
        )
        if self.tile_rows is None:
            parts = [autoencoder.encode(piece) for piece in pieces]
        else:
            parts = [encode_tiled(autoencoder, piece, self.tile_rows) for piece in pieces]
        mean, logvar = (torch.cat([getattr(p, name) for p in parts]).float() for name in ("mean", "logvar"))
        check_finite(mean, "the latents of the image", "autoencoder", self.dtype)
        return Posterior(mean, logvar)

    def normalise(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Latents of unit variance of unnormalised ones."""
        normalised: Tensor = brought(self.autoencoder).normalise(z)
        return normalised

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """Images of normalised latents, in [-1, 1].

        Raises: ArithmeticError if an image is not finite.
        """
        pieces = z.to(self.dtype).split(1 if self.slicing else max(len(z), 1))
        image = torch.cat([self._decoded(piece) for piece in pieces]).float()
        check_finite(image, "the decoded image", "autoencoder", self.dtype)
        return image.clamp(-1.0, 1.0)

    def _decoded(self, z: Tensor) -> Tensor:
        if self.tile_rows is None:
            whole: Tensor = brought(self.autoencoder).from_latent(z)
            return whole
        autoencoder = brought(self.autoencoder)
        return decode_tiled(autoencoder, autoencoder.denormalise(z), self.tile_rows)
