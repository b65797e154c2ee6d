from types import SimpleNamespace

import pytest
import torch

from ldm.diffusion.prediction import Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.schedule import cosine
from ldm.diffusion.weighting import Uniform
from ldm.generation import Sampler
from ldm.generation.conditioning import Denoiser
from ldm.generation.decoding import Codec
from ldm.pipelines.parts import SamplerParts

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
