"""Images of a call: as tensors, as masks and as latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ldm.generation import Sampler
from ldm.generation.job import Job
from ldm.models.vae import Posterior
from ldm.utils.errors import UserError

Images = Image.Image | Tensor | Sequence[Image.Image]


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
        z: Tensor = self.sampler.codec.autoencoder.normalise(posterior.sample(noise))
        return z

    def noised(self, rows: range) -> Float[Tensor, "b c h w"]:
        """Latents at the first time of the grid: alpha z0 + sigma eps."""
        z0, job = self(rows), self.job
        eps = job.draws.normal("x_T", 0, rows, job.shape)
        return self.sampler.diffusion.add_noise(z0, eps, job.grid[:1].to(z0.device))


def as_tensor(value: Any, name: str, device: torch.device, mode: str = "RGB") -> Float[Tensor, "n c h w"]:
    """Images as a tensor in [-1, 1].

    Args:
        value: a PIL image, a list of them, all of one size, or a tensor of that kind.
        name: of the argument.
        device: to put it on.
        mode: of PIL images, "RGB" or "L".

    Raises: ValueError for images of several sizes; TypeError for anything else.
    """
    if isinstance(value, Tensor):
        if value.ndim != 4 or not value.is_floating_point():
            raise UserError(
                f"{name} must be a floating-point tensor (n, c, h, w) in [-1, 1], got {value.dtype} "
                f"{tuple(value.shape)}"
            )
        return value.to(device, torch.float32)
    images = [value] if isinstance(value, Image.Image) else list(value)
    if not images or not all(isinstance(image, Image.Image) for image in images):
        raise UserError(f"{name} must be a PIL image, a list of them or a tensor, got {value!r}")
    if len({image.size for image in images}) > 1:
        raise UserError(f"{name} must be of one size, got {[image.size for image in images]}")
    pixels = np.stack([np.asarray(image.convert(mode), dtype=np.uint8) for image in images])
    tensor = torch.from_numpy(pixels).to(device)
    tensor = tensor[:, None] if mode == "L" else tensor.permute(0, 3, 1, 2)
    return tensor.float().contiguous() / 127.5 - 1.0


def as_masks(mask: Images, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Masks of images: 1 where a pixel is repainted, else 0.

    Raises: ValueError for a mask of another size, or as many masks as fit nothing.
    """
    masks = (as_tensor(mask, "mask", images.device, "L")[:, :1] >= 0.0).float()
    if masks.shape[2:] != images.shape[2:]:
        raise UserError(
            f"mask must be of the image's size, {images.shape[3]} x {images.shape[2]}, got "
            f"{masks.shape[3]} x {masks.shape[2]}"
        )
    if len(masks) not in (1, len(images)):
        raise UserError(f"mask must be one or {len(images)}, one for each image, got {len(masks)}")
    return masks.expand(len(images), -1, -1, -1)


def to_pil(image: Tensor) -> Image.Image:
    """A PIL image of uint8 pixels (3, h, w) or (1, h, w)."""
    pixels = image.permute(1, 2, 0).numpy()  # (h, w, c)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
