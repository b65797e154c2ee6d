"""Text to image (Rombach et al. 2022, with the guidance of Ho & Salimans 2022)."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from ldm.pipelines.base import Pipeline
from ldm.pipelines.fit import check_input_channels
from ldm.pipelines.options import CallOptions
from ldm.pipelines.results import Result


class Text2ImagePipeline(Pipeline):
    """Images from prompts: `Text2ImagePipeline.from_pretrained(path)(prompt="red heart")`."""

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Samples an image for each prompt.

        Args:
            prompt: one prompt or a list; None for an unconditional model, which takes `num_images`.
            height: of the images in pixels; None: the size that the model was trained on.
            width: of the images in pixels.
            options: arguments that all pipelines share: `ldm.pipelines.options.CallOptions`.

        Returns: one image for one prompt and one image each, else a list; a tensor or array if `output`
            names one.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        check_input_channels(self.autoencoder, self.backbone, 0)
        given = self.settings(options)
        if isinstance(given.latents, Tensor) and given.latents.ndim == 4:
            factor = self.autoencoder.downscale
            height = given.latents.shape[2] * factor if height is None else height
            width = given.latents.shape[3] * factor if width is None else width
        job = self.prepare(prompt, given, self.sampler.latent_shape(height, width))
        with self.watched(job) as watch:
            latents = self.sampler.latents(job, watch=watch)
        return self.result(job, latents)
