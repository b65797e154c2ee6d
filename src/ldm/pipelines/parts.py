"""The parts of a sampler under the names that users of a pipeline know."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ldm.diffusion.process import Diffusion
from ldm.generation import Sampler
from ldm.generation.conditioning import Denoiser
from ldm.generation.settings import settings
from ldm.pipelines.options import KINDS, rule
from ldm.utils.errors import UserError


class Setting:
    """A default of a pipeline as an attribute, which acts on all later calls."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, pipeline: Any, owner: type | None = None) -> Any:
        """The default; the descriptor itself for the class."""
        return self if pipeline is None else pipeline.sampler.defaults.get(self.name)

    def __set__(self, pipeline: Any, value: Any) -> None:
        """Sets the default.

        Raises: ValueError for a value that a call would refuse, or None where the model needs one.
        """
        value = rule(self.name, value) if self.name in KINDS else value
        if value is None and self.name not in ("guidance", "thresholding"):
            raise UserError(f"{self.name} must have a value, got None")
        settings({self.name: value})
        sampler = pipeline.sampler
        pipeline.sampler = replace(sampler, defaults={**sampler.defaults, self.name: value})


class SamplerParts:
    """Views of a sampler's nets, which are read-only, and its default settings, which are not.

    Attributes:
        sampler: nets and settings.
        scheduler: the reverse-step rule.
        timesteps: the time grid.
        guidance: the guidance rule.
        thresholding: bounds of x0, or None.
        num_inference_steps: steps of a call.
        guidance_scale: of a call.
    """

    sampler: Sampler

    scheduler = Setting()
    timesteps = Setting()
    guidance = Setting()
    thresholding = Setting()
    num_inference_steps = Setting()
    guidance_scale = Setting()

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings of calls that give no others."""
        return self.sampler.defaults

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
        """Device that the nets compute on."""
        return self.sampler.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the nets."""
        return self.sampler.dtype
