from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm import Image2ImagePipeline, Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.utils.image_arrays import image_tensor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAST: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Image2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    return Image2ImagePipeline(**model.components, config=model.config)


def picture(seed: int = 0, size: tuple[int, int] = (32, 24)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for the order of sums, which depends on the batch size."""
    return torch.allclose(a, b, atol=1e-4)


def test_the_image_gives_the_size(pipeline: Image2ImagePipeline):
    image = pipeline("a cat", image=picture(), **FAST)
    assert isinstance(image, Image.Image)
    assert image.size == (32, 24)
    assert len(pipeline(["a", "b"], image=picture(), **FAST)) == 2


@pytest.mark.parametrize(("strength", "steps"), [(0.25, 1), (0.3, 1), (0.75, 3), (1.0, 4), (1, 4)])
def test_strength_is_the_share_of_steps(pipeline: Image2ImagePipeline, strength: float, steps: int):
    seen: list[int] = []
    pipeline("a", image=picture(), strength=float(strength), on_step=lambda i, x, x0: seen.append(i), **FAST)
    assert seen == list(range(steps))


def test_less_strength_leaves_more_of_the_image(pipeline: Image2ImagePipeline):
    """Distance of the latents from the image's grows with strength."""
    image = picture(size=(64, 64))
    images = image_tensor(image)
    z = pipeline.autoencoder.normalise(pipeline.sampler.codec.posterior(images).mean)
    options = {"image": image, "output": "latent", "num_inference_steps": 20, "guidance_scale": 1.0}
    distances = [
        float((pipeline("a", strength=strength, **options) - z).norm()) for strength in (0.05, 0.4, 1.0)
    ]
    assert distances == sorted(distances)


def test_an_image_depends_on_its_own_seed_only(pipeline: Image2ImagePipeline):
    """For any batch size and position; each prompt may have its own image."""
    images = [picture(0), picture(1), picture(2)]
    options = {"output": "latent", "eta": 0.5, **FAST}
    together = pipeline(["a", "b", "c"], image=images, seed=[8, 3, 1], **options)
    alone = pipeline("b", image=picture(1), seed=3, **options)
    assert close(together[1:2], alone)
    assert close(pipeline(["a", "b", "c"], image=images, seed=[8, 3, 1], batch_size=1, **options), together)
    assert not close(pipeline("b", image=picture(2), seed=3, **options), alone)


def test_an_image_is_the_same_whatever_holds_it(pipeline: Image2ImagePipeline, tmp_path: Path):
    picture().save(tmp_path / "in.png")
    wanted = pipeline("a", image=picture(), output="tensor", **FAST)
    for image in (image_tensor(picture()), np.asarray(picture()), tmp_path / "in.png"):
        assert torch.equal(pipeline("a", image=image, output="tensor", **FAST), wanted)


def test_sides_that_the_model_cannot_make_are_padded_and_cut_back(
    pipeline: Image2ImagePipeline, caplog: pytest.LogCaptureFixture
):
    assert pipeline("a", image=picture(size=(29, 24)), **FAST).size == (29, 24)
    assert caplog.text.count("the image of 29 x 24 pixels is padded to 32 x 24") == 1
    edge = np.pad(np.asarray(picture(size=(29, 24))), ((0, 0), (0, 3), (0, 0)), mode="edge")
    small = pipeline("a", image=picture(size=(29, 24)), output="tensor", **FAST)
    assert torch.equal(small, pipeline("a", image=edge, output="tensor", **FAST)[..., :29])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": [picture(), picture()]}, r"image must be one or 1, .*, got 2"),
        ({"image": [picture(), picture(size=(8, 8))]}, r"image must be of one size, got"),
        ({"image": torch.zeros(7, 8, 9)}, r"image must have 1 to 4 channels"),
        ({"image": picture(), "strength": 0.0}, r"strength must be in \(0, 1\], got 0.0"),
        ({"image": picture(), "strength": 0.1}, r"strength must be at least 1/4 with 4 steps"),
    ],
)
def test_arguments_out_of_range_are_named(
    pipeline: Image2ImagePipeline, options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        pipeline("a", **FAST, **options)


def test_nan_in_the_image_is_named(pipeline: Image2ImagePipeline):
    with pytest.raises(ValueError, match=r"image: holds NaN or infinite values"):
        pipeline("a", image=torch.full((1, 3, 64, 64), float("nan")), **FAST)


def test_an_inpainting_net_says_which_pipeline_it_is_for(stable_diffusion: Callable[..., LoadedModel]):
    model = stable_diffusion("inpaint", 0, f8=True)
    for kind, options in ((Text2ImagePipeline, {}), (Image2ImagePipeline, {"image": picture()})):
        with pytest.raises(ValueError, match=r"9 input channels .* use InpaintPipeline \(mode=inpaint\)"):
            kind(**model.components, config=model.config)("a", **options)
