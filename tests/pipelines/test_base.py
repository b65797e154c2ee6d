"""Pipelines are moved, cast and checked as a whole."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.diffusion import random
from ldm.guidance import APG, CFG, PAG
from ldm.schedulers.ddim import DDIM
from ldm.utils.errors import UserError

SMALL: dict[str, Any] = {"num_inference_steps": 1, "height": 64, "width": 64}
TWO: dict[str, Any] = {**SMALL, "num_inference_steps": 2, "output": "latent"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Text2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    return Text2ImagePipeline(**model.components, config=model.config)


def test_all_nets_are_cast_and_frozen(pipeline: Text2ImagePipeline):
    assert pipeline.to(dtype=torch.bfloat16) is pipeline
    nets = (pipeline.autoencoder, pipeline.text_encoder, pipeline.backbone)
    weights = [p for net in nets for p in net.parameters()]
    assert {p.dtype for p in weights} == {torch.bfloat16}
    assert not any(p.requires_grad for p in weights)
    assert pipeline.sampler.codec.dtype == pipeline.dtype == torch.bfloat16


def test_devices_that_are_not_there_are_refused(pipeline: Text2ImagePipeline):
    with pytest.raises(UserError, match="device"):
        pipeline.to("nowhere")


@pytest.mark.parametrize("output", ["pil", "pt", "np", "latent"])
def test_the_names_of_diffusers_give_the_same_images(pipeline: Text2ImagePipeline, output: str):
    ours = pipeline("a", seed=3, scheduler=DDIM(), output=output, **SMALL)
    theirs = pipeline("a", seed=3, scheduler="ddim", output_type=output, return_dict=True, **SMALL).images
    assert np.array_equal(np.asarray(ours), np.asarray(theirs[0] if output == "pil" else theirs))


def test_latents_given_are_those_that_are_drawn(pipeline: Text2ImagePipeline):
    drawn = random.normal(3, "x_T", torch.arange(2), 0, (4, 8, 8))
    options = {"num_images_per_prompt": 2, "num_inference_steps": 2, "output": "latent"}
    wanted = pipeline("a", seed=3, height=64, width=64, **options)
    assert torch.equal(pipeline("a", latents=drawn, **options), wanted)  # which give the size
    one_by_one = pipeline("a", latents=drawn.half().float(), batch_size=1, **options)
    assert torch.allclose(one_by_one, pipeline("a", latents=drawn.half(), **options), atol=1e-4)
    with pytest.raises(UserError, match=r"latents must be a floating-point tensor \(1, 4, 8, 8\)"):
        pipeline("a", latents=drawn, **SMALL)


def test_encoded_prompts_are_the_prompts(pipeline: Text2ImagePipeline):
    options = {"seed": 3, "num_images_per_prompt": 2, "output": "latent", **SMALL}
    prompts, negatives = (pipeline.text_encoder.encode(p).tokens for p in (["a cat", "a dog"], ["", "red"]))
    wanted = pipeline(["a cat", "a dog"], negative_prompt=["", "red"], **options)
    embeds = {"prompt_embeds": prompts, "negative_prompt_embeds": negatives}
    texts = {"prompt_embeds": prompts, "negative_prompt": ["", "red"]}
    for given in (embeds, texts):  # equal but for the order of sums, which depends on the batch size
        assert torch.allclose(pipeline(**given, **options), wanted, atol=1e-4)
    assert isinstance(pipeline(prompt_embeds=prompts[:1], **SMALL), Image.Image)


def test_a_callback_of_diffusers_sees_the_steps_and_changes_the_latents(pipeline: Text2ImagePipeline):
    seen: list[tuple[int, float]] = []

    def callback(pipe: Any, i: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert pipe is pipeline
        seen.append((i, float(t)))
        return {"latents": torch.zeros_like(tensors["latents"])} if i == 1 else {}

    options = {**SMALL, "num_inference_steps": 2, "timesteps": [800, 300], "output": "latent"}
    made = pipeline("a", callback_on_step_end=callback, **options)
    assert seen == [(0, 800.0), (1, 300.0)]
    assert not made.any()


def test_a_scheduler_that_is_set_acts(pipeline: Text2ImagePipeline):
    wanted = pipeline("a", scheduler="euler_a", timesteps="karras", **TWO)
    assert not torch.equal(pipeline("a", **TWO), wanted)
    pipeline.scheduler, pipeline.timesteps = "euler_a", "karras"
    assert torch.equal(pipeline("a", **TWO), wanted)


@pytest.mark.parametrize(("scale", "warned"), [(0, True), (0.0, True), (1, False), (0.5, False)])
def test_a_scale_that_ignores_the_prompt_is_warned_of(
    pipeline: Text2ImagePipeline, scale: float, warned: bool, caplog: pytest.LogCaptureFixture
):
    made = pipeline("a cat", guidance_scale=float(scale), **TWO)
    assert ("the prompt has no effect at guidance_scale 0; the 0 on the cards" in caplog.text) == warned
    other = pipeline("a dog", guidance_scale=float(scale), **TWO)
    assert torch.equal(made, other) == warned


def test_parts_of_diffusers_are_named_as_ours(pipeline: Text2ImagePipeline):
    with pytest.raises(AttributeError, match="no attribute 'unet': it is called 'backbone'"):
        pipeline.unet  # noqa: B018
    with pytest.raises(AttributeError, match="vae cannot be set"):
        pipeline.vae = pipeline.autoencoder
    pipeline.safety_checker = None


def test_a_model_is_loaded_by_the_arguments_of_diffusers(monkeypatch: pytest.MonkeyPatch):
    load = Text2ImagePipeline.from_pretrained
    pipeline = load(torch_dtype=torch.bfloat16, safety_checker=None, use_safetensors=True, device="cpu")
    assert pipeline.dtype == torch.bfloat16
    with pytest.raises(TypeError, match="device_map is no argument of from_pretrained: use device="):
        load(device_map="balanced")
    monkeypatch.setattr("ldm.utils.device.has_bf16", lambda device: True)
    assert load(dtype="auto", device="cpu").dtype == torch.bfloat16
    assert inspect.signature(load).parameters["device"].default == "auto"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"negative_prompt": "dog"}, "negative_prompt has no effect at guidance_scale 1"),
        ({"guidance": APG()}, "guidance has no effect at guidance_scale 1"),
        ({"noise": "brownian", "scheduler": DDIM()}, "noise has no effect: DDIM draws none"),
    ],
)
def test_settings_without_effect_are_warned_of(
    pipeline: Text2ImagePipeline, settings: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
):
    small = {"num_inference_steps": 1, "height": 64, "width": 64, "output": "latent"}
    with caplog.at_level(logging.WARNING):
        pipeline("a cat", guidance_scale=1.0, **small, **settings)
    assert says in caplog.text


def test_perturbed_attention_acts_at_any_scale(
    pipeline: Text2ImagePipeline, caplog: pytest.LogCaptureFixture
):
    small = {"num_inference_steps": 1, "height": 64, "width": 64, "output": "latent"}
    plain = pipeline("a cat", guidance_scale=1.0, guidance=CFG(), **small)
    assert not torch.equal(plain, pipeline("a cat", guidance_scale=1.0, guidance=PAG(), **small))
