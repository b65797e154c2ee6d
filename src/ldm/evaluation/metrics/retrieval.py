"""Retrieval: is the prompted image the nearest of all reference images?"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from ldm.evaluation.metrics.references import ReferenceData
from ldm.evaluation.ranks import Ranks, ranks
from ldm.evaluation.score import Headline, ImageSampler, Picture, Score, Table
from ldm.evaluation.spread import spread
from ldm.utils.image_io import make_grid, save_png


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Fraction of training captions whose samples are nearest, in pixels, to the image that they name.

    Args:
        limit: captions that are scored, evenly spread; None for all.
        seed: of the noise.
    """

    limit: int | None = None
    seed: int = 0
    requires: ClassVar[type] = ReferenceData

    def __post_init__(self) -> None:
        """Checks the limit."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be null or at least 1, got {self.limit}")

    def __call__(self, sampler: ImageSampler, data: ReferenceData, folder: Path) -> Score:
        """Top-1 and top-5 with the misses, and samples/all.png."""
        chosen = spread(data.training_captions(), self.limit)
        captions = [caption for _, caption in chosen]
        targets = torch.tensor([index for index, _ in chosen])
        images = sampler.images(captions, self.seed)
        file, labels = "samples/all.png", data.reference_captions()
        found = ranks(images, data.reference_images(), targets)
        save_png(make_grid(images, columns=16), folder / file, {"prompts": "\n".join(captions)})
        misses = [
            {"caption": caption, "got": labels[got]}
            for caption, got, target in zip(captions, found.nearest.tolist(), targets.tolist(), strict=True)
            if got != target
        ]
        return _score(found, len(labels), misses, file)


def _score(found: Ranks, references: int, misses: list[dict[str, str]], file: str) -> Score:
    top1, top5, count = round(found.top1, 4), round(found.top5, 4), len(found.rank)
    facts = [
        ["captions", f"{count:,}"],
        ["reference images", f"{references:,}"],
        ["prompted image is nearest", f"{top1:.1%}"],
        ["among the five nearest", f"{top5:.1%}"],
    ]
    missed = [[miss["caption"], miss["got"]] for miss in misses]
    return Score(
        title="Retrieval",
        values={"top1": top1, "top5": top5, "n": count, "references": references, "misses": misses},
        headlines=[
            Headline(label="retrieval top-1", value=top1, format="{:.1%}"),
            Headline(label="retrieval top-5", value=top5, format="{:.1%}"),
        ],
        text="For each training caption: which of all reference images is nearest in pixels?",
        tables=[
            Table(head=["retrieval", ""], rows=facts),
            Table(
                head=["missed prompt", "nearest image"], rows=missed, summary=f"the {len(misses):,} misses"
            ),
        ],
        pictures=[Picture(file=file)],
    )
