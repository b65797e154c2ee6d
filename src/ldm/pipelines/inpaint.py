"""Inpainting: new content under a mask, the image itself everywhere else (Rombach et al. 2022, Sec. 4.5)."""

from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ldm.generation.job import Job, Start
from ldm.generation.settings import Options, settings
from ldm.pipelines.base import Pipeline
from ldm.pipelines.fit import check_input_channels
from ldm.pipelines.images import Encoded, Images, as_masks, as_tensor


class InpaintPipeline(Pipeline):
    """Repaints the part of an image that is white in a mask.

    A net with further input channels (9 in Stable Diffusion's inpainting model) reads the mask and the
    latents of the image with the masked pixels grey. For a plain net the latents outside the mask are
    replaced after each step by those of the image at the new noise level, with the noise of the start, and by
    the image's own at the end (RePaint without resampling, Lugmayr et al. 2022, arXiv:2201.09865, Eq. 8). In
    both cases the pixels outside the mask are those of the input.
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Images,
        mask: Images,
        strength: float = 1.0,
        **options: Unpack[Options],
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Samples an image for each prompt, equal to the given one outside the mask.

        Args:
            prompt: one prompt or a list; None for an unconditional model, which takes `num_images`.
            image: one image, or one for each prompt, all of one size; tensors (n, c, h, w) are in [-1, 1].
            mask: one or as many as images, of their size; from 128 on (tensors: from 0 on) a pixel is
                repainted.
            strength: share of the steps that are run, in (0, 1]; at 1 the start is pure noise.
            options: arguments that all pipelines share: `ldm.generation.Settings`.

        Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
        Raises: ValueError for arguments that are out of range or sizes that differ; ArithmeticError for NaN
            or infinite values.
        """
        given = settings(options)
        images = as_tensor(image, "image", self.device)
        masks = as_masks(mask, images)
        shape = self.sampler.latent_shape(*images.shape[2:])
        job = self.prepare(prompt, given, shape, strength)
        source = Encoded(self.sampler, images, job, "posterior")
        start = self._start(job, source, images, masks)
        with self.watched(job) as watch:
            latents = self.sampler.latents(job, start, watch)
        return self.result(
            job, latents, lambda made: torch.where(masks[source.row] > 0.5, made, images[source.row])
        )

    def _start(self, job: Job, source: Encoded, images: Tensor, masks: Tensor) -> Callable[[range], Start]:
        """Maps rows to their starting latents, with the mask as further channels or as a blend."""
        small = F.interpolate(masks, size=job.shape[1:], mode="nearest")
        hidden = None
        if self.reads_masks():  # the encoder must not see the pixels under the mask
            hidden = Encoded(self.sampler, images * (1 - masks), job, "masked_posterior")

        def start(rows: range) -> Start:
            index = [source.row[i] for i in rows]
            x = job.pure_noise(rows) if job.whole else source.noised(rows)
            if hidden is None:
                return Start(x=x, blend=self._blend(job, source(rows), small[index], rows))
            return Start(x=x, concat=torch.cat([small[index], hidden(rows)], dim=1))

        return start

    def reads_masks(self) -> bool:
        """True if the net has input channels for the mask and the masked image."""
        latent = self.autoencoder.latent_channels
        if self.backbone.in_channels == latent:
            return False
        check_input_channels(self.autoencoder, self.backbone, 1 + latent)
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
