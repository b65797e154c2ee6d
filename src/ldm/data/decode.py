"""From the bytes of an image to the pixels of a crop of it, and where in the image the crop lies."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.nn import functional as F

from ldm.utils.image_files import Size, TooManyPixels, read_image
from ldm.utils.image_modes import UNREADABLE

WASTE = 4  # pixels resized for one that is used, at most
REDUCTION = 6.0  # past which Pillow first takes means of blocks of pixels


class BadSample(Exception):
    """A sample that cannot be used; its text is the cause."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An upright image and its whole size, which the DCT's scaling may have made smaller.

    Args:
        image: RGB pixels.
        size: height and width of the upright image before any scaling.
    """

    image: Image.Image
    size: Size


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A window of a resized image: the image is scaled until it just covers the window.

    Args:
        resized: height and width of the resized image.
        top: of the window in the resized image, in its pixels.
        left: likewise; of the mirror image if the image is mirrored.
        mirrored: whether the image is mirrored first.
    """

    resized: Size
    top: int
    left: int
    mirrored: bool = False


def decode(data: bytes, target: Size, max_pixels: int) -> Decoded:
    """An RGB image as `read_image` reads it, decoded no larger than it takes to cover the target.

    Args:
        data: of a file.
        target: height and width that are needed.
        max_pixels: larger images are refused before they are decoded.

    Raises: BadSample naming the cause.
    """
    try:
        image, size = read_image(data, cover=target, max_pixels=max_pixels)
    except TooManyPixels as error:
        raise BadSample("too many pixels") from error
    except UNREADABLE as error:
        raise BadSample("damaged image") from error
    if min(size) < 2:
        raise BadSample("absurd size")
    return Decoded(image=image, size=size)


def crop_of(size: Size, target: Size, share: tuple[float, float], mirrored: bool = False) -> Crop:
    """The window of `target` in an image of `size`, at whole pixels of the resized image.

    Args:
        size: height and width of the stored image.
        target: height and width of the window.
        share: (y, x) in [0, 1] of what the window leaves over that lies above it and left of it.
        mirrored: the image is mirrored and then cropped, so `left` is counted in the mirror image, as in
            SDXL's training (Podell et al. 2023, arXiv:2307.01952, Sec. 2.2) by diffusers.
    """
    scale = max(target[0] / size[0], target[1] / size[1])
    height, width = (max(round(n * scale), wanted) for n, wanted in zip(size, target, strict=True))
    top, left = round(share[0] * (height - target[0])), round(share[1] * (width - target[1]))
    return Crop(resized=(height, width), top=top, left=left, mirrored=mirrored)


def cropped(decoded: Decoded, crop: Crop, target: Size) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a window, resized bicubically with antialiasing.

    Args:
        decoded: the image.
        crop: of `crop_of`, for its size and this target.
        target: height and width.
    """
    image, (height, width) = decoded.image, crop.resized
    left = width - target[1] - crop.left if crop.mirrored else crop.left
    rows, columns = slice(crop.top, crop.top + target[0]), slice(left, left + target[1])
    if image.size == (width, height):
        pixels = np.asarray(image)[rows, columns]
    elif width * height > WASTE * target[0] * target[1] or image.height > REDUCTION * height:
        x, y = image.width / width, image.height / height
        box = (left * x, crop.top * y, min(columns.stop * x, image.width), min(rows.stop * y, image.height))
        pixels = np.asarray(
            image.resize(target[::-1], Image.Resampling.BICUBIC, box=box, reducing_gap=REDUCTION / 2)
        )
    else:  # torch resizes bytes with vector instructions, but knows no box
        whole = torch.from_numpy(np.array(image)).movedim(-1, 0)[None]
        scaled = F.interpolate(whole, (height, width), mode="bicubic", antialias=True)
        pixels = scaled[0].movedim(0, -1).numpy()[rows, columns]
    return pixels[:, ::-1] if crop.mirrored else pixels
