from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ldm.diffusion.prediction import Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.schedule import cosine
from ldm.diffusion.weighting import Uniform
from ldm.generation import Sampler
from ldm.generation.conditioning import Denoiser
from ldm.generation.decoding import Codec
from ldm.guidance import APG
from ldm.pipelines.parts import SamplerParts
from ldm.schedulers import DDIM
from ldm.utils.errors import UserError

AUTOENCODER, TEXT, NET = (SimpleNamespace(name=name) for name in ("autoencoder", "text", "net"))
DIFFUSION = Diffusion(schedule=cosine(), prediction=Velocity(), weighting=Uniform())


@pytest.fixture
def parts() -> SamplerParts:
    made = SamplerParts()
    made.sampler = Sampler(
        codec=Codec(autoencoder=AUTOENCODER),
        own=Denoiser(TEXT, NET),
        diffusion=DIFFUSION,
        defaults={},
        image_size=8,
        weak=Denoiser(NET, TEXT),
        device=torch.device("meta"),
        dtype=torch.bfloat16,
    )
    return made


def test_each_name_is_that_part_of_the_sampler(parts: SamplerParts):
    assert parts.autoencoder is AUTOENCODER
    assert parts.text_encoder is TEXT
    assert parts.backbone is NET
    assert parts.weak == Denoiser(NET, TEXT)
    assert parts.diffusion is DIFFUSION
    assert (parts.device, parts.dtype) == (torch.device("meta"), torch.bfloat16)


@pytest.mark.parametrize(
    "name", ["autoencoder", "text_encoder", "backbone", "weak", "diffusion", "device", "dtype"]
)
def test_parts_are_read_only(parts: SamplerParts, name: str):
    with pytest.raises(AttributeError, match="no setter"):
        setattr(parts, name, None)


def test_settings_are_set_by_name_or_object(parts: SamplerParts):
    parts.scheduler, parts.guidance, parts.num_inference_steps = "euler_a", APG(), 7
    assert parts.sampler.defaults == {"scheduler": DDIM(eta=1.0), "guidance": APG(), "num_inference_steps": 7}
    assert (parts.scheduler, parts.guidance, parts.thresholding) == (DDIM(eta=1.0), APG(), None)
    parts.guidance = None
    assert parts.guidance is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("scheduler", "eulera", "scheduler must be one of ddim"),
        ("scheduler", 3, "scheduler must be an object of ldm or"),
        ("scheduler", None, "scheduler must have a value"),
        ("num_inference_steps", "many", "num_inference_steps must be a whole number"),
        ("guidance_scale", -1.0, "guidance_scale must be a number >= 0"),
    ],
)
def test_settings_that_a_call_would_refuse_are_refused(parts: SamplerParts, name: str, value: Any, says: str):
    with pytest.raises(UserError, match=says):
        setattr(parts, name, value)
    assert parts.sampler.defaults == {}
