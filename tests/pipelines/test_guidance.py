"""Guidance in the pipelines: every rule, evaluations counted, negative prompts, weaker nets."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ldm import Image2ImagePipeline, InpaintPipeline, Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.native import save_model
from ldm.guidance import PAG, Autoguidance, Interval
from ldm.schedulers import DDIM, Heun
from ldm.utils.options import options

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAST: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 64, "width": 64}
RULES = options("guidance")
WEAK = ("autoguidance",)


def pipeline_of(make: Callable[..., LoadedModel], family: str, seed: int = 0) -> Text2ImagePipeline:
    model = make(family, seed, f8=True)
    return Text2ImagePipeline(**model.components, config=model.config)


@pytest.fixture
def weak_file(stable_diffusion: Callable[..., LoadedModel], tmp_path: Path) -> Path:
    """A model of the same family with other weights."""
    model = stable_diffusion("sd1", 3, f8=True)
    save_model(tmp_path / "weak.safetensors", model.components, model.config)
    return tmp_path / "weak.safetensors"


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("name", [name for name in RULES if name not in WEAK])
def test_every_rule_guides_and_its_evaluations_are_counted(
    name: str, family: str, stable_diffusion: Callable[..., LoadedModel]
):
    pipeline = pipeline_of(stable_diffusion, family)
    asked: list[int] = []
    pipeline.backbone.register_forward_pre_hook(lambda module, args: asked.append(len(args[0])))
    images = pipeline(["a cat", "a dog", "a fish"], guidance=RULES[name], batch_size=2, **FAST)
    assert pipeline.net_evaluations == [image.info["net_evaluations"] for image in images]
    assert sum(pipeline.net_evaluations) == sum(asked)
    per_step = {"pag": 3, "interval": None}.get(name, 2)
    assert per_step is None or pipeline.net_evaluations == [4 * per_step] * 3
    options = {"guidance": RULES[name], "output": "latent", **FAST}
    plain = pipeline("a cat", **options)
    assert not torch.equal(plain, pipeline("a cat", **(options | {"guidance_scale": 1.0})))
    assert not torch.equal(plain, pipeline("a cat", negative_prompt="blurry", **options))


@pytest.mark.parametrize(
    ("steps", "options", "count"),
    [
        (4, {"guidance_scale": 1.0}, 4),
        (4, {}, 8),
        (4, {"scheduler": Heun()}, 2 * 5),  # two long steps and the last, to clean data, are Euler's
        (4, {"guidance": PAG(), "guidance_scale": 1.0}, 8),
        (5, {"guidance": Interval(low=1e9, high=None)}, 5),
    ],
)
def test_the_count_is_that_of_solver_and_rule(
    steps: int, options: dict[str, Any], count: int, stable_diffusion: Callable[..., LoadedModel]
):
    pipeline = pipeline_of(stable_diffusion, "sd1")
    pipeline.sampler.defaults["timesteps"] = options.pop("timesteps", pipeline.sampler.defaults["timesteps"])
    given = {**FAST, "scheduler": DDIM(), **options, "num_inference_steps": steps}
    pipeline("a cat", timesteps=TRAILING, **given)
    assert pipeline.net_evaluations == [count]


TRAILING = options("timesteps")["trailing"]


def test_images_to_image_and_inpainting_take_rules(stable_diffusion: Callable[..., LoadedModel]):
    model, image = stable_diffusion("sd1", 0, f8=True), Image.new("RGB", (64, 64), "red")
    given = {"num_inference_steps": 4, "guidance_scale": 3.0, "guidance": PAG()}
    pipeline = Image2ImagePipeline(**model.components, config=model.config)
    assert pipeline("a cat", image=image, strength=0.5, **given).info["net_evaluations"] == 6
    for family in ("sd1", "inpaint"):
        model = stable_diffusion(family, 0, f8=True)
        painter = InpaintPipeline(**model.components, config=model.config)
        made = painter("a cat", image=image, mask=Image.new("L", (64, 64), 255), **given)
        assert made.info["net_evaluations"] == 12


def test_a_weaker_net_is_read_and_asked(stable_diffusion: Callable[..., LoadedModel], weak_file: Path):
    pipeline = pipeline_of(stable_diffusion, "sd1")
    given = {"guidance": Autoguidance(), "output": "latent", **FAST}
    with pytest.raises(ValueError, match="needs weak_checkpoint"):
        pipeline("a cat", **given)
    led = pipeline.load_weak(weak_file)("a cat", **given)
    assert pipeline.net_evaluations == [8]
    assert not torch.equal(led, pipeline("a cat", **(given | {"guidance_scale": 1.0})))
    assert not torch.equal(led, pipeline("a cat", negative_prompt="a dog", **given))
    own = Text2ImagePipeline(
        **dict(zip(("text_encoder", "backbone"), pipeline.weak, strict=True)),
        autoencoder=pipeline.autoencoder,
        config=pipeline.config,
    )
    a, b = (
        p("a cat", **(given | {"guidance_scale": 1.0, "num_inference_steps": 1})) for p in (pipeline, own)
    )
    one = pipeline("a cat", **(given | {"num_inference_steps": 1}))
    torch.testing.assert_close(one, b + 3 * (a - b), rtol=1e-3, atol=1e-3)  # DDIM is affine in the prediction


def test_a_weaker_net_of_other_latents_is_refused(
    stable_diffusion: Callable[..., LoadedModel], tmp_path: Path
):
    model = stable_diffusion("inpaint", 0, f8=True)
    save_model(tmp_path / "other.safetensors", model.components, model.config)
    with pytest.raises(ValueError, match="not for the same latents: in_channels 9, not 4"):
        pipeline_of(stable_diffusion, "sd1").load_weak(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError):
        pipeline_of(stable_diffusion, "sd1").load_weak(tmp_path / "nothing.safetensors")


def test_a_net_without_attention_in_its_middle_cannot_be_perturbed(
    stable_diffusion: Callable[..., LoadedModel],
):
    pipeline = pipeline_of(stable_diffusion, "sd1")
    pipeline.backbone.mid.attentions = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r"PAG perturbs the attention of the middle block"):
        pipeline("a cat", guidance=PAG(), **FAST)


def test_rules_without_the_empty_prompt_guide_models_that_never_saw_it(
    stable_diffusion: Callable[..., LoadedModel], weak_file: Path
):
    pipeline = pipeline_of(stable_diffusion, "sd1").load_weak(weak_file)
    pipeline.sampler = replace(pipeline.sampler, caption_dropout=0.0)
    with pytest.raises(ValueError, match="trained without caption dropout"):
        pipeline("a cat", **FAST)
    pipeline("a cat", guidance=Autoguidance(), **FAST)
    assert pipeline.net_evaluations == [8]
