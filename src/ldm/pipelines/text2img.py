"""Text to image (Rombach et al. 2022, with the guidance of Ho & Salimans 2022)."""

from collections.abc import Sequence
from typing import Unpack

from PIL import Image
from torch import Tensor

from ldm.pipelines.base import Pipeline
from ldm.pipelines.generation import Guided, Job, generate, prepare
from ldm.pipelines.settings import Options, settings


class Text2ImagePipeline(Pipeline):
    """Images from prompts: `Text2ImagePipeline.from_pretrained(path)(prompt="red heart")`."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        **options: Unpack[Options],
    ) -> Image.Image | list[Image.Image] | Tensor:
        """Samples an image for each prompt.

        Args:
            prompt: one prompt or a list.
            height: of the images in pixels; None: what the model was trained on.
            width: likewise.
            options: what all pipelines take: `ldm.pipelines.settings.Settings`.

        Returns: one image for one prompt and one image each, else a list; a tensor if asked for.
        Raises: ValueError for arguments that are out of range; ArithmeticError for NaN or infinite values.
        """
        self.check_input_channels(0)
        job = prepare(self, prompt, settings(options), self.latent_shape(height, width))
        return generate(self, job, noise, lambda rows: Guided())


def noise(job: Job, rows: range) -> Tensor:
    """Pure noise, the latents at the top of the schedule, as wide as noisy data of unit variance."""
    drawn = job.draws.normal("x_T", 0, rows, job.shape)
    return drawn * job.schedule.spread(job.grid[:1].to(drawn.device), drawn.ndim)
