"""Nets that pipelines share, files that they write, and what they show of themselves."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm import Image2ImagePipeline, InpaintPipeline, Text2ImagePipeline
from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.generation.offload import place_of
from ldm.guidance import APG
from ldm.schedulers import DDIM
from ldm.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SMALL = {"num_inference_steps": 1, "height": 64, "width": 64, "output": "latent"}


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Text2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    return Text2ImagePipeline(**model.components, config=model.config)


@pytest.mark.parametrize("by", ["components", "from_pipe"])
def test_pipelines_share_nets_and_settings(pipeline: Text2ImagePipeline, by: str):
    pipeline.scheduler, pipeline.guidance_scale = "euler_a", 3.0
    if by == "components":
        other = Image2ImagePipeline(**pipeline.components)
    else:
        other = Image2ImagePipeline.from_pipe(pipeline)
    assert all(getattr(other, name) is getattr(pipeline, name) for name in COMPONENTS)
    assert (other.scheduler, other.guidance_scale) == (DDIM(eta=1.0), 3.0)
    assert other("a", image=Image.new("RGB", (64, 64)), **FAST).size == (64, 64)
    other.scheduler = "ddim"
    assert pipeline.scheduler == DDIM(eta=1.0)


FAST = {"num_inference_steps": 2, "strength": 0.5}


def test_what_moves_the_nets_of_one_moves_those_of_all(pipeline: Text2ImagePipeline):
    other = InpaintPipeline.from_pipe(pipeline)
    assert other.dtype == torch.float32
    pipeline.to(dtype=torch.bfloat16)
    assert other.dtype == other.sampler.codec.dtype == torch.bfloat16
    pipeline.enable_model_cpu_offload("cpu")
    assert place_of(other.backbone) == other.device


def test_only_pipelines_are_shared(pipeline: Text2ImagePipeline):
    with pytest.raises(TypeError, match="pipeline must be one of ldm, got int"):
        Text2ImagePipeline.from_pipe(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["deep/er/model.safetensors", "deep/er/folder", "deep/model.ckpt"])
def test_what_is_saved_makes_the_same_image(pipeline: Text2ImagePipeline, name: str, tmp_path: Path):
    wanted = pipeline("a cat", seed=3, **SMALL)
    if name.endswith("folder"):
        pipeline.save_pretrained(tmp_path / name)
    else:
        pipeline.save(tmp_path / name)
    read = Text2ImagePipeline.from_pretrained(tmp_path / name, device="cpu")
    assert torch.equal(read("a cat", seed=3, **SMALL), wanted)
    with pytest.raises(FileExistsError):
        pipeline.save(tmp_path / name)


def test_settings_are_saved(pipeline: Text2ImagePipeline, tmp_path: Path):
    pipeline.scheduler, pipeline.guidance, pipeline.timesteps = "dpm2_a", APG(), [900, 400]
    pipeline.num_inference_steps = 2
    pipeline.save(tmp_path / "a.safetensors")
    read = Text2ImagePipeline.from_pretrained(tmp_path / "a.safetensors", device="cpu")
    assert (read.scheduler, read.guidance, read.num_inference_steps) == (
        pipeline.scheduler,
        APG(),
        2,
    )
    assert read.timesteps.keywords["times"] == [900.0, 400.0]
    pipeline.timesteps = lambda num_train_timesteps, num_steps: torch.tensor([9.0, -1.0])
    with pytest.raises(UserError, match="no config describes"):
        pipeline.save(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_other_suffixes_are_refused(pipeline: Text2ImagePipeline, tmp_path: Path):
    with pytest.raises(UserError, match=r"path must end in \.safetensors or \.ckpt, or be a folder"):
        pipeline.save(tmp_path / "a.bin")


def test_a_pipeline_shows_its_nets_and_settings(pipeline: Text2ImagePipeline):
    text = repr(pipeline)
    count = sum(p.numel() for p in pipeline.backbone.parameters())
    for part in (
        "Text2ImagePipeline(",
        f"backbone: UNet, {count:,} parameters",
        "scheduler: DDIM(eta=0.0)",
        "timesteps: leading(",
        "num_inference_steps: 50",
        "device: cpu, dtype: fp32",
    ):
        assert part in text
