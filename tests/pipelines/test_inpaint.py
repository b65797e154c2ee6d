from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm import InpaintPipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAST: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0}
SIZE = (32, 24)


@pytest.fixture(params=["inpaint", "sd1"])
def pipeline(request: pytest.FixtureRequest, stable_diffusion: Callable[..., LoadedModel]) -> InpaintPipeline:
    """A net that reads masks, and one that does not."""
    model = stable_diffusion(request.param, 0, f8=True)
    return InpaintPipeline(**model.components, config=model.config)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def disc(size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask with a soft edge that no grid of latents follows."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    return Image.fromarray((255 * np.exp(-((x - 15) ** 2 + (y - 10) ** 2) / 90)).astype(np.uint8))


def test_outside_the_mask_the_image_is_the_input_bit_for_bit(pipeline: InpaintPipeline):
    made = pipeline(["a cat", "a dog"], image=picture(), mask=disc(), num_images_per_prompt=2, **FAST)
    white = np.asarray(disc()) >= 128
    assert 0 < white.sum() < white.size
    for image in made:
        assert np.array_equal(np.asarray(image)[~white], np.asarray(picture())[~white])
        assert (np.asarray(image)[white] != np.asarray(picture())[white]).any()


def test_an_image_depends_on_its_own_seed_only(pipeline: InpaintPipeline):
    options = {"mask": disc(), "output": "tensor", **FAST}
    together = pipeline(["a", "b"], image=[picture(0), picture(1)], seed=[8, 3], **options)
    alone = pipeline("b", image=picture(1), seed=3, **options)
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_an_empty_mask_is_refused(pipeline: InpaintPipeline):
    with pytest.raises(UserError, match="mask must select a pixel"):
        pipeline("a", image=picture(), mask=Image.new("L", SIZE), **FAST)


def test_a_stroke_of_one_pixel_repaints_its_cell(pipeline: InpaintPipeline):
    """At the end of the cell: nearest neighbours would see only its first pixel."""
    mask = Image.new("L", SIZE)
    mask.putpixel((15, 15), 255)
    options = {"image": picture(), "mask": mask, **FAST, "num_inference_steps": 1}
    changed = np.argwhere((np.asarray(pipeline("a", **options)) != np.asarray(picture())).any(-1))
    assert changed.tolist() == [[15, 15]]
    z, other = (pipeline(prompt, output="latent", **options) for prompt in ("a", "b"))
    moved = (z != other).any(1)[0]
    assert moved[1, 1]
    assert pipeline.reads_masks() or moved.sum() == 1


def test_sides_that_the_model_cannot_make_are_padded_and_cut_back(
    pipeline: InpaintPipeline, caplog: pytest.LogCaptureFixture
):
    size = (29, 21)
    made = pipeline("a", image=picture(0, size), mask=disc(size), **FAST)
    assert made.size == size
    assert caplog.text.count("is padded to 32 x 24") == 1
    white = np.asarray(disc(size)) >= 128
    assert np.array_equal(np.asarray(made)[~white], np.asarray(picture(0, size))[~white])
    assert (np.asarray(made)[white] != np.asarray(picture(0, size))[white]).any()


def test_masks_have_two_names(pipeline: InpaintPipeline):
    options = {"image": picture(), "output": "tensor", **FAST}
    first = pipeline("a", mask=disc(), **options)
    assert torch.equal(pipeline("a", mask_image=np.asarray(disc()) >= 128, **options), first)
    with pytest.raises(UserError, match="mask must be given once"):
        pipeline("a", mask=disc(), mask_image=disc(), **options)
    with pytest.raises(UserError, match="mask must be given"):
        pipeline("a", **options)


def test_strength_is_the_share_of_steps(pipeline: InpaintPipeline):
    seen: list[int] = []
    pipeline("a", image=picture(), mask=disc(), strength=0.7, on_step=lambda i, x, x0: seen.append(i), **FAST)
    assert seen == [0, 1]


def test_the_net_that_reads_masks_never_sees_what_is_under_it(stable_diffusion: Callable[..., LoadedModel]):
    model = stable_diffusion("inpaint", 0, f8=True)
    pipeline = InpaintPipeline(**model.components, config=model.config)
    white = np.asarray(disc()) >= 128
    other = np.where(white[:, :, None], np.asarray(picture(5)), np.asarray(picture()))
    seen: list[Tensor] = []
    encode = pipeline.autoencoder.encode
    pipeline.autoencoder.encode = lambda image: seen.append(image.clone()) or encode(image)
    options = {"mask": disc(), "output": "tensor", **FAST}
    first = pipeline("a", image=picture(), **options)
    second = pipeline("a", image=Image.fromarray(other), **options)
    assert torch.equal(first, second)
    masked = [image for image in seen if bool((image[0, :, torch.from_numpy(white)] == 0).all())]
    assert len(masked) == 2


def test_a_plain_net_ends_with_the_images_latents_outside_the_mask(
    stable_diffusion: Callable[..., LoadedModel],
):
    model = stable_diffusion("sd1", 0, f8=True)
    pipeline = InpaintPipeline(**model.components, config=model.config)
    mask = np.zeros((24, 32), np.uint8)
    mask[8:16, 8:24] = 255
    z = pipeline("a", image=picture(), mask=Image.fromarray(mask), output="latent", **FAST)
    corner = Image.new("L", SIZE)
    corner.putpixel((31, 23), 255)
    expected = pipeline("b", image=picture(), mask=corner, output="latent", **FAST)
    small = torch.from_numpy(mask[::8, ::8] > 0)
    small[-1, -1] = True
    assert torch.equal(z[:, :, ~small], expected[:, :, ~small])
    assert not torch.equal(z[:, :, 1, 1:3], expected[:, :, 1, 1:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": disc((32, 32))}, r"mask must be of the image's size, 32 x 24, got 32 x 32"),
        ({"mask": [disc(), disc()]}, r"mask must be one or 1, one for each image, got 2"),
        ({"mask": disc(), "strength": 2.0}, r"strength must be in \(0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_named(pipeline: InpaintPipeline, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pipeline("a", image=picture(), **FAST, **options)


@pytest.fixture
def plain(stable_diffusion: Callable[..., LoadedModel]) -> InpaintPipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    return InpaintPipeline(**model.components, config=model.config)


def test_resampling_runs_each_part_several_times_and_keeps_what_is_known(plain: InpaintPipeline):
    options = {"image": picture(), "mask": disc(), "num_inference_steps": 5, "output": "tensor", "seed": 3}
    once = plain("a", **options)
    assert torch.equal(plain("a", resample=1, jump_length=2, **options), once)
    evaluations = plain.net_evaluations[0]
    seen: list[int] = []
    made = plain("a", resample=3, jump_length=2, on_step=lambda i, x, x0: seen.append(i), **options)
    assert seen == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 4]
    assert plain.net_evaluations[0] * 5 == evaluations * len(seen)
    white = torch.from_numpy(np.asarray(disc()) >= 128)
    assert torch.equal(made[..., ~white], once[..., ~white])
    assert not torch.equal(made[..., white], once[..., white])
    together = plain(["b", "a"], resample=3, jump_length=2, **{**options, "seed": [8, 3]})
    assert torch.allclose(together[1:2], made, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resample": 0}, r"resample must be at least 1, got 0"),
        ({"jump_length": 0}, r"jump_length must be at least 1, got 0"),
        ({"resample": 2, "jump_length": 3}, r"jump_length must be less than the 3 steps that are run, got 3"),
        ({"resample": 2, "noise": "brownian"}, r"resample must be 1 with noise=brownian, got 2"),
    ],
)
def test_impossible_resampling_is_refused(plain: InpaintPipeline, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        plain("a", image=picture(), mask=disc(), **FAST, **options)


def test_a_net_that_reads_masks_takes_no_resampling(stable_diffusion: Callable[..., LoadedModel]):
    model = stable_diffusion("inpaint", 0, f8=True)
    pipeline = InpaintPipeline(**model.components, config=model.config)
    with pytest.raises(ValueError, match=r"resample must be 1 for a model that reads masks, got 2"):
        pipeline("a", image=picture(), mask=disc(), resample=2, **FAST)


def test_other_input_channels_are_refused(stable_diffusion: Callable[..., LoadedModel]):
    model = stable_diffusion("sd1", 0, f8=True)
    model.components["backbone"].in_channels = 6
    with pytest.raises(ValueError, match="6 input channels for latents of 4 is not supported"):
        InpaintPipeline(**model.components, config=model.config)("a", image=picture(), mask=disc(), **FAST)
