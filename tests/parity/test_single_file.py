"""diffusers reads the original single files that we write, and makes our images from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm import Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint
from ldm.diffusion import random

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
diffusers = pytest.importorskip("diffusers")

OPTIONS: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 7.5, "height": 64, "width": 64}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_an_original_file_gives_our_image_in_diffusers(
    family: str, suffix: str, stable_diffusion: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    model = stable_diffusion(family, 3, f8=True)
    single, folder = tmp_path / f"single{suffix}", tmp_path / "folder"
    write_checkpoint(model, single, "original")
    write_checkpoint(model, folder, "diffusers")  # without a network the architecture is read from here
    ours = Text2ImagePipeline(**model.components, config=model.config)
    theirs = diffusers.StableDiffusionPipeline.from_single_file(
        single, config=str(folder), local_files_only=True, torch_dtype=torch.float32
    )
    x_t = random.normal(0, "x_T", torch.zeros(1, dtype=torch.int64), 0, (4, 8, 8))
    image = ours("a cat", output="tensor", **OPTIONS)
    expected = torch.from_numpy(theirs("a cat", latents=x_t, output_type="np", **OPTIONS).images)
    assert expected.std() > 0.02
    assert ((image + 1) / 2 - expected.permute(0, 3, 1, 2)).abs().max() <= 1 / 255
