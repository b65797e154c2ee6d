"""What is written as shards is what the shards' data module reads."""

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.laion import LaionData
from ldm.data.shards.writer import encoded, of_file, write_shards


def picture(i):
    pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_and_captions_come_back(tmp_path):
    count = write_shards(
        (encoded(picture(i), f"photo {i}") for i in range(25)), tmp_path / "out", per_shard=10
    )
    assert count == 25
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    data = LaionData(shards=str(tmp_path / "out" / "*.tar"), batch_size=25, image_size=16)
    assert data.index.samples["width"].tolist() == [16.0] * 25
    batch = data.batch(0)
    for image, caption in zip(batch["image"], batch["caption"], strict=True):
        expected = torch.from_numpy(np.array(picture(int(caption.split()[1])))).movedim(-1, 0)
        assert torch.equal(((image + 1) * 127.5).round().byte(), expected)


def test_files_are_taken_as_they_are(tmp_path):
    picture(0).save(tmp_path / "a.JPG", "JPEG")
    sample = of_file(tmp_path / "a.JPG", "a photo")
    assert sample.image == (tmp_path / "a.JPG").read_bytes()
    assert (sample.extension, sample.said["width"]) == ("jpg", 16)
    (tmp_path / "b.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"b.png: cannot be read as an image"):
        of_file(tmp_path / "b.png", "")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def broken():
        yield encoded(picture(0), "one")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_shards(broken(), tmp_path / "out")
    with pytest.raises(ValueError, match="no sample"):
        write_shards(iter([]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="per_shard must be at least 1"):
        write_shards(iter([]), tmp_path / "out", per_shard=0)
