"""Images of a call as tensors and masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.pipelines.images import as_images, as_masks, fitting, latent_masks, padded, to_pil
from ldm.utils.errors import UserError

CPU = torch.device("cpu")
LATENT = SimpleNamespace(downscale=8, latent_channels=4)


def test_pixels_survive_the_way_there_and_back():
    image = Image.effect_noise((5, 3), 90).convert("RGB")
    x = as_images(image, LATENT, CPU)
    assert to_pil(((x[0] + 1) * 127.5).round().to(torch.uint8)).tobytes() == image.tobytes()
    assert to_pil(torch.zeros(1, 2, 2, dtype=torch.uint8)).mode == "L"


def test_a_model_of_grey_pixels_gets_one_channel():
    grey = SimpleNamespace(downscale=1, latent_channels=1)
    image = Image.new("L", (4, 2), 51)
    assert torch.allclose(as_images(image, grey, CPU), torch.full((1, 1, 2, 4), -0.6))
    assert as_images(image, LATENT, CPU).shape == (1, 3, 2, 4)


@pytest.mark.parametrize("value", [0, 127])
def test_a_mask_that_selects_nothing_is_refused(value: int):
    images = torch.zeros(1, 3, 2, 4)
    with pytest.raises(UserError, match="mask must select a pixel"):
        as_masks(Image.new("L", (4, 2), value), images)
    with pytest.raises(UserError, match="mask must select a pixel"):  # one of two
        as_masks([Image.new("L", (4, 2), value), Image.new("L", (4, 2), 255)], images.expand(2, -1, -1, -1))
    with pytest.raises(UserError, match="mask must select a pixel"):
        as_masks(Image.new("RGBA", (4, 2), (255, 255, 255, value)), images)


def test_a_single_pixel_selects_its_cell():
    masks = torch.zeros(1, 1, 16, 24)
    masks[..., 13, 7] = 1
    assert latent_masks(masks, (2, 3)).tolist() == [[[[0, 0, 0], [1, 0, 0]]]]


def test_sides_are_padded_by_the_last_row_and_column(caplog: pytest.LogCaptureFixture):
    images = torch.from_numpy(np.random.default_rng(0).random((1, 3, 13, 16)).astype(np.float32))
    larger = padded(images, 8)
    assert larger.shape == (1, 3, 16, 16)
    assert torch.equal(larger[:, :, :13], images)
    assert torch.equal(larger[:, :, 13:], images[:, :, 12:].expand(-1, -1, 3, -1))
    fitting(larger, 8, None)
    assert not caplog.text
    assert torch.equal(fitting(images, 8, None), larger)
    assert "the image of 16 x 13 pixels is padded to 16 x 16" in caplog.text
    assert torch.equal(padded(larger, 8), larger)


def test_an_image_of_another_size_than_a_model_of_one_size_makes_is_named(caplog: pytest.LogCaptureFixture):
    images = torch.zeros(1, 3, 50, 60)
    assert fitting(images, 8, None).shape == (1, 3, 56, 64)
    caplog.clear()
    assert fitting(torch.zeros(1, 3, 64, 64), 8, 8).shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match="image must be 64 x 64 pixels for this model, got 60 x 50"):
        fitting(images, 8, 8)
    assert not caplog.text  # of padding that does not help


def test_masks_are_one_for_all_images_or_one_for_each():
    images = torch.zeros(2, 3, 2, 4)
    mask = Image.new("L", (4, 2), 127)
    mask.putpixel((1, 0), 128)
    masks = as_masks(mask, images)
    assert masks.shape == (2, 1, 2, 4)
    assert masks.sum() == 2
    assert masks[:, 0, 0, 1].tolist() == [1, 1]
    with pytest.raises(UserError, match="mask must be of the image's size, 4 x 2, got 2 x 4"):
        as_masks(mask.resize((2, 4)), images)
    with pytest.raises(UserError, match="mask must be one or 2, one for each image, got 3"):
        as_masks([mask] * 3, images)
