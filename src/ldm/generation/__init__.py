"""Sampling, written once: captions -> conditioning -> latents -> images."""

from ldm.generation.draws import Draws
from ldm.generation.sampler import Sampler
from ldm.generation.settings import Settings

__all__ = ["Draws", "Sampler", "Settings"]
