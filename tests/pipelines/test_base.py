"""Pipelines are moved, cast and checked as a whole."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldm import Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.guidance import APG, CFG, PAG
from ldm.schedulers.ddim import DDIM
from ldm.utils.errors import UserError

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
