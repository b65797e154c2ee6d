"""Image to image: noise is added to an image's latents and removed again (SDEdit, Meng et al. 2022)."""

from collections.abc import Sequence
from typing import Unpack

from ldm.generation.job import Start
from ldm.pipelines.base import Pipeline
from ldm.pipelines.fit import check_input_channels
from ldm.pipelines.images import Encoded, as_images, fitting
from ldm.pipelines.options import CallOptions
from ldm.pipelines.results import Result
from ldm.utils.image_arrays import Images


class Image2ImagePipeline(Pipeline):
    """Images from images and prompts (SDEdit, arXiv:2108.01073)."""

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Images,
        strength: float = 0.75,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Samples an image for each prompt, starting from an image.

        Args:
            prompt: one prompt or a list; None for an unconditional model, which takes `num_images`.
            image: one image, or one for each prompt, all of one size, of any kind
                (`ldm.utils.image_arrays.image_tensor`). Sides that the model cannot make are padded by their
                last row and column, and the result is cut back.
            strength: share of the steps that are run, in (0, 1]: floor(strength N) of N. At 1 nothing but
                traces of the image are left.
            options: arguments that all pipelines share: `ldm.pipelines.options.CallOptions`.

        Returns: one image for one prompt and one image each, else a list; a tensor or array if `output`
            names one.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        check_input_channels(self.autoencoder, self.backbone, 0)
        given = self.settings(options)
        original = as_images(image, self.autoencoder, self.device)
        images = fitting(original, self.autoencoder.downscale, self.backbone.position_size)
        height, width = original.shape[2:]
        job = self.prepare(prompt, given, self.sampler.latent_shape(*images.shape[2:]), strength)
        source = Encoded(self.sampler, images, job, "posterior")
        with self.watched(job) as watch:
            latents = self.sampler.latents(job, lambda rows: Start(x=source.noised(rows)), watch)
        return self.result(job, latents, lambda made: made[..., :height, :width])
