"""Images of fixed prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.evaluation.score import ImageSampler, Picture, Score
from ldm.utils.image_io import make_grid, save_png


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A grid of the images of fixed prompts, without a number.

    Args:
        captions: the prompts, or the number of images of an unconditional model.
        seed: of the noise.
        columns: of the grid.
    """

    captions: Sequence[str] | int
    seed: int = 0
    columns: int = 8

    def __call__(self, sampler: ImageSampler, data: Any, folder: Path) -> Score:
        """The grid, as samples/prompts.png."""
        file = "samples/prompts.png"
        images = sampler.images(self.captions, self.seed)
        words = None if isinstance(self.captions, int) else {"prompts": "\n".join(self.captions)}
        save_png(make_grid(images, columns=self.columns), folder / file, words)
        return Score(title="Fixed prompts", pictures=[Picture(file=file)])
