"""PIL images of every mode as upright RGB, or as masks."""

import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from ldm.utils.errors import UserError

BACKGROUND = {"RGB": "white", "L": "black"}
"""Mode of the result -> colour of what is transparent. In a mask, it is not masked."""

UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error, zlib.error)
"""Errors of PIL for a file that is damaged or no image."""

TURNS = {  # EXIF orientation -> how the image is made upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = range(5, 9)  # orientations whose image is stored with its sides exchanged
EXIF_IN = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # entries of `info` that hold it


def orientation(image: Image.Image) -> int:
    """EXIF orientation of an image, 1 to 8; 1 if it has none, or its EXIF data are damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*UNREADABLE, KeyError, AttributeError):
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def flattened(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """The image upright, with 8 bits a channel and without transparency; itself if nothing has to be done.

    Args:
        image: of any mode; an EXIF orientation is applied, 16 bits are scaled.
        mode: "RGB", where transparent parts become white, or "L" for masks, where they become black. In a
            mask without a value above 1, as segmentation nets make them, 1 is white.

    Raises: ValueError for values that no rule maps to bytes.
    """
    if mode not in BACKGROUND:
        raise UserError(f"mode must be one of {list(BACKGROUND)}, got {mode!r}")
    turn = TURNS.get(orientation(image))
    if image.mode.startswith(("I", "F")):
        image = _with_bytes(image)
    if turn is not None:
        image = _turned(image, turn)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND[mode]), rgba)
    if image.mode != mode:
        image = image.convert(mode)
    return Image.fromarray(stretched(np.asarray(image))) if mode == "L" else image


def stretched(mask: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """A mask in 0..255; one without a value above 1 is taken for 0 and 1."""
    return mask * np.uint8(255) if mask.max(initial=0) <= 1 else mask


def _turned(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    """The image turned, without the EXIF data that ask for it."""
    upright = image.transpose(turn)
    upright.info = {name: value for name, value in image.info.items() if name not in EXIF_IN}
    return upright


def _with_bytes(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits or floats with bytes, its transparent value as an alpha channel."""
    values = np.asarray(image)
    if image.mode == "F":
        pixels = floats_to_bytes(values)
    elif image.mode.startswith("I;16") or image.format == "PNG" or values.max(initial=0) > 255:
        pixels = (in_range(values, 65535) / 257.0).round()
    else:
        pixels = in_range(values, 255)
    made = Image.fromarray(pixels.astype(np.uint8))
    made.info = {name: value for name, value in image.info.items() if name != "transparency"}
    if isinstance(hidden := image.info.get("transparency"), int):
        alpha = Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8))
        made.putalpha(alpha)
    return made


def floats_to_bytes(values: np.ndarray) -> np.ndarray:
    """0..255 for values in [0, 1], in [-1, 1] if one is negative, or in [0, 255] if one is above 1."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (low >= -1 and high <= (1 if low < 0 else 255)):
        raise UserError(f"pixels must lie in [0, 1], [-1, 1] or [0, 255], got {low:g} to {high:g}")
    if high > 1:
        return values.round()
    return (((values + 1) / 2 if low < 0 else values) * 255).round()


def in_range(values: np.ndarray, top: int) -> np.ndarray:
    """The whole numbers as they are.

    Raises: ValueError unless they are in 0..top.
    """
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > top:
        raise UserError(f"pixels must be whole numbers in 0..{top}, got {low} to {high}")
    return values
