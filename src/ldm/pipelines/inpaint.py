"""Inpainting: new content under a mask, the image itself everywhere else (Rombach et al. 2022, Sec. 4.5)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from ldm.diffusion.resampling import Resampling
from ldm.generation.job import Job, Start
from ldm.generation.settings import check_count
from ldm.pipelines.base import Pipeline
from ldm.pipelines.fit import check_input_channels
from ldm.pipelines.images import Encoded, as_images, as_masks, fitting, latent_masks, padded
from ldm.pipelines.options import CallOptions
from ldm.pipelines.results import Result
from ldm.utils.errors import UserError
from ldm.utils.image_arrays import Images


class InpaintPipeline(Pipeline):
    """Repaints the part of an image that is white in a mask.

    A net with further input channels (9 in Stable Diffusion's inpainting model) reads the mask and the
    latents of the image with the masked pixels grey. For a plain net the latents outside the mask are
    replaced after each step by those of the image at the new noise level, with the noise of the start, and by
    the image's own at the end (Lugmayr et al. 2022, arXiv:2201.09865, Eq. 8). RePaint draws that noise anew
    at each step: on Gaussian data this leaves the covariance of old and new pixels as it is and makes the
    variance of new ones, too small already, smaller still. In both cases the pixels outside the mask are the
    input's.

    Sides that the model cannot make are padded by their last row and column, and the result is cut back. A
    cell of the latents is sampled anew if one of its pixels is masked; transparent parts of a mask are not.

    A plain net sees the image through noise alone, and what it draws agrees with it too little: `resample`
    runs each part of the path several times (RePaint's Alg. 1).
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Images,
        mask: Images | None = None,
        mask_image: Images | None = None,
        strength: float = 1.0,
        resample: int = 1,
        jump_length: int = 1,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Samples an image for each prompt, equal to the given one outside the mask.

        Args:
            prompt: one prompt or a list; None for an unconditional model, which takes `num_images`.
            image: one, or one for each prompt, of one size and any kind (`ldm.utils.image_arrays`).
            mask: one or as many as images, of their size: white, from 128 of 255 on, is repainted.
            mask_image: diffusers' name of `mask`.
            strength: share of the steps that are run, in (0, 1]; at 1 the start is pure noise.
            resample: how often each part of the steps is run, with a net that does not read masks.
            jump_length: steps of a part, less than are run.
            options: `ldm.pipelines.options.CallOptions`, as of all pipelines.

        Returns: one image for one prompt, else a list; a tensor or array if `output` names one.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        given = self.settings(options)
        images, masks, (height, width) = self._padded(image, _one_of(mask, mask_image))
        shape = self.sampler.latent_shape(*images.shape[2:])
        job = self._resampled(self.prepare(prompt, given, shape, strength), resample, jump_length)
        source = Encoded(self.sampler, images, job, "posterior")
        start = self._start(job, source, images, masks)
        with self.watched(job) as watch:
            latents = self.sampler.latents(job, start, watch)

        def finish(made: Tensor) -> Tensor:
            return torch.where(masks[source.row] > 0.5, made, images[source.row])[..., :height, :width]

        return self.result(job, latents, finish)

    def _padded(self, image: Images, mask: Images) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Images and masks with sides that the model can make, and the height and width without them."""
        original = as_images(image, self.autoencoder, self.device)
        masks, factor = as_masks(mask, original), self.autoencoder.downscale
        images = fitting(original, factor, self.backbone.position_size)
        return images, padded(masks, factor), (original.shape[2], original.shape[3])

    def _start(self, job: Job, source: Encoded, images: Tensor, masks: Tensor) -> Callable[[range], Start]:
        """Maps rows to their starting latents, with the mask as further channels or as a blend."""
        small = latent_masks(masks, job.shape[1:])
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

    def _resampled(self, job: Job, resample: int, jump_length: int) -> Job:
        """The job with its parts run several times.

        Raises: ValueError for numbers out of range, a net that reads masks and noise of one path.
        """
        for name, value in (("resample", resample), ("jump_length", jump_length)):
            check_count(name, value)
        if resample == 1:
            return job
        if self.reads_masks():
            raise UserError(f"resample must be 1 for a model that reads masks, got {resample}")
        if job.noise == "brownian":  # a path has one increment for a transition, however often it is run
            raise UserError(f"resample must be 1 with noise=brownian, got {resample}")
        if jump_length >= (steps := len(job.grid) - 1):
            raise UserError(
                f"jump_length must be less than the {steps} steps that are run, got {jump_length}"
            )
        return replace(job, resampling=Resampling(count=resample, jump=jump_length))

    def reads_masks(self) -> bool:
        """True if the net has input channels for the mask and the masked image."""
        latent = self.autoencoder.latent_channels
        if self.backbone.in_channels == latent:
            return False
        check_input_channels(self.autoencoder, self.backbone, 1 + latent)
        return True

    def _blend(self, job: Job, z0: Tensor, mask: Tensor, rows: range) -> Callable[[int, Tensor], Tensor]:
        """Maps (step, latents) to the latents with those of the image outside the mask."""
        eps, last = job.start_noise(rows), len(job.grid) - 2

        def blend(i: int, x: Tensor) -> Tensor:
            known = z0
            if i < last:
                known = self.diffusion.add_noise(z0, eps, job.grid[i + 1 : i + 2].to(self.device))
            return torch.where(mask > 0.5, x, known)

        return blend


def _one_of(mask: Images | None, mask_image: Images | None) -> Images:
    """The mask, by whichever name it was given.

    Raises: ValueError unless exactly one is given.
    """
    if mask is not None and mask_image is not None:
        raise UserError("mask must be given once, got mask_image besides")
    given = mask_image if mask is None else mask
    if given is None:
        raise UserError("mask must be given: white is painted anew; got none")
    return given
