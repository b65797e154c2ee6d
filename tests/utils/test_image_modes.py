"""PIL images of every mode, as pictures and as masks."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ldm.utils.errors import UserError
from ldm.utils.image_modes import flattened, floats_to_bytes, stretched

SIZE, CORNER = (8, 8), (0, 0, 4, 4)


def strokes(mode: str) -> Image.Image:
    """White strokes in a quarter of a transparent canvas that is black underneath."""
    if mode == "P":
        image = Image.new("P", SIZE, 0)
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.paste(1, CORNER)
        image.info["transparency"] = 0
        return image
    if mode == "PA":
        return strokes("RGBA").convert("PA")
    image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), CORNER)
    return image.convert(mode)


def cut_out() -> Image.Image:
    """White everywhere, visible in a quarter only."""
    image = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), CORNER)
    return image


def sixteen_bits(transparent: int | None) -> Image.Image:
    pixels = np.full(SIZE, 65535, np.uint16)
    pixels[4:], pixels[:, 4:] = 7, 7
    image = Image.fromarray(pixels)
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def labels(value: int) -> Image.Image:
    pixels = np.zeros(SIZE, np.uint8)
    pixels[:4, :4] = value
    return Image.fromarray(pixels)


MASKS: dict[str, Callable[[], Image.Image]] = {
    **{mode: (lambda mode=mode: strokes(mode)) for mode in ("RGBA", "LA", "PA", "P", "RGBa")},
    "cut out": cut_out,
    "16 bits": lambda: sixteen_bits(None),
    "16 bits with a transparent value": lambda: sixteen_bits(7),
    "32 bits": lambda: Image.fromarray(np.asarray(labels(255)).astype(np.int32)),
    "float": lambda: Image.fromarray(np.asarray(labels(1)).astype(np.float32)),
    "float of two signs": lambda: Image.fromarray(np.asarray(labels(2)).astype(np.float32) - 1),
    "one bit": lambda: labels(255).convert("1"),
    "0 and 1": lambda: labels(1),
    "CMYK": lambda: labels(255).convert("CMYK"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_white_where_it_is_painted(name: str):
    mask = np.asarray(flattened(MASKS[name](), "L"))
    assert mask.dtype == np.uint8
    assert (mask[:4, :4] >= 128).all()
    assert (mask >= 128).sum() == 16


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa"])
def test_transparent_parts_of_a_picture_are_white(mode: str):
    assert (np.asarray(flattened(strokes(mode))) == 255).all()


def test_a_half_transparent_pixel_is_half_of_what_is_behind_it():
    image = Image.new("RGBA", SIZE, (255, 0, 0, 128))
    assert flattened(image).getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)
    assert flattened(Image.new("LA", SIZE, (255, 128)), "L").getpixel((0, 0)) == pytest.approx(128, abs=1)


def test_an_orientation_is_applied_once():
    image = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    upright = flattened(image)
    assert upright.size == (2, 4)
    assert flattened(upright).size == (2, 4)


def test_dark_pngs_of_16_bits_stay_dark(tmp_path):
    Image.fromarray(np.full(SIZE, 200, np.uint16)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert flattened(image).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("low", "high", "first", "last"), [(0, 1, 0, 255), (-1, 1, 0, 255), (0, 255, 0, 255), (0, 0.5, 0, 128)]
)
def test_floats_are_taken_by_their_range(low: float, high: float, first: int, last: int):
    assert floats_to_bytes(np.array([low, high])).tolist() == [first, last]


@pytest.mark.parametrize("values", [[-3.0, 0.0], [0.0, 300.0], [-1.0, 2.0]])
def test_floats_out_of_all_ranges_are_refused(values: list[float]):
    with pytest.raises(UserError, match=r"pixels must lie in \[0, 1\], \[-1, 1\] or \[0, 255\], got"):
        flattened(Image.fromarray(np.array([values], np.float32)))


def test_other_values_and_modes_are_refused():
    with pytest.raises(UserError, match=r"pixels must be whole numbers in 0..65535, got 0 to 70000"):
        flattened(Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(UserError, match=r"mode must be one of \['RGB', 'L'\], got 'HSV'"):
        flattened(labels(1), "HSV")


def test_only_a_mask_of_0_and_1_is_stretched():
    assert stretched(np.array([0, 1], np.uint8)).tolist() == [0, 255]
    assert stretched(np.array([0, 1, 2], np.uint8)).tolist() == [0, 1, 2]
    assert flattened(Image.new("L", SIZE, 1)).getpixel((0, 0)) == (1, 1, 1)
