"""Samples as shards store them: pixels without loss, files of a folder as they are."""

import io

import numpy as np
import torch
from PIL import Image

from ldm.data.imagefolder import ImageFolderData
from ldm.data.shards.stored import stored_samples
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
