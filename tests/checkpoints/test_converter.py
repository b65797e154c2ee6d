"""From each format to each other and back, every tensor keeps its bytes."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldm.checkpoints import convert_checkpoint, convert_diffusers_checkpoint, load_model, save_model
from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.converter import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAMILIES = ("sd1", "inpaint", "sd2")
Make = Callable[..., LoadedModel]


@pytest.mark.parametrize("family", FAMILIES)
def test_files_lead_there_and_back(weights: ModuleType, family: str, stable_diffusion: Make, tmp_path: Path):
    """Every ordered pair of formats; the files of the third are those of the first, byte for byte."""
    model = stable_diffusion(family, 0)
    names = {"ldm": "a.safetensors", "original": "b.safetensors", "diffusers": "c"}
    for first in names:
        start = tmp_path / f"{first}-{names[first]}"
        write_checkpoint(model, start, first)
        for second in names.keys() - {first}:
            between = tmp_path / f"{first}-{second}-{names[second]}"
            back = tmp_path / f"{first}-{second}-{first}-{names[first]}"
            convert_checkpoint(start, between, format=second)
            convert_checkpoint(between, back, format=first)
            for path in [start] if start.is_file() else sorted(start.rglob("*")):
                twin = back / path.relative_to(start)
                if path.suffix == ".safetensors":
                    assert weights.identical(load_file(path), load_file(twin))
                elif path.is_file():
                    assert path.read_bytes() == twin.read_bytes()
        assert load_model(back).config == load_model(start).config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_converts_every_weight(
    weights: ModuleType, dtype: torch.dtype, stable_diffusion: Make, tmp_path: Path
):
    model = stable_diffusion("sd1", 0)
    save_model(tmp_path / "a.safetensors", model.components, model.config)
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b", format="diffusers", dtype=dtype)
    half = load_model(tmp_path / "b", dtype=None)
    assert {p.dtype for c in COMPONENTS for p in half.components[c].parameters()} == {dtype}
    convert_diffusers_checkpoint(diffusers_path=tmp_path / "b", output_path=tmp_path / "c.safetensors")
    assert weights.identical(
        weights.states(load_model(tmp_path / "c.safetensors", dtype=None)), weights.states(half)
    )
    assert weights.identical(weights.states(half), {k: v.to(dtype) for k, v in weights.states(model).items()})


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("x.bin", {}, r"format=ldm writes a file \.safetensors, got "),
        ("x.safetensors", {"format": "diffusers"}, r"format=diffusers writes a folder, got "),
        ("x.safetensors", {"format": "onnx"}, r"format must be one of .*, got 'onnx'"),
        ("there.safetensors", {}, r"there\.safetensors exists: .*overwrite=true"),
        ("full", {"format": "diffusers"}, r"full exists"),
    ],
)
def test_targets_are_checked_before_anything_is_read(
    target: str, options: dict[str, Any], says: str, tmp_path: Path
):
    (tmp_path / "there.safetensors").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises((ValueError, OSError), match=says):
        convert_checkpoint(tmp_path / "absent", tmp_path / target, **options)
    assert (tmp_path / "there.safetensors").read_text() == "kept"


def test_a_model_of_another_topology_has_no_place_elsewhere(tmp_path: Path):
    from ldm.pipelines.shipped import shipped_model

    with shipped_model() as path:
        for format, name in (("diffusers", "a"), ("original", "a.safetensors")):
            with pytest.raises(ValueError, match=r"topology|shortcut"):
                convert_checkpoint(path, tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())


def test_the_folders_of_an_output_are_made(folder: Path, tmp_path: Path):
    convert_diffusers_checkpoint(folder, tmp_path / "new" / "er" / "a.safetensors")
    convert_checkpoint(folder, tmp_path / "other" / "folder", format="diffusers")
    assert (tmp_path / "new" / "er" / "a.safetensors").is_file()
    assert (tmp_path / "other" / "folder" / "model_index.json").is_file()


def test_a_folder_without_a_training_checkpoint_has_no_adapters_to_write(tmp_path: Path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(ValueError, match="format=lora is for training checkpoints of adapters, not for"):
        convert_checkpoint(tmp_path, tmp_path / "a.safetensors", format="lora")
