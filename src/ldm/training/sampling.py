"""The sampler of a model in training: its EMA nets, with the work divided between the ranks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ldm.generation import Sampler
from ldm.generation.conditioning import Denoiser
from ldm.generation.decoding import Codec
from ldm.training.distributed.ranks import share, summed
from ldm.utils.distributed import rank_and_world


class Ranks:
    """The ranks of the run as workers of a sampler."""

    def share(self, count: int) -> Iterator[tuple[int, bool]]:
        """This rank's numbers in 0 .. count - 1, each with whether its result counts."""
        return share(count, *rank_and_world())

    def summed(self, images: Tensor) -> Tensor:
        """The sum of the ranks' tensors."""
        return summed(images)


def sampler_of(module: Any) -> Sampler:
    """A sampler of the EMA weights of a `LatentDiffusion`, with its sampling settings."""
    dtype = next((p.dtype for p in module.ema.parameters()), torch.float32)
    return Sampler(
        codec=Codec(autoencoder=module.autoencoder, dtype=dtype),
        own=Denoiser(module.text_encoder(module.ema), module.backbone(module.ema)),
        diffusion=module.diffusion,
        defaults=module.sampling,
        image_size=module.image_size,
        caption_dropout=None,  # adapters may be trained without dropout on a net that was trained with it
        weak=None if module.weak is None else Denoiser(*module.weak),
        device=module.device,
        dtype=dtype,
        workers=Ranks(),
    )
