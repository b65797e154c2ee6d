"""Synthetic shapes: the caption says what was drawn."""

import pytest
import torch

from ldm.data.synthetic import COLOURS, SyntheticData


@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_middle_has_the_colour_and_the_corner_is_white(size):
    data = SyntheticData(batch_size=12, image_size=size)
    images, captions = data.reference_images(), data.reference_captions()
    for image, caption in zip(images, captions, strict=True):
        assert tuple(image[:, size // 2, size // 2].tolist()) == COLOURS[caption.split()[0]]
        assert image[:, 0, 0].tolist() == [255] * 3


def test_all_twelve_are_different_and_trained_on():
    data = SyntheticData(batch_size=12, image_size=16)
    assert len(set(data.batch(0)["caption"])) == 12
    images = data.reference_images()
    assert len({i.numpy().tobytes() for i in images}) == 12
    assert [data.reference_captions()[k] for k, _ in data.training_captions()] == data.reference_captions()


def test_shapes_cover_the_areas_of_geometry():
    data = SyntheticData(batch_size=12, image_size=64)
    area = {
        caption.split()[1]: (image != 255).any(0).float().sum().item() / 48**2
        for image, caption in zip(data.reference_images(), data.reference_captions(), strict=True)
    }
    torch.testing.assert_close(area["square"], 1.0, atol=0.06, rtol=0.0)
    torch.testing.assert_close(area["circle"], torch.pi / 4, atol=0.06, rtol=0.0)
    torch.testing.assert_close(area["triangle"], 0.5, atol=0.06, rtol=0.0)
