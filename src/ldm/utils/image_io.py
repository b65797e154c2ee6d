"""Images in and out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from ldm.utils.errors import UserError
from ldm.utils.files import replacing
from ldm.utils.image_files import read_image
from ldm.utils.image_modes import UNREADABLE, flattened

LABEL_WIDTH, LABEL_HEIGHT, LABEL_LINES = 96, 13, 2  # pixels: least width of a labelled image, line height
COLUMNS = 8  # of several images in one file
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def load_image(
    source: str | os.PathLike[str] | Image.Image, size: tuple[int, int] | None = None, mode: str = "RGB"
) -> Image.Image:
    """An upright image of 8 bits a channel, or a mask.

    Args:
        source: the file, or an image of PIL; EXIF orientation, palettes, 16 bits, grey, CMYK and transparency
            are understood.
        size: (width, height) to resize to. A pixel of a smaller mask is the maximum of those that it covers,
            so that no stroke is lost.
        mode: "RGB", where what is transparent becomes white; "L" for masks, where it becomes black.

    Raises: FileNotFoundError; ValueError if the file is no image.
    """
    if isinstance(source, Image.Image):
        image = flattened(source, mode)
        image = image.copy() if image is source else image
    elif not Path(source).is_file():
        raise FileNotFoundError(f"no image at {source}")
    else:
        try:
            image, _ = read_image(Path(source), mode)
        except UNREADABLE as error:
            raise UserError(f"{source} cannot be read as an image: {error}") from error
    if size is None:
        return image
    if min(size) < 1:
        raise UserError(f"size must be a width and a height in pixels, got {size}")
    width, height = size
    if mode == "RGB":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image))[None].float()
    return Image.fromarray(F.adaptive_max_pool2d(pixels, (height, width))[0].byte().numpy())


def save_image(image: Image.Image | Tensor, path: str | os.PathLike[str]) -> None:
    """Writes a picture; folders are made, and the file appears whole or not at all.

    Args:
        image: of PIL, or a tensor (c, h, w) or (n, c, h, w), several images side by side: bytes, or floats in
            [-1, 1] as pipelines return them.
        path: of the file; its suffix is the format.

    Raises: ValueError for a suffix that is no format of images, or values that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() not in (formats := Image.registered_extensions()):
        raise UserError(f"path must end like an image, such as .png or .jpg, got {path}")
    if isinstance(image, Tensor):
        pixels = (image if image.dtype == torch.uint8 else to_uint8(image)).detach().cpu()
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        single = pixels[0].expand(3, -1, -1).permute(1, 2, 0).numpy()
        image = Image.fromarray(single) if len(pixels) == 1 else make_grid(pixels, COLUMNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, formats[path.suffix.lower()])


def to_uint8(images: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """Images in [-1, 1] as bytes 0..255; values outside are clipped.

    Raises: ValueError for NaN or infinite values, which would turn into black pixels.
    """
    if not bool(images.isfinite().all()):
        raise UserError("images hold NaN or infinite values")
    return ((images.float() + 1.0) * 127.5).round().clamp(0.0, 255.0).byte()


def make_grid(
    images: UInt8[Tensor, "n c h w"], columns: int, padding: int = 2, background: int = 255
) -> Image.Image:
    """Images side by side, row by row, with a border around each.

    Args:
        images: RGB, or grey with one channel.
        columns: images per row.
        padding: pixels between images.
        background: grey value of borders and of places without an image.
    """
    n, _, h, w = images.shape
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    height, width = (rows * (h + padding) + padding), (columns * (w + padding) + padding)
    canvas = torch.full((3, height, width), background, dtype=torch.uint8)
    for i, image in enumerate(images):
        y, x = (padding + k * (side + padding) for k, side in zip(divmod(i, columns), (h, w), strict=True))
        canvas[:, y : y + h, x : x + w] = image
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def labelled_grid(
    images: UInt8[Tensor, "n c h w"], captions: Sequence[str], columns: int, padding: int = 4
) -> Image.Image:
    """A grid with a caption below each image; small images are enlarged so that captions can be read.

    Args:
        images: RGB, or grey with one channel.
        captions: one per image; what does not fit into two lines ends with an ellipsis.
        columns: images per row.
        padding: pixels between images.

    Raises: ValueError if there are not as many captions as images.
    """
    if len(captions) != len(images):
        raise UserError(f"captions must be as many as images, {len(images)}, got {len(captions)}")
    scale = max(1, -(-LABEL_WIDTH // images.shape[-1]))
    large = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    h, w = large.shape[2:]
    room = LABEL_LINES * LABEL_HEIGHT + 2
    grid = make_grid(F.pad(large, (0, 0, 0, room), value=255), columns, padding)
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=11)
    columns = max(1, min(columns, len(images)))
    for i, caption in enumerate(captions):
        row, column = divmod(i, columns)
        x, y = padding + column * (w + padding), padding + row * (h + room + padding) + h + 1
        for k, line in enumerate(fit_lines(caption, font, w)):
            start = x + (w - font.getlength(line)) / 2
            draw.text((start, y + k * LABEL_HEIGHT), line, fill=(60, 60, 60), font=font)
    return grid


def fit_lines(text: str, font: Font, width: int) -> list[str]:
    """Text broken between words into at most two lines of a width in pixels; the last may end with "..."."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (font.getlength(longer) <= width or len(lines) == LABEL_LINES):
            lines[-1] = longer
        else:
            lines.append(word)
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: Font, width: int) -> str:
    kept = line
    while kept and font.getlength(line if kept == line else f"{kept}...") > width:
        kept = kept[:-1]
    return line if kept == line else f"{kept}..."


def save_png(image: Image.Image, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a PNG with text metadata; the file appears whole or not at all."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)
