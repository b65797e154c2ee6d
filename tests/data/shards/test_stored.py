"""Samples as shards store them: pixels without loss, files of a folder as they are."""

import io

import numpy as np
import torch
from PIL import Image

from ldm.data.imagefolder import ImageFolderData
from ldm.data.laion import LaionData
from ldm.data.shards.stored import stored_samples
from ldm.data.shards.writer import write_shards
from ldm.data.synthetic import SyntheticData


def test_pixels_in_memory_are_stored_without_loss():
    data = SyntheticData(image_size=8, batch_size=4)
    images, captions = data.read()
    samples = list(stored_samples(data))
    assert [sample.caption for sample in samples] == list(captions)
    for sample, pixels in zip(samples, images, strict=True):
        with Image.open(io.BytesIO(sample.image)) as image:
            assert torch.equal(torch.from_numpy(np.array(image)).movedim(-1, 0), pixels)


def test_files_of_a_folder_are_stored_as_they_are(tmp_path):
    (tmp_path / "cat").mkdir()
    path = tmp_path / "cat" / "a.jpg"
    Image.new("RGB", (9, 8), "red").save(path)
    (sample,) = stored_samples(ImageFolderData(root=str(tmp_path), image_size=8, batch_size=1))
    assert sample.image == path.read_bytes()
    assert (sample.extension, sample.caption) == ("jpg", "a photo of a cat")


def test_shards_show_what_the_folder_shows(tmp_path):
    """Turned photos, transparency, animations and formats that shards do not hold."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 4), dtype=np.uint8)
    pixels[:, :5, 3] = 0
    folder = tmp_path / "x"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = Image.fromarray(pixels[..., :3])
    rgb.save(folder / "turned.png", exif=exif)
    rgb.save(folder / "large.bmp")
    rgb.save(folder / "deep.tif", exif=exif)
    Image.fromarray(pixels).save(folder / "clear.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "bits.png")
    rgb.convert("P").save(folder / "moving.gif", save_all=True, append_images=[Image.new("P", (12, 8))])
    for path in folder.iterdir():
        path.with_suffix(".txt").write_text(path.name, encoding="utf-16")
    options = {"image_size": 8, "batch_size": 6}
    data = ImageFolderData(root=str(folder), **options)
    write_shards(stored_samples(data), tmp_path / "shards")
    shards = LaionData(shards=str(tmp_path / "shards" / "*.tar"), **options)
    table = shards.index.samples
    for side in ("width", "height"):
        assert np.array_equal(table[side], table[f"stored_{side}"])
    found = {}
    for source in (data, shards):
        batch = source.batch(0)
        for caption, image in zip(batch["caption"], batch["image"], strict=True):
            found.setdefault(caption, []).append(image)
    assert len(found) == 6
    for name, (one, other) in found.items():
        assert (one - other).abs().max() < 0.1, name  # two bicubic filters
    turned = {c: s for c, s in zip(shards.captions(), table["stored_height"], strict=True)}
    assert turned["turned.png"] == turned["deep.tif"] == 12
