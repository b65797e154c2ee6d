import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from ldm.utils import load_image
from ldm.utils.image_io import fit_lines, labelled_grid, make_grid, save_image, save_png, to_uint8


def test_bytes_and_floats_are_inverse():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(values.float() / 127.5 - 1.0), values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_an_error_not_a_black_image(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_uint8(torch.full((1, 3, 2, 2), bad))


def test_grid_keeps_every_pixel():
    images = torch.randint(0, 255, (5, 3, 4, 6), dtype=torch.uint8)
    grid = torch.from_numpy(np.asarray(make_grid(images, columns=3, padding=1)).copy()).permute(2, 0, 1)
    assert grid.shape == (3, 2 * 5 + 1, 3 * 7 + 1)
    for i, image in enumerate(images):
        y, x = 1 + i // 3 * 5, 1 + i % 3 * 7
        assert torch.equal(grid[:, y : y + 4, x : x + 6], image)


def test_labels_stand_below_whole_images():
    images = torch.randint(0, 255, (3, 3, 40, 40), dtype=torch.uint8)
    grid = labelled_grid(images, ["red heart", "grüne Birne", ""], columns=2, padding=4)
    pixels = torch.from_numpy(np.asarray(grid).copy()).permute(2, 0, 1)
    assert torch.equal(pixels[:, 4:124:3, 4:124:3], images[0])  # 40 pixels are enlarged to 120
    assert (pixels[:, 124:150, 4:124] < 128).any()
    assert (pixels[:, 156 + 120 : 156 + 146, 4:124] == 255).all()  # no caption, nothing drawn


def test_as_many_captions_as_images():
    with pytest.raises(ValueError, match="captions must be as many as images, 2, got 1"):
        labelled_grid(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ["a"], columns=2)


def test_captions_are_broken_between_words_and_cut_at_two_lines():
    font = ImageFont.load_default(size=11)
    assert fit_lines("red heart", font, 200) == ["red heart"]
    assert fit_lines("red heart", font, 40) == ["red", "heart"]
    lines = fit_lines("a smiling face with sunglasses on a blue background", font, 96)
    assert len(lines) == 2
    assert lines[1].endswith("...")
    assert all(font.getlength(line) <= 96 for line in lines)
    assert fit_lines("", font, 96) == []


def test_png_carries_its_metadata_and_leaves_no_other_file(tmp_path):
    save_png(Image.new("RGB", (2, 2), "red"), tmp_path / "a.png", {"prompt": "ein rotes Herz ♥"})
    assert Image.open(tmp_path / "a.png").text["prompt"] == "ein rotes Herz ♥"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    image = Image.new("RGB", (2, 2))
    image.save = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        save_png(image, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def write(path, mode, colour, **options):
    Image.new(mode, (4, 2), colour).save(path, **options)
    return path


def test_transparency_becomes_white(tmp_path):
    image = load_image(write(tmp_path / "a.png", "RGBA", (255, 0, 0, 0)))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((2, 4), 0x8080, dtype=np.uint16)).save(path)
    assert load_image(path).getpixel((0, 0)) == (128, 128, 128)


def test_cmyk_grey_and_palette_become_rgb(tmp_path):
    assert load_image(write(tmp_path / "a.jpg", "CMYK", (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(write(tmp_path / "b.png", "L", 7)).getpixel((0, 0)) == (7, 7, 7)
    assert load_image(write(tmp_path / "c.png", "P", 0)).mode == "RGB"


def test_exif_orientation_and_size(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (4, 2)).save(path, exif=exif)
    assert load_image(path).size == (2, 4)
    assert load_image(path, size=(8, 6), mode="L").size == (8, 6)


def test_missing_and_broken_files_are_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image at"):
        load_image(tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        load_image(tmp_path / "broken.png")


def test_a_stroke_of_a_mask_survives_being_made_smaller(tmp_path):
    mask = Image.new("L", (64, 32))
    mask.putpixel((33, 9), 255)
    mask.save(tmp_path / "m.png")
    small = np.asarray(load_image(tmp_path / "m.png", size=(8, 4), mode="L"))
    assert np.argwhere(small).tolist() == [[1, 4]]
    assert small.max() == 255


def test_images_of_pil_are_taken_as_files_are(tmp_path):
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    image.save(tmp_path / "a.png")
    for mode in ("RGB", "L"):
        assert load_image(image, mode=mode).tobytes() == load_image(tmp_path / "a.png", mode=mode).tobytes()


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_a_size_that_is_none_is_named(size):
    with pytest.raises(ValueError, match="size must be a width and a height"):
        load_image(Image.new("RGB", (2, 2)), size=size)


def test_pictures_are_written_in_the_format_of_their_suffix(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, 4, 6)
    path = tmp_path / "new" / "folder" / "a.bmp"
    save_image(red, path)
    with Image.open(path) as image:
        assert (image.format, image.size, image.getpixel((0, 0))) == ("BMP", (6, 4), (255, 0, 0))
    save_image(red[None].expand(3, -1, -1, -1), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size[0] > 3 * 6
    save_image(Image.new("RGB", (2, 2), "blue"), tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.getpixel((1, 1)) == (0, 0, 255)
    with pytest.raises(ValueError, match=r"path must end like an image, such as \.png or \.jpg"):
        save_image(red, tmp_path / "c.txt")
