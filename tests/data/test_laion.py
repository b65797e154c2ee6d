"""Batches hold the images of the shards, and say which part of them was taken."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.laion import LaionData


def smooth(i):
    """A JPEG of 32 x 40 pixels that its compression changes little."""
    pixels = np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((40, 32), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def test_images_are_what_the_shards_hold(making, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(8):
            for extension, data in (("jpg", smooth(i)), ("txt", f"photo {i}".encode())):
                info = tarfile.TarInfo(f"{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    batch = LaionData(shards=str(tmp_path / "a.tar"), batch_size=8, image_size=16).batch(0)
    assert batch["image"].shape == (8, 3, 16, 16)
    assert batch["image"].dtype == torch.float32
    for image, number in zip(batch["image"], making.numbers(batch), strict=True):
        whole = Image.open(io.BytesIO(smooth(number))).convert("RGB").crop((4, 0, 36, 32))
        expected = np.array(whole.resize((16, 16), Image.Resampling.BICUBIC))
        difference = image - torch.from_numpy(expected).movedim(-1, 0) / 127.5 + 1
        assert difference.abs().mean() < 0.03  # the DCT's scaling is not bicubic


def test_options_out_of_range_are_refused():
    for options, key in (
        ({"crop": "left"}, "crop"),
        ({"flip": 2.0}, "flip"),
        ({"max_bad_fraction": -1.0}, "max_bad_fraction"),
    ):
        with pytest.raises(ValueError, match=f"^{key} must be "):
            LaionData(shards="a.tar", batch_size=2, **options)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_batches_say_the_stored_size_and_the_crop_that_was_taken(making, flip, tmp_path):
    sizes = [(32, 64), (64, 32), (32, 32), (48, 32)] * 3
    making.write(tmp_path / "a.tar", 0, len(sizes), sizes=sizes)
    stream = LaionData(
        shards=str(tmp_path / "a.tar"), batch_size=4, image_size=16, crop="random", flip=flip, seed=5
    )
    lefts = set()
    for step in range(6):
        batch = stream.batch(step)
        assert batch["original_size"].dtype == batch["crop"].dtype == torch.int64
        for i, number in enumerate(making.numbers(batch)):
            height, width = sizes[number]
            assert batch["original_size"][i].tolist() == [height, width]
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
            image = Image.fromarray(pixels[:, ::-1] if flip else pixels)
            scale = 16 / min(height, width)
            resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            top, left = batch["crop"][i].tolist()
            expected = np.asarray(resized)[top : top + 16, left : left + 16]
            taken = ((batch["image"][i] + 1) * 127.5).round().int().movedim(0, -1).numpy()
            assert np.abs(taken - expected).max() <= 3
            lefts.add(left)
    assert len(lefts) > 3


def test_no_shards_are_an_error(folder):
    with pytest.raises(FileNotFoundError, match=r"no tar shards at .*none\*\.tar"):
        LaionData(shards=str(folder / "none*.tar"), batch_size=2).batch(0)
