"""Our pipelines make the images that diffusers' make of the folder that we write."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm import Image2ImagePipeline, InpaintPipeline, Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint
from ldm.diffusion import random
from ldm.guidance import PAG

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
diffusers = pytest.importorskip("diffusers")

FULL = -1
AT_FULL_SIZE = pytest.param(FULL, marks=pytest.mark.slow, id="full")
PROMPT, NEGATIVE, SIZE = "a photo of a cat wearing a hat", "blurry", 64
COMMON: dict[str, Any] = {"num_inference_steps": 20, "guidance_scale": 7.5}
OURS: dict[str, Any] = {"seed": 3, "output": "tensor", "long_prompts": "cut"}  # as diffusers' pipelines do


@pytest.fixture(scope="module")
def folder(
    stable_diffusion: Callable[..., LoadedModel],
    full_size: Callable[..., LoadedModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Path]]:
    """Writes a random model, small or (seed FULL) of full size, as a folder of diffusers, once each."""
    made = tmp_path_factory.mktemp("models")

    def write(family: str, seed: int) -> Path:
        path = made / f"{family}-{seed}"
        if path.exists():
            return path
        full = {"sd1": "sd15", "inpaint": "sd15_inpaint", "sd2": "sd2"}[family]
        model = full_size(full) if seed == FULL else stable_diffusion(family, seed, f8=True)
        write_checkpoint(model, path, "diffusers")
        return path

    yield write
    shutil.rmtree(made)


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes diffusers draw given numbers: those of pipelines, and those of the autoencoder in turn."""

    def give(x_t: Tensor, posteriors: list[Tensor]) -> None:
        turn: Iterator[Tensor] = iter(posteriors)
        base = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"
        for module in (f"{base}_img2img", f"{base}_inpaint"):
            monkeypatch.setattr(f"{module}.randn_tensor", lambda *a, **k: x_t.clone())
        monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", lambda *a, **k: next(turn))

    return give


def draw(pipeline: Any, purpose: str, seed: int = 3) -> Tensor:
    """What our pipelines draw for the first image of a call."""
    shape = pipeline.sampler.latent_shape(SIZE, SIZE)
    return random.normal(seed, purpose, torch.zeros(1, dtype=torch.int64), 0, shape)


def picture(mode: str = "RGB") -> Image.Image:
    """A picture with large and small structures; as a mask, a white disc of whole cells of the latents."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    if mode == "L":
        disc = (((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.08) * 255).astype(np.uint8)
        return Image.fromarray(disc[::8, ::8].repeat(8, 0).repeat(8, 1))
    channels = [x, y, 0.5 + 0.5 * np.sin(20 * x * y)]
    return Image.fromarray((np.stack(channels, -1) * 255).astype(np.uint8))


def difference(ours: Tensor, theirs: Any) -> float:
    """Largest difference of a channel, in units of 1/255."""
    expected = torch.from_numpy(theirs.images).permute(0, 3, 1, 2)
    assert expected.std() > 0.02  # not one colour
    return float(((ours + 1) / 2 - expected).abs().max() * 255)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("seed", [0, 1, 2, AT_FULL_SIZE])
def test_text2img_equals_diffusers(family: str, seed: int, folder: Any) -> None:
    path = folder(family, seed)
    ours = Text2ImagePipeline.from_pretrained(path)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(path)
    image = ours(PROMPT, negative_prompt=NEGATIVE, height=SIZE, width=SIZE, **OURS, **COMMON)
    expected = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        latents=draw(ours, "x_T"),
        height=SIZE,
        width=SIZE,
        output_type="np",
        **COMMON,
    )
    assert difference(image, expected) <= 1.0


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("seed", [1, AT_FULL_SIZE])
def test_img2img_equals_diffusers(family: str, seed: int, strength: float, folder: Any, noises: Any) -> None:
    path = folder(family, seed)
    ours = Image2ImagePipeline.from_pretrained(path)
    theirs = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(path)
    noises(draw(ours, "x_T"), [draw(ours, "posterior")])
    options = {"image": picture(), "strength": strength, **COMMON}
    image = ours(PROMPT, **OURS, **options)
    assert difference(image, theirs(PROMPT, output_type="np", **options)) <= 1.0


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("family", ["inpaint", "sd1"])
@pytest.mark.parametrize("seed", [2, AT_FULL_SIZE])
def test_inpainting_equals_diffusers(
    family: str, seed: int, strength: float, folder: Any, noises: Any
) -> None:
    """The 9-channel net, and the plain one with the documented blending; outside the mask the input."""
    path = folder(family, seed)
    ours = InpaintPipeline.from_pretrained(path)
    theirs = diffusers.StableDiffusionInpaintPipeline.from_pretrained(path)
    encoded = [draw(ours, "posterior")] if family == "sd1" or strength < 1.0 else []
    noises(draw(ours, "x_T"), [*encoded, draw(ours, "masked_posterior")])
    image, mask = picture(), picture("L")
    made = ours(PROMPT, image=image, mask=mask, strength=strength, **OURS, **COMMON)
    expected = theirs(
        PROMPT,
        image=image,
        mask_image=mask,
        strength=strength,
        height=SIZE,
        width=SIZE,
        output_type="np",
        **COMMON,
    )
    white = (np.asarray(mask) > 127)[None, :, :, None]
    expected.images = np.where(white, expected.images, np.asarray(image)[None] / 255.0)
    assert difference(made, expected) <= 1.0


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_perturbed_attention_guidance_equals_diffusers(family: str, scale: float, folder: Any) -> None:
    path = folder(family, 1)
    ours = Text2ImagePipeline.from_pretrained(path)
    theirs = diffusers.StableDiffusionPAGPipeline.from_pretrained(path, pag_applied_layers="mid")
    common = {"num_inference_steps": 10, "guidance_scale": scale, "height": SIZE, "width": SIZE}
    image = ours(PROMPT, guidance=PAG(scale=2.0), **OURS, **common)
    expected = theirs(PROMPT, latents=draw(ours, "x_T"), pag_scale=2.0, output_type="np", **common)
    assert difference(image, expected) <= 1.0
    plain = ours(PROMPT, **OURS, **common)
    assert float((image - plain).abs().max()) > 0.05  # it does something
