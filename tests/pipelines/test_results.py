"""The form in which a call returns its images."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from ldm.generation.settings import Settings
from ldm.pipelines.results import Output, result

MADE = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 2, 4)


def of(made: torch.Tensor, single: bool = False, **given: Any) -> Any:
    return result(Settings(**given), single, made, [7] * len(made))


def test_images_of_pil_know_their_evaluations_and_are_their_own_list():
    images = of(MADE)
    assert [(image.getpixel((0, 0)), image.info) for image in images] == [
        ((0, 128, 255), {"net_evaluations": 7})
    ] * 2
    assert isinstance(images, list)
    assert images.images is images
    image = of(MADE[:1], single=True)
    assert isinstance(image, Image.Image)
    assert image.images == [image]


def test_arrays_and_tensors_of_diffusers_are_in_0_1():
    tensor, array = of(MADE, output="pt"), of(MADE, output="np")
    assert tensor[0, :, 0, 0].tolist() == [0, 0.5, 1]
    assert isinstance(array, np.ndarray)
    assert array.shape == (2, 2, 4, 3)
    assert array[0, 0, 0].tolist() == [0, 0.5, 1]
    assert torch.equal(of(MADE, output="tensor"), MADE)
    assert torch.equal(of(MADE, output="latent"), MADE)


def test_a_result_of_diffusers_has_images_in_any_form():
    for output in ("pil", "tensor", "latent", "pt", "np"):
        found = of(MADE[:1], single=True, output=output, return_dict=True)
        assert isinstance(found, Output)
        assert found.images is found[0]
        images, flagged = of(MADE[:1], single=True, output=output, return_dict=False)
        assert flagged is None
        assert len(images) == len(found.images) == 1
