"""Image to image: noise is added to an image's latents and removed again (SDEdit, Meng et al. 2022)."""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ldm.models.vae import Posterior
from ldm.pipelines.base import Pipeline
from ldm.pipelines.generation import Guided, Job, generate, prepare
from ldm.pipelines.settings import Options, settings
from ldm.utils.errors import UserError

Images = Image.Image | Tensor | Sequence[Image.Image]


class Image2ImagePipeline(Pipeline):
    """Images from images and prompts (SDEdit, arXiv:2108.01073)."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image: Images,
        strength: float = 0.75,
        **options: Unpack[Options],
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Samples an image for each prompt, starting from an image.

        Args:
            prompt: one prompt or a list.
            image: one image, or one for each prompt, all of one size; tensors (n, c, h, w) are in [-1, 1].
            strength: share of the steps that are run, in (0, 1]: floor(strength N) of N. At 1 nothing but
                traces of the image are left.
            options: what all pipelines take: `ldm.pipelines.settings.Settings`.

        Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        self.check_input_channels(0)
        given = settings(options)
        images = as_tensor(image, "image", self.device)
        shape = self.latent_shape(*images.shape[2:])
        job = prepare(self, prompt, given, shape, strength)
        source = Encoded(self, images, job, "posterior")
        return generate(
            self, job, lambda job, rows: noised(self, job, source(rows), rows), lambda rows: Guided()
        )


class Encoded:
    """Latents of images, drawn from their posterior; each image is encoded once.

    Args:
        pipeline: the model.
        images: one for all rows or one for each prompt, (n, c, h, w) in [-1, 1].
        job: the call.
        purpose: of the draws.

    Raises: ValueError if there is neither one image nor one for each prompt.
    """

    def __init__(self, pipeline: Pipeline, images: Tensor, job: Job, purpose: str) -> None:
        each = job.given.num_images_per_prompt
        if len(images) not in (1, len(job.prompts) // each):
            raise UserError(
                f"image must be one or {len(job.prompts) // each}, one for each prompt, got {len(images)}"
            )
        self.pipeline, self.job, self.purpose = pipeline, job, purpose
        self.row = [0 if len(images) == 1 else i // each for i in range(len(job.prompts))]
        self.posterior = pipeline.posterior(images)

    def __call__(self, rows: range) -> Float[Tensor, "b c h w"]:
        """Normalised latents of some of the rows."""
        index = [self.row[i] for i in rows]
        posterior = Posterior(self.posterior.mean[index], self.posterior.logvar[index])
        noise = self.job.draws.normal(self.purpose, 0, rows, self.job.shape)
        z: Tensor = self.pipeline.autoencoder.normalise(posterior.sample(noise))
        return z


def noised(pipeline: Pipeline, job: Job, z0: Tensor, rows: range) -> Tensor:
    """Latents at the first time of the grid: alpha z0 + sigma eps."""
    eps = job.draws.normal("x_T", 0, rows, job.shape)
    return pipeline.diffusion.add_noise(z0, eps, job.grid[:1].to(pipeline.device))


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
