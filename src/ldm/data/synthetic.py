"""Coloured shapes with captions, drawn on the spot: data that needs nothing."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from ldm.data.images import CaptionedImages

COLOURS = {"red": (220, 40, 40), "green": (50, 160, 70), "blue": (50, 90, 220), "yellow": (240, 210, 60)}
SHAPES = ("circle", "square", "triangle")


def draw(shape: str, colour: tuple[int, int, int], size: int) -> Image.Image:
    """A shape on white, drawn at four times the size and averaged."""
    n = 4 * size
    image = Image.new("RGB", (n, n), "white")
    pen, box = ImageDraw.Draw(image), (n // 8, n // 8, n - n // 8, n - n // 8)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(n // 2, n // 8), (n // 8, n - n // 8), (n - n // 8, n - n // 8)], fill=colour)
    return image.resize((size, size), Image.Resampling.BOX)


class SyntheticData(CaptionedImages):
    """All shapes in all colours, "red circle" to "yellow triangle". Args as in `CaptionedImages`."""

    def read(self) -> tuple[UInt8[Tensor, "n 3 h w"], Sequence[str]]:
        """The twelve images."""
        pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
        images = [np.asarray(draw(shape, COLOURS[colour], self.image_size)) for colour, shape in pairs]
        return torch.from_numpy(np.stack(images)).movedim(-1, 1), [f"{c} {s}" for c, s in pairs]

    def training_captions(self) -> list[tuple[int, str]]:
        """(index, caption) of the images trained on."""
        captions = self.held()[1]
        return [(k, captions[k]) for k in self.training_keys().tolist()]

    def reference_images(self) -> UInt8[Tensor, "n 3 h w"]:
        """The twelve images."""
        return self.held()[0]

    def reference_captions(self) -> list[str]:
        """Their captions."""
        return self.held()[1]
