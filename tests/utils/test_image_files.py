"""One reading of image files: every kind of file becomes the picture that a person sees."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm.utils.image_files import TooManyPixels, head_of, read_image
from ldm.utils.image_modes import TURNS, UNREADABLE

INVERSE = {6: 8, 8: 6}


def picture():
    """Four colours at the corners of 48 x 96 pixels."""
    pixels = np.zeros((48, 96, 3), np.uint8)
    pixels[:24, :48], pixels[:24, 48:], pixels[24:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def stored(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", [1, *TURNS])
def test_photos_are_upright_whatever_their_camera_wrote(kind, value):
    exif = Image.Exif()
    exif[0x0112] = value
    lying = picture() if value == 1 else picture().transpose(TURNS[INVERSE.get(value, value)])
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    data = stored(lying, kind, exif=exif, **options)
    for cover in (None, (10, 20)):
        image, size = read_image(data, cover=cover)
        assert size == (48, 96)
        assert image.height / image.width == pytest.approx(0.5)
        small = np.asarray(image.resize((96, 48))).astype(int)
        assert np.abs(small - np.asarray(picture()))[8:-8:7, 8:-8:7].mean() < 12
    assert head_of(data) == (kind, (48, 96))


@pytest.mark.parametrize("cover", [(12, 24), (20, 20), (30, 8)])
def test_a_reduced_photo_covers_what_is_needed_also_on_its_side(cover):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = stored(picture().transpose(TURNS[8]), "JPEG", exif=exif)
    image, size = read_image(data, cover=cover)
    assert size == (48, 96)
    assert image.height >= cover[0]
    assert image.width >= cover[1]
    assert image.width < 96 or cover[0] > 24


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40]
)
def test_damaged_exif_data_are_none(exif):
    data = stored(picture(), "JPEG", exif=exif)
    assert read_image(data)[1] == head_of(data).size == (48, 96)


def test_sixteen_bits_palettes_cmyk_and_grey_become_rgb():
    deep = Image.fromarray(np.full((4, 6), 0x8080, np.uint16))
    assert read_image(stored(deep, "PNG"))[0].getpixel((0, 0)) == (128, 128, 128)
    palette = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(np.asarray(read_image(stored(palette, "PNG"))[0]), np.asarray(picture()))
    cmyk = read_image(stored(picture().convert("CMYK"), "JPEG", quality=95))[0]
    assert cmyk.getpixel((10, 10)) == pytest.approx((255, 0, 0), abs=12)
    assert read_image(stored(Image.new("L", (4, 4), 7), "PNG"))[0].getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_hidden_pixels_are_white(kind):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image, _ = read_image(stored(Image.fromarray(pixels), kind, **options))
    assert (np.asarray(image) == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_read(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert read_image(data)[0].getpixel((3, 3)) == (255, 0, 0)


def test_a_file_and_its_bytes_are_one_image(tmp_path):
    (tmp_path / "a.png").write_bytes(stored(picture(), "PNG"))
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        image, size = read_image(source)
        assert (np.asarray(image) == np.asarray(picture())).all()
        assert head_of(source) == ("PNG", size)


def test_large_images_are_refused_before_they_are_decoded(monkeypatch):
    data = stored(picture(), "PNG")
    with pytest.raises(TooManyPixels, match="96 x 48 pixels, at most 4607"):
        read_image(data[:100], max_pixels=48 * 96 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (read_image, head_of):
        with pytest.raises(TooManyPixels):
            read(data)
    with pytest.raises(UNREADABLE):
        head_of(b"no image")
