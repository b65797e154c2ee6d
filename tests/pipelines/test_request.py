from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm import Image2ImagePipeline
from ldm.pipelines.base import Pipeline
from ldm.pipelines.recipe import digest
from ldm.pipelines.request import load, of_batch
from ldm.pipelines.shipped import shipped_model
from ldm.schedulers.ddpm import DDPM
from ldm.utils.errors import UserError

REQUEST: dict[str, Any] = {"kind": "text2img", "checkpoint": None, "lora": None, "weak_checkpoint": None}
REQUEST |= {"variant": None, "prediction": None, "ema": True, "dtype": "fp32"}
REQUEST |= {"vae_slicing": False, "vae_tiling": False, "num_inference_steps": 2, "scheduler": None}


def item(prompt: str | None, seed: int, number: int, negative: str | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "negative_prompt": negative, "seed": seed, "number": number}


def test_a_request_loads_its_pipeline_files_and_arguments(tmp_path: Path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "in.png")
    changes = {"kind": "img2img", "image": str(tmp_path / "in.png"), "size": [4, 2], "strength": 0.5}
    changes |= {"vae_slicing": True, "scheduler": {"_target_": "ldm.schedulers.ddpm.DDPM"}}
    loaded = load(REQUEST | changes, "cpu")
    assert type(loaded.pipeline) is Image2ImagePipeline
    assert loaded.pipeline.sampler.codec.slicing
    image = loaded.arguments.pop("image")
    assert (image.size, np.asarray(image)[0, 0].tolist()) == ((4, 2), [255, 0, 0])
    assert loaded.arguments == {"num_inference_steps": 2, "strength": 0.5, "scheduler": DDPM()}
    with shipped_model() as model:
        assert loaded.hashes == {"checkpoint": digest(model), "image": digest(tmp_path / "in.png")}


def test_the_automatic_dtype_is_stored_by_its_name(monkeypatch: pytest.MonkeyPatch):
    """A replay on another machine must not choose another one."""
    monkeypatch.setattr("ldm.utils.device.has_bf16", lambda device: True)
    rules = {"prompt_weights": False, "long_prompts": "cut"}  # as automatic: those of the model
    assert load(REQUEST | {"dtype": "auto"}, "cpu").request == REQUEST | rules | {"dtype": "bf16"}
    assert load(REQUEST, "cpu").request == REQUEST | rules


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "video"}, r"^mode: must be one of \['img2img', 'inpaint', 'text2img'\], got 'video'$"),
        ({"kind": "img2img", "image": "/no/such.png"}, r"^image: no file at /no/such.png$"),
        ({"size": [64]}, r"^size: must be WIDTH and HEIGHT in pixels, got \[64\]$"),
        ({"size": [0, 64]}, r"^size: must be WIDTH and HEIGHT in pixels, got \[0, 64\]$"),
    ],
)
def test_a_request_that_cannot_be_met_is_named_before_a_model_is_read(changes: dict[str, Any], line: str):
    with pytest.raises(UserError, match=line):
        load(REQUEST | {"checkpoint": "/no/such/model"} | changes, "cpu")


@pytest.mark.parametrize(
    ("lora", "scale", "line"),
    [
        (["a", "b"], [1.0], "lora_scale: must be one or 2, one for each file of lora, got 1"),
        ("a", [1.0, 0.5], "lora_scale: must be one or 1, one for each file of lora, got 2"),
        (None, [1.0, 0.5], "lora_scale: must be one number without lora, got 2"),
    ],
)
def test_scales_are_one_or_as_many_as_files_of_adapters(lora: Any, scale: Any, line: str):
    with pytest.raises(UserError, match=f"^{line}$"):
        load(REQUEST | {"lora": lora, "lora_scale": scale, "checkpoint": "/no/such/model"}, "cpu")


def test_adapters_are_merged_in_turn_each_with_its_scale(monkeypatch: pytest.MonkeyPatch):
    merged: list[tuple[str, float]] = []
    monkeypatch.setattr(Pipeline, "load_lora", lambda self, path, scale: merged.append((path, scale)))
    for lora, scale in (("a", 0.5), (["a", "b"], 1.0), (["a", "b"], [0.8, 0.5])):
        load(REQUEST | {"lora": lora, "lora_scale": scale}, "cpu")
    assert merged == [("a", 0.5), ("a", 1.0), ("b", 1.0), ("a", 0.8), ("b", 0.5)]


def test_a_model_with_another_digest_is_not_read(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"no model, but it is not opened")
    with pytest.raises(UserError, match="the checkpoint is missing or has changed"):
        load(REQUEST | {"checkpoint": str(tmp_path / "model.safetensors")}, "cpu", {"checkpoint": "0"})


def test_settings_of_a_group_without_an_option_are_refused():
    with pytest.raises(UserError, match=r"^scheduler: has settings and is no option"):
        load(REQUEST | {"scheduler": {"eta": 1.0}}, "cpu")


def test_images_of_one_seed_are_told_apart_by_their_numbers():
    assert of_batch([item("a", 3, 4), item("b", 3, 5)]) == {
        "prompt": ["a", "b"],
        "negative_prompt": None,
        "seed": 3,
        "numbers": [4, 5],
        "batch_size": 2,
    }


def test_seeds_and_negative_prompts_of_their_own():
    found = of_batch([item("a", 3, 0, "dark"), item("b", 7, 0)])
    assert (found["seed"], found["negative_prompt"]) == ([3, 7], ["dark", ""])


def test_images_without_prompts_are_counted():
    found = of_batch([item(None, 3, 0), item(None, 3, 1)])
    assert found["num_images"] == 2
    assert "prompt" not in found
