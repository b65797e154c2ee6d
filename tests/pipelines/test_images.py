"""Images of a call as tensors and masks."""

from typing import Any

import pytest
import torch
from PIL import Image

from ldm.pipelines.images import as_masks, as_tensor, to_pil
from ldm.utils.errors import UserError

CPU = torch.device("cpu")
GREY = Image.new("RGB", (4, 2), (0, 51, 255))


def test_pixels_become_values_from_minus_one_to_one():
    x = as_tensor([GREY, GREY], "image", CPU)
    assert x.shape == (2, 3, 2, 4)
    assert torch.allclose(x[0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    assert torch.equal(as_tensor(x, "image", CPU), x)


def test_pixels_survive_the_way_there_and_back():
    image = Image.effect_noise((5, 3), 90).convert("RGB")
    x = as_tensor(image, "image", CPU)
    assert to_pil(((x[0] + 1) * 127.5).round().to(torch.uint8)).tobytes() == image.tobytes()
    assert to_pil(torch.zeros(1, 2, 2, dtype=torch.uint8)).mode == "L"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "image must be a PIL image, a list of them or a tensor"),
        ("cat.png", "image must be a PIL image"),
        ([GREY, GREY.resize((3, 3))], "image must be of one size"),
        (torch.zeros(3, 4, 4), "image must be a floating-point tensor"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "image must be a floating-point tensor"),
    ],
)
def test_other_values_are_refused(value: Any, says: str):
    with pytest.raises(UserError, match=says):
        as_tensor(value, "image", CPU)


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
