"""Text to image (Rombach et al. 2022, with the guidance of Ho & Salimans 2022)."""

from collections.abc import Sequence
from typing import Unpack

from PIL import Image
from torch import Tensor

from ldm.generation.settings import Options, settings
from ldm.pipelines.base import Pipeline
from ldm.pipelines.fit import check_input_channels


class Text2ImagePipeline(Pipeline):
    """Images from prompts: `Text2ImagePipeline.from_pretrained(path)(prompt="red heart")`."""

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        **options: Unpack[Options],
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Samples an image for each prompt.

        Args:
            prompt: one prompt or a list; None for an unconditional model, which takes `num_images`.
            height: of the images in pixels; None: the size that the model was trained on.
            width: of the images in pixels.
            options: arguments that all pipelines share: `ldm.generation.Settings`.

        Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        check_input_channels(self.autoencoder, self.backbone, 0)
        job = self.prepare(prompt, settings(options), self.sampler.latent_shape(height, width))
        with self.watched(job) as watch:
            latents = self.sampler.latents(job, watch=watch)
        return self.result(job, latents)
