"""Images of a call: as tensors, as masks and as latents."""

import logging
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ldm.generation import Sampler
from ldm.generation.job import Job
from ldm.models.vae import Posterior
from ldm.utils.errors import UserError
from ldm.utils.image_arrays import Images, image_tensor, luma

log = logging.getLogger(__name__)


class Encoded:
    """Latents of images, drawn from their posterior; each image is encoded once.

    Args:
        sampler: of the model.
        images: one for all rows or one for each prompt, (n, c, h, w) in [-1, 1].
        job: the call.
        purpose: of the draws.

    Raises: ValueError if there is neither one image nor one for each prompt.
    """

    def __init__(self, sampler: Sampler, images: Tensor, job: Job, purpose: str) -> None:
        each = job.given.num_images_per_prompt
        if len(images) not in (1, len(job.prompts) // each):
            raise UserError(
                f"image must be one or {len(job.prompts) // each}, one for each prompt, got {len(images)}"
            )
        self.sampler, self.job, self.purpose = sampler, job, purpose
        self.row = [0 if len(images) == 1 else i // each for i in range(len(job.prompts))]
        self.posterior = sampler.codec.posterior(images)

    def __call__(self, rows: range) -> Float[Tensor, "b c h w"]:
        """Normalised latents of some of the rows."""
        index = [self.row[i] for i in rows]
        posterior = Posterior(self.posterior.mean[index], self.posterior.logvar[index])
        noise = self.job.draws.normal(self.purpose, 0, rows, self.job.shape)
        return self.sampler.codec.normalise(posterior.sample(noise))

    def noised(self, rows: range) -> Float[Tensor, "b c h w"]:
        """Latents at the first time of the grid: alpha z0 + sigma eps."""
        z0, job = self(rows), self.job
        return self.sampler.diffusion.add_noise(z0, job.start_noise(rows), job.grid[:1].to(z0.device))


def as_images(value: Images, autoencoder: Any, device: torch.device) -> Float[Tensor, "n c h w"]:
    """Images in [-1, 1] on a device, RGB unless the model is one of grey pixels.

    Raises: as `ldm.utils.image_arrays.image_tensor`.
    """
    images = image_tensor(value, "image").to(device)
    grey = autoencoder.downscale == 1 and autoencoder.latent_channels == 1
    return luma(images) if grey else images


def as_masks(mask: Images, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Masks of images: 1 where a pixel is repainted, white from 128 of 255 on, else 0.

    Raises: ValueError for a mask of another size or without white, or as many masks as fit nothing.
    """
    masks = (image_tensor(mask, "mask", "L").to(images.device) >= 0.0).float()
    if masks.shape[2:] != images.shape[2:]:
        raise UserError(
            f"mask must be of the image's size, {images.shape[3]} x {images.shape[2]}, got "
            f"{masks.shape[3]} x {masks.shape[2]}"
        )
    if len(masks) not in (1, len(images)):
        raise UserError(f"mask must be one or {len(images)}, one for each image, got {len(masks)}")
    if not bool(masks.flatten(1).any(1).all()):
        raise UserError(
            "mask must select a pixel: white, from 128 of 255 on, is repainted, black and transparent "
            "parts are not; got none"
        )
    return masks.expand(len(images), -1, -1, -1)


def latent_masks(masks: Float[Tensor, "n 1 h w"], size: tuple[int, int]) -> Float[Tensor, "n 1 h2 w2"]:
    """Masks of latents: 1 for each cell with a pixel that is repainted."""
    return F.adaptive_max_pool2d(masks, size)


def padded(images: Float[Tensor, "n c h w"], factor: int) -> Float[Tensor, "n c h2 w2"]:
    """Images whose last row and column are repeated until the sides are multiples of a factor."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")


def fitting(images: Float[Tensor, "n c h w"], factor: int, fixed: int | None) -> Float[Tensor, "n c h2 w2"]:
    """Images with sides that a model can make, and one line in the log if they are padded.

    Args:
        images: of one size.
        factor: of the autoencoder.
        fixed: side of the latents of a model that makes one size only; None for others.

    Raises: ValueError for another size than the only one.
    """
    before, after = images, padded(images, factor)
    if fixed is not None and before.shape[2:] != (fixed * factor, fixed * factor):
        side = fixed * factor
        raise UserError(
            f"image must be {side} x {side} pixels for this model, got {before.shape[3]} x "
            f"{before.shape[2]}: resize it (size)"
        )
    if before.shape != after.shape:
        log.warning(
            "the image of %d x %d pixels is padded to %d x %d by its last row and column, as the model "
            "needs, and the result is cut back",
            *(before.shape[3], before.shape[2], after.shape[3], after.shape[2]),
        )
    return after


def to_pil(image: Tensor) -> Image.Image:
    """A PIL image of uint8 pixels (3, h, w) or (1, h, w)."""
    pixels = image.permute(1, 2, 0).numpy()  # (h, w, c)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
