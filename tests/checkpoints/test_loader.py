"""What people have on their disks, and how it is told apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.checkpoints import load_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def model(stable_diffusion: Callable[..., LoadedModel]) -> LoadedModel:
    return stable_diffusion("sd1", 0)


@pytest.fixture
def folder(model: LoadedModel, tmp_path: Path) -> Path:
    write_checkpoint(model, tmp_path / "folder", "diffusers")
    return tmp_path / "folder"


def weight(loaded: LoadedModel) -> Tensor:
    return loaded.components["backbone"].conv_in.weight


def test_weights_of_a_folder_may_be_pickles(folder: Path, model: LoadedModel):
    for name, bin in (
        (UNET, UNET),
        ("vae/diffusion_pytorch_model",) * 2,
        ("text_encoder/model", "text_encoder/pytorch_model"),
    ):
        state = load_file(folder / f"{name}.safetensors")
        (folder / f"{name}.safetensors").unlink()
        torch.save(state, folder / f"{bin}.bin")
    loaded = load_model(folder)
    assert torch.equal(weight(loaded), weight(model))


def test_a_variant_is_taken_when_asked_for_or_alone(folder: Path, model: LoadedModel):
    state = load_file(folder / f"{UNET}.safetensors")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        half = {k: v.half() for k, v in load_file(folder / part / f"{stem}.safetensors").items()}
        save_file(half, folder / part / f"{stem}.fp16.safetensors")
    assert weight(load_model(folder, dtype=None)).dtype == torch.float32
    assert weight(load_model(folder, dtype=None, variant="fp16")).dtype == torch.float16
    (folder / f"{UNET}.safetensors").unlink()
    assert torch.equal(weight(load_model(folder)), state["conv_in.weight"].half().float())
    with pytest.raises(
        FileNotFoundError, match=r"no weights of the variant 'bf16' in .*unet, where there is"
    ):
        load_model(folder, variant="bf16")


def test_sharded_weights_are_put_together(folder: Path, model: LoadedModel):
    state = load_file(folder / f"{UNET}.safetensors")
    (folder / f"{UNET}.safetensors").unlink()
    names = sorted(state)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for name, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / "unet" / name)
    index = {"weight_map": {key: name for name, keys in shards.items() for key in keys}}
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(weight(load_model(folder)), weight(model))
    (folder / "unet" / next(iter(shards))).unlink()
    with pytest.raises(FileNotFoundError, match="00001-of-00002"):
        load_model(folder)


def test_all_tensors_that_do_not_fit_are_listed_by_component(folder: Path):
    state = load_file(folder / f"{UNET}.safetensors")
    del state["conv_in.weight"]
    state["conv_out.bias"] = torch.zeros(7)
    state["extra.weight"] = torch.zeros(1)
    save_file(state, folder / f"{UNET}.safetensors")
    with pytest.raises(ValueError, match="3 tensors do not fit") as error:
        load_model(folder)
    lines = str(error.value).splitlines()
    assert lines[1].strip() == "backbone:"
    assert lines[2].strip().startswith("missing conv_in.weight (")
    assert lines[3].strip() == "shape of conv_out.bias: expected (4,), got (7,)"
    assert [line.strip() for line in lines[4:]] == ["besides:", "unexpected extra.weight (1,)"]


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        (
            "unet/config.json",
            "class_embed_type",
            "timestep",
            r"class_embed_type of the unet must be None .*'timestep'",
        ),
        (
            "unet/config.json",
            "down_block_types",
            ["AttnDownBlock2D"],
            r"down_block_types of the unet must be one of",
        ),
        ("vae/config.json", "act_fn", "relu", r"act_fn of the vae must be 'silu' for ldm, got 'relu'"),
        ("text_encoder/config.json", "hidden_act", "relu", r"hidden_act of the text encoder must be one of"),
        (
            "scheduler/scheduler_config.json",
            "prediction_type",
            "flow",
            r"prediction_type of the scheduler must be one",
        ),
        (
            "scheduler/scheduler_config.json",
            "thresholding",
            True,
            r"thresholding of the scheduler must be False",
        ),
    ],
)
def test_options_that_our_nets_do_not_have_are_named(
    file: str, key: str, value: Any, says: str, folder: Path
):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=says):
        load_model(folder)


def test_a_config_that_lacks_something_is_named(folder: Path):
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["block_out_channels"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"folder: its config lacks or garbles 'block_out_channels'"):
        load_model(folder)


def test_a_folder_without_an_index_and_a_path_to_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is no folder of diffusers: it has no model_index\.json"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model file at .*absent"):
        load_model(tmp_path / "absent")


def test_a_hub_id_without_a_network_is_one_clear_error():
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder owner/model, and it could not be had from the hub \("
    ):
        load_model("owner/model")


def test_a_hub_id_with_a_network_is_downloaded(
    folder: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append(name) or str(folder)
    )
    assert torch.equal(weight(load_model("owner/model")), weight(model))
    assert asked == ["owner/model"]
