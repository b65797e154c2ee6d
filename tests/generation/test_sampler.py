from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm import Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel, build_empty
from ldm.diffusion.sampling import StopSampling
from ldm.generation.conditioning import encode
from ldm.generation.sampler import check_side

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAST: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 64, "width": 64}


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Text2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    model.config["text_encoder"]["max_length"] = 77
    return Text2ImagePipeline(**model.components, config=model.config)


@pytest.mark.parametrize("size", [64.0, "64", True, [64]])
def test_a_side_of_another_kind_is_refused(size: Any):
    with pytest.raises(ValueError, match="width must be a whole number, got"):
        check_side("width", size, 8, 8)


def test_sampling_may_be_stopped_early_with_the_estimate(pipeline: Text2ImagePipeline):
    estimates: list[Tensor] = []

    def until_the_second(i: int, x: Tensor, x0: Tensor) -> None:
        estimates.append(x0)
        if i == 1:
            raise StopSampling

    latent = pipeline("a cat", on_step=until_the_second, output="latent", **FAST)
    assert len(estimates) == 2
    assert torch.equal(latent, estimates[1])


def test_sampling_goes_on_with_what_on_step_returns(pipeline: Text2ImagePipeline):
    seen: list[Tensor] = []

    def zero(i: int, x: Tensor, x0: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    assert not pipeline("a cat", on_step=zero, output="latent", **FAST).any()
    assert len(seen) == 4


def test_the_end_of_a_long_prompt_is_left_out_and_named(
    pipeline: Text2ImagePipeline, caplog: pytest.LogCaptureFixture
):
    room = pipeline.text_encoder.max_length - 2  # between the marks of start and end
    fits = " ".join(["cat"] * room)
    short = pipeline(fits, output="latent", long_prompts="cut", **FAST)
    assert "left out" not in caplog.text
    long = pipeline(f"{fits} wearing a hat", output="latent", long_prompts="cut", **FAST)
    assert "wearing a hat" in caplog.text
    assert f"more than {room + 2} tokens" in caplog.text
    assert torch.equal(short, long)
    assert not torch.equal(short, pipeline(f"{fits} wearing a hat", output="latent", **FAST))  # by default


def test_clip_skip_takes_an_earlier_layer(stable_diffusion: Callable[..., LoadedModel]):
    model = next(m for m in map(lambda s: stable_diffusion("sd1", s, f8=True), range(20)) if layers(m) == 2)
    pipeline = Text2ImagePipeline(**model.components, config=model.config)
    whole, skipped = (encode(pipeline.text_encoder, ["a cat"], n).tokens for n in (0, 1))
    assert whole is not None
    assert skipped is not None
    assert not torch.allclose(whole, skipped, atol=1e-2)
    a = pipeline("a cat", output="latent", **FAST)
    b = pipeline("a cat", clip_skip=1, output="latent", **FAST)
    assert not torch.allclose(a, b, atol=1e-4)
    with pytest.raises(ValueError, match="clip_skip"):
        pipeline("a cat", clip_skip=2, **FAST)


def layers(model: LoadedModel) -> int:
    number: int = model.config["text_encoder"]["layers"]
    return number


def test_a_net_that_reads_the_guidance_scale_is_evaluated_once_a_step(
    stable_diffusion: Callable[..., LoadedModel],
):
    model = stable_diffusion("sd1", 0, f8=True)
    node = model.config["backbone"] | {"guidance_dim": 16}
    net: Any = build_empty(node, "backbone")
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) / 30 for name, shape in shapes.items()}
    net.load_state_dict(state, assign=True)
    nets = model.components | {"backbone": net.requires_grad_(False).eval()}
    pipeline = Text2ImagePipeline(**nets, config=model.config | {"backbone": node})
    low, high = (pipeline("a cat", output="latent", **FAST | {"guidance_scale": w}) for w in (2.0, 8.0))
    assert not torch.equal(low, high)
    assert pipeline.net_evaluations == [4]


def test_the_default_size_may_be_rectangular(pipeline: Text2ImagePipeline):
    config = pipeline.config | {"image_size": [64, 128]}
    wide = Text2ImagePipeline(pipeline.autoencoder, pipeline.text_encoder, pipeline.backbone, config=config)
    latent = wide("a cat", output="latent", num_inference_steps=1)
    assert latent.shape[2:] == (8, 16)
    assert wide("a cat", output="latent", num_inference_steps=1, width=64).shape[2:] == (8, 8)
