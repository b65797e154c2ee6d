"""Reconstruction of unseen images by an autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.evaluation.score import Headline, Picture, Score
from ldm.utils.image_io import make_grid, save_png, to_uint8


@runtime_checkable
class Reconstructs(Protocol):
    """An autoencoder, or its training."""

    def reconstruct(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Images encoded and decoded."""
        ...


@runtime_checkable
class ValidationImages(Protocol):
    """Data with images that were not trained on."""

    def validation_images(self) -> Float[Tensor, "n 3 h w"]:
        """The images, in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Mean PSNR of reconstructed images.

    Args:
        shown: images in the picture.
    """

    shown: int = 16

    def __call__(self, sampler: Reconstructs, data: ValidationImages, folder: Path) -> Score:
        """The PSNR, and reconstructions.png."""
        images, file = data.validation_images(), "reconstructions.png"
        output = sampler.reconstruct(images)
        score = round(float(psnr(output, images).mean()), 2)
        shown = images[: self.shown]
        both = torch.cat([shown, output[: self.shown]])
        save_png(make_grid(to_uint8(both), columns=len(shown)), folder / file)
        return Score(
            title="Reconstruction",
            values={"psnr": score, "images": len(images)},
            headlines=[Headline(label="PSNR on unseen images", value=score, format="{:.1f} dB")],
            pictures=[Picture(file=file, caption="above: unseen images, below: decoded", wide=True)],
        )


def psnr(output: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each image in dB, for images in [-1, 1] (peak-to-peak 2)."""
    return 10.0 * torch.log10(4.0 / (output - target).square().flatten(1).mean(1))
