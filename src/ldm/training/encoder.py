"""From a batch to what the diffusion model is trained on: normalised latents x0 and their conditioning."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ldm.diffusion import random
from ldm.diffusion.conditioning import Conditioning
from ldm.guidance import drop_captions, drop_embeddings
from ldm.models.protocols import Autoencoder, TextEncoder
from ldm.training.flops import flops_of_method
from ldm.training.latent_cache import LatentCache

Encoded = tuple[Tensor, Conditioning]


class Encoder:
    """Maps a batch to (x0, cond); images and captions are encoded here or were encoded with the data.

    Not a module: the autoencoder is frozen and belongs in no checkpoint of the training.

    Args:
        autoencoder: the first stage; it is frozen.
        caption_dropout: probability of the empty caption, in [0, 1).
        sample_posterior: draw latents from the posterior instead of taking its mean.
        cache_latents: encode each (key, caption) once.
        seed: of the draws, which are functions of (seed, key, visit).
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        caption_dropout: float,
        sample_posterior: bool,
        cache_latents: bool,
        seed: int,
    ) -> None:
        if not 0.0 <= caption_dropout < 1.0:
            raise ValueError(f"caption_dropout must be in [0, 1), got {caption_dropout}")
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.caption_dropout, self.sample_posterior, self.seed = caption_dropout, sample_posterior, seed
        self.cache = LatentCache() if cache_latents else None
        self.encoded = False  # True if the data hold latents in place of images
        self.empty: Conditioning | None = None  # of the empty caption, if the data also hold embeddings

    def attach(self, data: Any, text_encoder: TextEncoder, device: torch.device) -> None:
        """Moves the autoencoder to the device and validates data that were encoded ahead of time.

        Args:
            data: the data module.
            text_encoder: of the run.
            device: of the training.

        Raises: ValueError if the data were encoded by other nets than those of the run.
        """
        self.autoencoder.to(device)
        self.read(data, text_encoder, device)

    def read(self, data: Any, text_encoder: TextEncoder, device: torch.device) -> None:
        """As `attach`, for an autoencoder that is on its device."""
        if hasattr(data, "verify"):
            data.verify(self.autoencoder, text_encoder)
            self.encoded = True
            self.empty = None if data.empty is None else data.empty.to(device)

    def __call__(self, batch: dict[str, Any], text_encoder: TextEncoder) -> Encoded:
        """Latents and conditioning of a training batch, captions dropped by (seed, key, visit)."""
        u = random.uniform(self.seed, "caption_dropout", batch["key"], batch["visit"])
        return self.latents(batch), self.conditioning(batch, text_encoder, self.caption_dropout, u)

    def latents(self, batch: dict[str, Any]) -> Float[Tensor, "b c h w"]:
        """Normalised latents of a training batch, drawn by (seed, key, visit)."""
        return self._sampled(self._cached(batch), self.seed, "posterior", batch["key"], batch["visit"])

    @torch.no_grad()
    def held_out(
        self, samples: dict[str, Any], text_encoder: TextEncoder, draw: Int64[Tensor, " b"], seed: int
    ) -> Encoded:
        """Latents and conditioning of numbered draws for the validation, no caption dropped.

        Args:
            samples: as in a batch, one for each draw.
            text_encoder: that encodes the captions.
            draw: numbers of the draws, of which the latents are functions.
            seed: of the draws.
        """
        x0 = self._sampled(self.moments(samples), seed, "validation_posterior", draw, 0)
        return x0, self.conditioning(samples, text_encoder, 0.0, torch.ones_like(draw, dtype=x0.dtype))

    @torch.no_grad()
    def moments(self, batch: dict[str, Any]) -> Float[Tensor, "b c2 h w"]:
        """Mean and deviation of the posterior before any scaling, from the data or encoded here."""
        if "mean" in batch:
            return torch.cat([batch["mean"].float(), batch["std"].float()], dim=1)
        posterior = cast(Autoencoder, self.autoencoder).encode(batch["image"])
        return torch.cat([posterior.mean, (0.5 * posterior.logvar).exp()], dim=1)

    def _cached(self, batch: dict[str, Any]) -> Float[Tensor, "b c2 h w"]:
        """Moments, from the cache if there is one for images."""
        if self.cache is None or self.encoded:
            return self.moments(batch)
        return self.cache(lambda image: self.moments({"image": image}), batch)

    @torch.no_grad()
    def _sampled(
        self,
        moments: Float[Tensor, "b c2 h w"],
        seed: int,
        purpose: str,
        key: Int64[Tensor, " b"],
        visit: int | Tensor,
    ) -> Float[Tensor, "b c h w"]:
        """Normalised latents: the posterior's mean, or a draw from it."""
        mean, std = moments.chunk(2, dim=1)
        if self.sample_posterior:
            mean = mean + std * random.normal(seed, purpose, key, visit, mean.shape[1:])
        return cast(Autoencoder, self.autoencoder).normalise(mean)

    def conditioning(
        self, batch: dict[str, Any], text_encoder: TextEncoder, dropout: float, u: Float[Tensor, " b"]
    ) -> Conditioning:
        """Embeddings of the captions, from the data or encoded here; those of "" where u < dropout."""
        if self.empty is None:
            return text_encoder.encode(drop_captions(batch["caption"], dropout, u))
        found = {name: batch[name].float() for name in ("tokens", "pooled") if name in batch}
        return drop_embeddings(Conditioning(**found), self.empty, dropout, u)

    def flops(self, image_size: int) -> int:
        """FLOPs of encoding an image; 0 if each is encoded once or ahead of time."""
        if self.cache is not None or self.encoded:
            return 0
        return flops_of_method(self.autoencoder, "encode", (1, 3, image_size, image_size))
