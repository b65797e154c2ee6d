"""Sampled images in the form that a call asks for."""

from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image
from torch import Tensor

from ldm.generation.settings import Settings
from ldm.pipelines.images import to_pil
from ldm.utils.image_io import to_uint8


class Output(NamedTuple):
    """Result of a call with `return_dict=True`, as diffusers has it.

    Attributes:
        images: a list of PIL images, a tensor or an array.
        nsfw_content_detected: None, as nothing is looked for.
    """

    images: Any
    nsfw_content_detected: None = None


class ImageList(list[Image.Image]):
    """A list of images that is its own attribute `images`."""

    @property
    def images(self) -> "ImageList":
        """The list itself."""
        return self


Result = Image.Image | ImageList | Tensor | np.ndarray | Output | tuple[Any, ...]
"""One image or several, as `output` and `return_dict` of a call want it."""


def result(given: Settings, single: bool, made: Tensor, net_evaluations: list[int]) -> Result:
    """The images of a call, or its latents, of the kind that its settings name.

    Args:
        given: arguments of the call.
        single: True if the caller wants one image rather than a list.
        made: images (n, c, h, w) in [-1, 1], or latents if those are wanted.
        net_evaluations: for each image.
    """
    kind, images = given.output, cast(Any, made)
    if kind in ("pt", "np"):
        images = (made + 1) / 2
        images = images.permute(0, 2, 3, 1).cpu().numpy() if kind == "np" else images
    elif kind == "pil":
        images = ImageList(to_pil(image) for image in to_uint8(made).cpu())
        for image, evaluations in zip(images, net_evaluations, strict=True):
            image.info["net_evaluations"] = evaluations
    if given.return_dict is not None:
        return Output(images) if given.return_dict else tuple(Output(images))
    if kind != "pil" or not single:
        return cast(Result, images)
    vars(images[0])["images"] = images  # pipeline(prompt).images[0], as with diffusers
    return cast(Image.Image, images[0])
