"""Captions never trained on: the reference image nearest to their sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from ldm.evaluation.metrics.references import ReferenceData
from ldm.evaluation.ranks import ranks
from ldm.evaluation.score import Headline, ImageSampler, Picture, Score, Table
from ldm.utils.errors import UserError
from ldm.utils.image_io import make_grid, save_png


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Which of the captions held out of the training are drawn so that their own image is nearest.

    Args:
        captions: of reference images that were not trained on.
        seed: of the noise.
    """

    captions: Sequence[str]
    seed: int = 0
    requires: ClassVar[type] = ReferenceData

    def __post_init__(self) -> None:
        """Checks that there are captions."""
        if not self.captions:
            raise ValueError("captions must name at least one caption, got none")

    def __call__(self, sampler: ImageSampler, data: ReferenceData, folder: Path) -> Score:
        """Each caption with the nearest image, and samples/held_out.png.

        Raises: ValueError for a caption that the data do not have.
        """
        captions, labels = list(self.captions), data.reference_captions()
        if missing := [caption for caption in captions if caption not in labels]:
            raise UserError(f"captions must have a reference image, got {missing[0]!r}")
        images = sampler.images(captions, self.seed)
        file = "samples/held_out.png"
        save_png(make_grid(images, columns=len(captions)), folder / file, {"prompts": "\n".join(captions)})
        targets = torch.tensor([labels.index(caption) for caption in captions])
        nearest = ranks(images, data.reference_images(), targets).nearest.tolist()
        found = [(caption, labels[got]) for caption, got in zip(captions, nearest, strict=True)]
        right = sum(caption == got for caption, got in found)
        verdicts = [(c == got, "right" if c == got else f"nearest: {got}") for c, got in found]
        return Score(
            title="Captions held out of training",
            values=[{"caption": c, "nearest": got, "correct": c == got} for c, got in found],
            headlines=[Headline(label="held-out captions right", value=f"{right} of {len(found)}")],
            tables=[Table(head=["prompt", "nearest image"], rows=found, summary="the nearest images")],
            pictures=[Picture(file=file, verdicts=verdicts)],
        )
