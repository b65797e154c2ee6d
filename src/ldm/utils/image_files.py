"""Image files as pixels: the one way in which data sets and pipelines read them."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm.utils.errors import UserError
from ldm.utils.image_modes import LYING, flattened, orientation

Size = tuple[int, int]  # height, width
JPEGS = ("JPEG", "MPO")
EXIF_OF_PNG = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # marks of chunks that can hold it


class TooManyPixels(UserError):
    """An image larger than what is allowed, which is not decoded."""


def read_image(
    source: Path | bytes, mode: str = "RGB", cover: Size | None = None, max_pixels: int | None = None
) -> tuple[Image.Image, Size]:
    """The first frame of an image file, upright, of 8 bits a channel and opaque, and its whole size.

    EXIF orientation, palettes, 16 bits, grey, CMYK and transparency are those of
    `ldm.utils.image_modes.flattened`.

    Args:
        source: path or bytes of the file.
        mode: "RGB", where what is transparent becomes white; "L" for masks, where it becomes black.
        cover: height and width that are needed: a JPEG is decoded at the smallest scale of the DCT that
            covers them. None: all of it.
        max_pixels: larger images are refused before they are decoded; None: no limit but that of PIL.

    Returns: the image and height and width of the upright image before any scaling.
    Raises: TooManyPixels; one of `UNREADABLE` for what is no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
                if max_pixels is not None and opened.width * opened.height > max_pixels:
                    raise TooManyPixels(f"{opened.width} x {opened.height} pixels, at most {max_pixels}")
                width, height = opened.size
                if cover is not None and opened.format in JPEGS:
                    _reduce(opened, cover[::-1] if orientation(opened) in LYING else cover)
                opened.load()
                lying = orientation(opened) in LYING  # not of a TIFF, whose size PIL exchanges itself
                return flattened(opened, mode), (width, height) if lying else (height, width)
        except Image.DecompressionBombError as error:
            raise TooManyPixels(str(error)) from error


class Head(NamedTuple):
    """PIL's name of the format of an image file, and height and width when upright."""

    format: str
    size: Size


def head_of(source: Path | bytes) -> Head:
    """Format and size of an image file, whose pixels are not decoded.

    Raises: TooManyPixels; one of `UNREADABLE` for what is no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
                width, height = opened.size
                lying = opened.format != "TIFF" and _may_lie(opened, source) and orientation(opened) in LYING
                return Head(opened.format or "", (width, height) if lying else (height, width))
        except Image.DecompressionBombError as error:
            raise TooManyPixels(str(error)) from error


def _may_lie(opened: Image.Image, source: Path | bytes) -> bool:
    """True unless it is a PNG without EXIF data: PIL would decode all of it to see that."""
    if opened.format != "PNG":
        return True
    data = source if isinstance(source, bytes) else source.read_bytes()
    return any(mark in data for mark in EXIF_OF_PNG)


def _reduce(jpeg: Image.Image, cover: Size) -> None:
    """Makes PIL decode a JPEG at a scale at which neither side is below what is needed."""
    size = (jpeg.height, jpeg.width)
    scale = max(cover[0] / size[0], cover[1] / size[1])
    if scale < 1:
        height, width = (max(int(n * scale), t) for n, t in zip(size, cover, strict=True))
        jpeg.draft("RGB", (width, height))
