import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm import Text2ImagePipeline
from ldm.checkpoints import save_model
from ldm.diffusion import random
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import sample
from ldm.diffusion.thresholding import Clip
from ldm.diffusion.timesteps import leading, trailing
from ldm.guidance import CFG, PAG, Branch, Branches, Interval
from ldm.schedulers.ddim import DDIM
from ldm.schedulers.ddpm import DDPM
from ldm.utils.construct import construct

CONFIG: dict[str, Any] = {
    "autoencoder": {
        "_target_": "ldm.models.vae.AutoencoderKL",
        "latent_channels": 2,
        "channels": [4, 8],
        "layers_per_block": 1,
        "mid_attention": False,
        "norm_groups": 2,
        "scaling_factor": 2.0,
        "shift_factor": 0.5,
    },
    "text_encoder": {
        "_target_": "ldm.models.text_encoder.TinyTextEncoder",
        "width": 8,
        "layers": 1,
        "num_heads": 2,
        "max_length": 8,
        "token_dim": 2,
    },
    "backbone": {
        "_target_": "ldm.models.unet.UNet",
        "in_channels": 2,
        "out_channels": 2,
        "channels": [4, 8],
        "attention": ["none", "cross"],
        "num_heads": 2,
        "context_dim": 8,
        "pooled_dim": 8,
        "norm_groups": 2,
    },
    "diffusion": {
        "_target_": "ldm.diffusion.process.Diffusion",
        "schedule": {"_target_": "ldm.diffusion.schedule.cosine"},
        "prediction": {"_target_": "ldm.diffusion.prediction.Velocity"},
        "weighting": {"_target_": "ldm.diffusion.weighting.Uniform"},
    },
    "sampling": {
        "scheduler": {"_target_": "ldm.schedulers.ddim.DDIM", "eta": 0.0},
        "timesteps": {"_target_": "ldm.diffusion.timesteps.trailing", "_partial_": True},
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
    },
    "image_size": 16,
    "caption_dropout": 0.1,
}


def components(config: dict[str, Any]) -> dict[str, Any]:
    """Nets with random weights in every layer."""
    torch.manual_seed(0)
    nets = {name: construct(config[name], name) for name in ("autoencoder", "text_encoder", "backbone")}
    for parameter in nets["backbone"].parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return nets


def make(**changes: Any) -> Text2ImagePipeline:
    config = CONFIG | changes
    return Text2ImagePipeline(**components(config), config=config).to("cpu")


@pytest.fixture(scope="module")
def pipeline() -> Text2ImagePipeline:
    return make()


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for the order of sums, which depends on the batch size."""
    return torch.allclose(a, b, atol=1e-4)


def test_one_prompt_gives_one_image_and_a_list_gives_a_list(pipeline: Text2ImagePipeline):
    image = pipeline("red heart")
    assert isinstance(image, Image.Image)
    assert (image.size, image.mode) == ((16, 16), "RGB")
    assert [type(i) for i in pipeline(["red heart"])] == [Image.Image]
    assert len(pipeline("red heart", num_images_per_prompt=3)) == 3
    assert len(pipeline(["red heart", "pizza"], num_images_per_prompt=2)) == 4


def test_the_call_is_the_written_out_loop(pipeline: Text2ImagePipeline):
    seeds, n = 5, 2
    prompts, negatives = ["red heart", "pizza"], ["", ""]
    shape = (2, 8, 8)
    diffusion, text = pipeline.diffusion, pipeline.text_encoder
    with torch.no_grad():
        both = [Branch(pipeline.backbone, text.encode(words)) for words in (prompts, negatives)]
        net = CFG()(Branches(*both), 3.0, diffusion)
        x = random.normal(seeds, "x_T", torch.arange(n), 0, shape)
        z = sample(
            diffusion.denoiser(net), diffusion.schedule, DDIM(), x, trailing(1000, 4), lambda i, t, s: x
        )
        image = pipeline.autoencoder.decode(z / 2.0 + 0.5).clamp(-1, 1)
    assert torch.equal(pipeline(prompts, seed=seeds, output="latent"), z)
    assert torch.equal(pipeline(prompts, seed=seeds, output="tensor"), image)
    pixels = np.asarray(pipeline(prompts, seed=seeds)[1])
    expected = ((image[1] + 1) * 127.5).round().byte().permute(1, 2, 0)
    assert np.array_equal(pixels, expected.numpy())


def test_an_image_does_not_depend_on_the_batch_it_is_made_in(pipeline: Text2ImagePipeline):
    prompts = ["red heart", "pizza", "rocket", "apple", "sunflower"]
    options = {"seed": 7, "output": "latent", "scheduler": DDIM(eta=1.0)}
    together = pipeline(prompts, **options)
    for batch_size in (1, 2, 5):
        assert close(pipeline(prompts, batch_size=batch_size, **options), together)
    assert not close(together[:1], together[1:2])


def test_an_image_depends_on_its_own_seed_only(pipeline: Text2ImagePipeline):
    options = {"output": "latent", "eta": 0.5}
    alone = pipeline("pizza", seed=3, **options)
    among = pipeline(["rocket", "pizza", "apple"], seed=[8, 3, 1], **options)
    assert close(among[1:2], alone)
    assert close(pipeline("pizza", num_images_per_prompt=2, seed=[9, 3], **options)[1:], alone)
    assert not close(pipeline("pizza", seed=4, **options), alone)


def test_seed_is_the_whole_randomness(pipeline: Text2ImagePipeline):
    torch.manual_seed(1)
    first = pipeline("pizza", output="latent", scheduler=DDPM())
    torch.manual_seed(2)
    assert torch.equal(pipeline("pizza", output="latent", scheduler=DDPM()), first)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_as_many_steps_are_run_as_asked_for(pipeline: Text2ImagePipeline, steps: int):
    seen: list[int] = []
    pipeline("pizza", num_inference_steps=steps, on_step=lambda i, x, x0: seen.append(i))
    assert seen == list(range(steps))


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 2), (0.0, 4), (3.0, 4)])
def test_guidance_runs_the_net_once_a_step(
    pipeline: Text2ImagePipeline, scale: float, rows: int, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []
    net = pipeline.backbone.forward

    def counted(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        seen.append(len(x_t))
        return net(x_t, t, cond)

    monkeypatch.setattr(pipeline.backbone, "forward", counted)
    pipeline(["pizza", "rocket"], guidance_scale=scale, num_inference_steps=3)
    assert seen == [rows] * 3


def test_the_prompt_itself_as_negative_prompt_undoes_guidance(pipeline: Text2ImagePipeline):
    plain = pipeline("pizza", guidance_scale=1.0, output="latent")
    assert close(pipeline("pizza", negative_prompt="pizza", guidance_scale=5.0, output="latent"), plain)
    assert not close(pipeline("pizza", negative_prompt="rocket", guidance_scale=5.0, output="latent"), plain)


def test_negative_prompts_belong_to_their_prompts(pipeline: Text2ImagePipeline):
    both = pipeline(["pizza", "apple"], negative_prompt=["rocket", ""], seed=[1, 2], output="latent")
    assert close(both[:1], pipeline("pizza", negative_prompt="rocket", seed=1, output="latent"))
    assert close(both[1:], pipeline("apple", seed=2, output="latent"))


def test_what_on_step_returns_replaces_the_latents(pipeline: Text2ImagePipeline):
    z = pipeline("pizza", output="latent", on_step=lambda i, x, x0: torch.zeros_like(x))
    assert torch.equal(z, torch.zeros_like(z))


def test_results_are_tensors_like_any_other(pipeline: Text2ImagePipeline):
    image = pipeline("pizza", output="tensor")
    assert not image.is_inference()
    assert image.shape == (1, 3, 16, 16)
    assert image.abs().max() <= 1


def test_other_sizes_and_grids(pipeline: Text2ImagePipeline):
    assert pipeline("pizza", height=8, width=24).size == (24, 8)
    assert pipeline("pizza", timesteps=leading).size == (16, 16)


def test_half_precision_nets_keep_the_sampler_in_full_precision():
    pipeline = make().to(dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    image = pipeline("pizza", output="tensor", on_step=lambda i, x, x0: seen.append(x.dtype))
    assert {*seen, image.dtype} == {torch.float32}


def test_unconditional_pixel_model_samples_without_guidance():
    pipeline = make(
        autoencoder={"_target_": "ldm.models.identity.IdentityAutoencoder"},
        text_encoder={"_target_": "ldm.models.text_encoder.NullTextEncoder"},
        backbone={
            "_target_": "ldm.models.unet.UNet",
            "in_channels": 3,
            "out_channels": 3,
            "channels": [4],
            "attention": ["none"],
            "mid_attention": "self",
            "num_heads": 1,
            "norm_groups": 2,
        },
    )
    four = pipeline(num_images=4, num_inference_steps=2, seed=3, output="tensor")
    assert close(pipeline(num_inference_steps=2, seed=3, output="tensor"), four[:1])
    assert pipeline(num_inference_steps=2).size == (16, 16)
    assert torch.equal(pipeline.sampler.images(2, seed=3), pipeline.sampler.images(["a", "b"], seed=3))
    for refused in ({"prompt": "a cat"}, {"negative_prompt": "a cat"}):
        with pytest.raises(ValueError, match="prompt must be left out for an unconditional model"):
            pipeline(**refused)
    assert pipeline(num_inference_steps=2, thresholding=Clip())


def test_a_conditional_model_takes_prompts_and_no_count(pipeline: Text2ImagePipeline):
    with pytest.raises(ValueError, match="prompt must be given"):
        pipeline()
    with pytest.raises(ValueError, match="num_images must be left out where there are prompts"):
        pipeline("pizza", num_images=2)


def test_options_that_a_model_cannot_honour_are_refused(pipeline: Text2ImagePipeline):
    with pytest.raises(ValueError, match="thresholding must be null for a model of latents"):
        pipeline("pizza", thresholding=Clip())
    blind = make(backbone=CONFIG["backbone"] | {"mid_attention": "none"})
    for rule in (PAG(), Interval(rule=PAG())):
        with pytest.raises(ValueError, match=r"guidance must be a rule that this UNet supports, .*needs pag"):
            blind("pizza", guidance=rule)
    assert blind("pizza", guidance=PAG(scale=0.0))


def test_options_without_effect_are_named(pipeline: Text2ImagePipeline, caplog: pytest.LogCaptureFixture):
    pipeline("pizza", guidance=CFG(), guidance_scale=1.0, noise="brownian", num_inference_steps=1)
    assert "guidance has no effect" in caplog.text
    assert "noise has no effect: DDIM draws none" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, r"prompt must be .* at least one"),
        ({"prompt": "a", "seed": [1, 2]}, "seed must be one number or 1"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "negative_prompt must be one text or 2"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1, got 0"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "a", "num_inference_steps": 1001}, "num_inference_steps"),
        ({"prompt": "a", "guidance_scale": -1.0}, "guidance_scale must be a number >= 0"),
        ({"prompt": "a", "guidance_scale": float("nan")}, "guidance_scale must be a number >= 0"),
        ({"prompt": "a", "height": 17}, r"height must be a multiple of 2, got 17; try 16"),
        ({"prompt": "a", "width": 1}, "width must be a multiple of 2, got 1; try 2"),
        ({"prompt": "a", "output": "png"}, "output must be one of"),
        ({"prompt": "a", "scheduler": DDPM(), "eta": 0.5}, "eta cannot be set for DDPM"),
    ],
)
def test_arguments_out_of_range_are_named(
    pipeline: Text2ImagePipeline, options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        pipeline(**options)


def test_a_position_table_fixes_the_size():
    pipeline = make(backbone=CONFIG["backbone"] | {"position_size": 8})
    assert pipeline("a", height=16).size == (16, 16)
    with pytest.raises(ValueError, match=r"width must be 16 for this model, got 32"):
        pipeline("a", width=32)


def test_guidance_without_caption_dropout_is_refused():
    pipeline = make(caption_dropout=0.0)
    with pytest.raises(ValueError, match=r"guidance_scale must be 1 .* without caption dropout"):
        pipeline("pizza")
    assert pipeline("pizza", guidance_scale=1.0).size == (16, 16)


def test_a_negative_prompt_without_guidance_warns(
    pipeline: Text2ImagePipeline, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        pipeline("pizza", negative_prompt="rocket", guidance_scale=1.0, num_inference_steps=1)
    assert "no effect" in caplog.text


def test_words_that_the_model_has_never_seen_are_named(caplog: pytest.LogCaptureFixture):
    pipeline = make(text_encoder=CONFIG["text_encoder"] | {"vocabulary_size": 8})
    pipeline.text_encoder.learn_vocabulary(lambda: ["red heart"])
    with caplog.at_level(logging.WARNING):
        pipeline("red heart")
        assert caplog.text == ""
        pipeline(["red zebra", "red zebra"])
    assert caplog.text.count("this model has not seen zebra in training") == 1


def test_nan_names_step_and_module():
    pipeline = make()
    pipeline.backbone.conv_out.bias.data[0] = float("nan")
    with pytest.raises(ArithmeticError, match=r"x0 at step 0 \(module backbone, torch.float32\)"):
        pipeline("pizza")
    with pytest.raises(ArithmeticError, match="latents after step 1"):
        make()("pizza", on_step=lambda i, x, x0: x * float("inf") if i == 0 else None, scheduler=Broken())
    pipeline = make()
    pipeline.autoencoder.decoder.conv_out.bias.data[0] = float("inf")
    with pytest.raises(ArithmeticError, match=r"decoded image .*autoencoder"):
        pipeline("pizza")


class Broken(DDIM):
    """Overflows at the second step."""

    def step(
        self, denoise: Any, schedule: Any, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: Any
    ) -> Any:
        denoise(torch.zeros_like(x), t)
        return x / (0.0 if state else 1.0), 1


def test_from_pretrained_makes_the_same_image(tmp_path: Path, pipeline: Text2ImagePipeline):
    path = tmp_path / "model.safetensors"
    nets = {name: getattr(pipeline, name) for name in ("autoencoder", "text_encoder", "backbone")}
    save_model(path, nets, CONFIG)
    loaded = Text2ImagePipeline.from_pretrained(path)
    assert torch.equal(loaded("pizza", output="tensor"), pipeline("pizza", output="tensor"))
    assert not any(p.requires_grad for p in loaded.backbone.parameters())


def test_an_incomplete_model_names_what_it_lacks(tmp_path: Path, pipeline: Text2ImagePipeline):
    path = tmp_path / "autoencoder.safetensors"
    save_model(path, {"autoencoder": pipeline.autoencoder}, {"autoencoder": CONFIG["autoencoder"]})
    with pytest.raises(ValueError, match="holds an autoencoder alone: give it as vae="):
        Text2ImagePipeline.from_pretrained(path)


@pytest.mark.parametrize("key", ["diffusion", "sampling", "image_size"])
def test_a_config_without_settings_names_the_key(key: str):
    with pytest.raises(ValueError, match=f"lacks .*{key}"):
        Text2ImagePipeline(**components(CONFIG), config={k: v for k, v in CONFIG.items() if k != key})


def test_progress_is_shown_when_asked_for(pipeline: Text2ImagePipeline, capsys: pytest.CaptureFixture[str]):
    pipeline("pizza")
    assert capsys.readouterr() == ("", "")
    pipeline("pizza", progress=True)


def test_sampling_imports_nothing_heavy(tmp_path: Path, pipeline: Text2ImagePipeline):
    path = tmp_path / "model.safetensors"
    nets = {name: getattr(pipeline, name) for name in ("autoencoder", "text_encoder", "backbone")}
    save_model(path, nets, CONFIG)
    code = f"""
import sys
from ldm import Text2ImagePipeline
Text2ImagePipeline.from_pretrained({str(path)!r})("pizza")
heavy = ("open_clip", "transformers", "timm", "torchvision", "lightning", "hydra", "wandb")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
