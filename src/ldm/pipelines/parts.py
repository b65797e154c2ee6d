"""The parts of a sampler under the names that users of a pipeline know."""

from typing import Any

import torch

from ldm.diffusion.process import Diffusion
from ldm.generation import Sampler
from ldm.generation.conditioning import Denoiser


class SamplerParts:
    """Read-only views of a sampler's nets and settings.

    Attributes:
        sampler: nets and settings.
    """

    sampler: Sampler

    @property
    def autoencoder(self) -> Any:
        """Image <-> latent."""
        return self.sampler.codec.autoencoder

    @property
    def text_encoder(self) -> Any:
        """Captions -> Conditioning."""
        return self.sampler.own.text_encoder

    @property
    def backbone(self) -> Any:
        """The denoising net."""
        return self.sampler.own.backbone

    @property
    def weak(self) -> Denoiser | None:
        """The weaker net of autoguidance with its text encoder."""
        return self.sampler.weak

    @property
    def diffusion(self) -> Diffusion:
        """Noise schedule and prediction type."""
        return self.sampler.diffusion

    @property
    def device(self) -> torch.device:
        """Device of the nets."""
        return self.sampler.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the nets."""
        return self.sampler.dtype
