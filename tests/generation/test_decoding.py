"""A codec gives the same latents and images however it is run, and none that are not finite."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm import Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.generation.decoding import Codec
from ldm.generation.finite import NotFiniteError
from ldm.models.identity import IdentityAutoencoder
from ldm.models.vae import AutoencoderKL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAST: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 64, "width": 64}


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Text2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    model.config["text_encoder"]["max_length"] = 77
    return Text2ImagePipeline(**model.components, config=model.config)


def test_slicing_and_tiling_change_no_pixel_by_more_than_one(pipeline: Text2ImagePipeline):
    prompts = ["a cat", "a dog"]
    plain = pipeline(prompts, output="tensor", **FAST)
    assert plain.std() > 0.02
    sliced = pipeline.enable_vae_slicing()(prompts, output="tensor", **FAST)
    tiled = pipeline.enable_vae_tiling(rows=16)(prompts, output="tensor", **FAST)
    assert torch.allclose(plain, sliced, atol=2e-5)
    assert (plain - tiled).abs().max() <= 2 / 255  # of [-1, 1]
    assert torch.allclose(plain, tiled, atol=1e-4)


@pytest.fixture
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(latent_channels=2, channels=[4, 8], layers_per_block=1, norm_groups=2)


@pytest.mark.parametrize("changes", [{"slicing": True}, {"tile_rows": 4}])
def test_the_posterior_does_not_depend_on_how_it_is_computed(
    autoencoder: AutoencoderKL, changes: dict[str, Any]
):
    images = torch.randn(3, 3, 16, 16).clamp(-1, 1)
    whole = Codec(autoencoder=autoencoder).posterior(images)
    parts = Codec(autoencoder=autoencoder, **changes).posterior(images)
    assert whole.mean.std() > 1e-3
    assert torch.allclose(parts.mean, whole.mean, atol=1e-5)
    assert torch.allclose(parts.logvar, whole.logvar, atol=1e-5)


def test_slicing_runs_one_image_at_a_time(autoencoder: AutoencoderKL):
    seen: list[int] = []

    def count(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(len(args[0]))

    autoencoder.encoder.register_forward_pre_hook(count)
    autoencoder.decoder.register_forward_pre_hook(count)
    for slicing in (False, True):
        codec = Codec(autoencoder=autoencoder, slicing=slicing)
        codec.posterior(torch.zeros(2, 3, 8, 8))
        codec.decode(torch.zeros(2, 2, 4, 4))
    assert seen == [2, 2, 1, 1, 1, 1]


def test_images_are_clamped_and_in_float32():
    codec = Codec(autoencoder=IdentityAutoencoder(), dtype=torch.bfloat16)
    image = codec.decode(torch.tensor([-3.0, 0.5, 2.0]).view(1, 3, 1, 1))
    assert (image.flatten().tolist(), image.dtype) == ([-1.0, 0.5, 1.0], torch.float32)
    assert codec.posterior(image).mean.dtype == torch.float32


def test_values_that_are_not_finite_are_an_error_on_either_way():
    codec, bad = Codec(autoencoder=IdentityAutoencoder()), torch.full((1, 3, 2, 2), float("nan"))
    with pytest.raises(NotFiniteError, match=r"the latents of the image \(module autoencoder, torch.float32"):
        codec.posterior(bad)
    with pytest.raises(NotFiniteError, match=r"the decoded image \(module autoencoder, torch.float32"):
        codec.decode(bad)


def test_no_latents_are_no_images():
    assert Codec(autoencoder=IdentityAutoencoder()).decode(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
