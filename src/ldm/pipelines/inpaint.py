"""Inpainting: new content under a mask, the image itself everywhere else (Rombach et al. 2022, Sec. 4.5)."""

from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ldm.pipelines.base import Pipeline
from ldm.pipelines.generation import Guided, Job, generate, prepare
from ldm.pipelines.img2img import Encoded, Images, as_tensor, noised
from ldm.pipelines.settings import Options, settings
from ldm.pipelines.text2img import noise
from ldm.utils.errors import UserError


class InpaintPipeline(Pipeline):
    """Repaints what is white in a mask.

    A net with further input channels (9 in Stable Diffusion's inpainting model) reads the mask and the
    latents of the image with the masked pixels grey. For a plain net the latents outside the mask are
    replaced after each step by those of the image at the new noise level, with the noise of the start, and by
    the image's own at the end (RePaint without resampling, Lugmayr et al. 2022, arXiv:2201.09865, Eq. 8). In
    both cases the pixels outside the mask are those of the input.
    """

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image: Images,
        mask: Images,
        strength: float = 1.0,
        **options: Unpack[Options],
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Samples an image for each prompt, equal to the given one outside the mask.

        Args:
            prompt: one prompt or a list.
            image: one image, or one for each prompt, all of one size; tensors (n, c, h, w) are in [-1, 1].
            mask: likewise, of the image's size; from 128 on (tensors: from 0 on) a pixel is repainted.
            strength: share of the steps that are run, in (0, 1]; at 1 the start is pure noise.
            options: what all pipelines take: `ldm.pipelines.settings.Settings`.

        Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
        Raises: ValueError for arguments that are out of range or sizes that differ; ArithmeticError for NaN
            or infinite values.
        """
        given = settings(options)
        images = as_tensor(image, "image", self.device)
        masks = as_masks(mask, images)
        shape = self.latent_shape(*images.shape[2:])
        job = prepare(self, prompt, given, shape, strength)
        source = Encoded(self, images, job, "posterior")
        small = F.interpolate(masks, size=shape[1:], mode="nearest")
        # the encoder sees nothing of what is under the mask
        hidden = Encoded(self, images * (1 - masks), job, "masked_posterior") if self.reads_masks() else None

        def start(job: Job, rows: range) -> Tensor:
            return noise(job, rows) if job.whole else noised(self, job, source(rows), rows)

        def guided(rows: range) -> Guided:
            index = [source.row[i] for i in rows]

            def finish(made: Tensor) -> Tensor:
                return torch.where(masks[index] > 0.5, made, images[index])

            if hidden is None:
                return Guided(blend=self._blend(job, source(rows), small[index], rows), finish=finish)
            return Guided(concat=torch.cat([small[index], hidden(rows)], dim=1), finish=finish)

        return generate(self, job, start, guided)

    def reads_masks(self) -> bool:
        """Whether the net has input channels for the mask and the masked image."""
        latent = self.autoencoder.latent_channels
        if self.backbone.in_channels == latent:
            return False
        self.check_input_channels(1 + latent)
        return True

    def _blend(self, job: Job, z0: Tensor, mask: Tensor, rows: range) -> Callable[[int, Tensor], Tensor]:
        """Maps (step, latents) to the latents with those of the image outside the mask."""
        eps, last = job.draws.normal("x_T", 0, rows, job.shape), len(job.grid) - 2

        def blend(i: int, x: Tensor) -> Tensor:
            known = z0
            if i < last:
                known = self.diffusion.add_noise(z0, eps, job.grid[i + 1 : i + 2].to(self.device))
            return torch.where(mask > 0.5, x, known)

        return blend


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
